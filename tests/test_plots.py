import importlib.util
import io
import itertools
import subprocess
import sys
import time

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from attncourse import masks, plots
from attncourse.cost import DEVICES, Device
from attncourse.measure import Timing
from attncourse.plots import base, lines
from attncourse.reference import window


def band(n, w=3, **knobs):
    return window.mask(n, n, window=w, **knobs)


def pixels(fig):
    return np.asarray(Image.open(io.BytesIO(plots.png(fig))).convert("RGB")).astype(int)


def close(colour, wanted):
    return np.abs(colour - 255 * np.array(matplotlib.colors.to_rgb(wanted))).max() < 3


def cell_colour(ax, row, column):
    """The colour in the middle of one cell of a drawn heat map."""
    image = pixels(ax.get_figure())
    x, y = ax.transData.transform((column, row))
    return image[image.shape[0] - 1 - int(y), int(x)]


def test_a_picture_leaves_pyplot_and_its_settings_alone():
    code = (
        "import matplotlib, numpy as np; matplotlib.use('agg')\n"
        "before = dict(matplotlib.rcParams)\n"
        "from attncourse import plots; ax = plots.heatmap(np.eye(4, dtype=bool))\n"
        "plots.bars({'a': 1.0}); plots.growth([1, 2], {'a': [1.0, 2.0]})\n"
        "import sys; assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert dict(matplotlib.rcParams) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_heatmap_names_its_axes_and_shows_each_cell():
    mask = band(8, 1)
    ax = plots.heatmap(mask, title="a band")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("key j", "query i")
    assert ax.get_title(loc="left") == "a band"
    for row, column in ((0, 0), (0, 7), (7, 0), (3, 4), (3, 5)):
        wanted = plots.INK if mask[row, column] else plots.PAPER
        assert close(cell_colour(ax, row, column), wanted), (row, column)


def test_the_legend_of_a_mask_is_in_words():
    ax = plots.heatmap(band(4))
    (legend,) = ax.get_figure().legends
    assert [text.get_text() for text in legend.get_texts()] == ["may attend", "masked"]


def test_few_cells_are_crisp_and_many_show_their_density():
    ax = plots.heatmap(band(6, 1))
    assert len(ax.collections[0].get_segments()) == 10  # lines between cells
    image = plots.heatmap(band(1024, 200, dilation=2))
    assert len(image.collections[0].get_segments()) == 0
    shade = cell_colour(image, 512, 512)
    ink, paper = (255 * np.array(matplotlib.colors.to_rgb(c)) for c in (plots.INK, plots.PAPER))
    assert (shade > ink + 30).all() and (shade < paper - 30).all()  # half of the keys


def test_heatmap_of_numbers_has_a_colour_bar_with_its_meaning():
    ax = plots.heatmap(np.eye(5), label="weight", low=0, high=2)
    bar = ax.get_figure().axes[1]
    assert bar.get_ylabel() == "weight" and bar.get_ylim() == (0, 2)


def test_live_heatmap_takes_another_shape_without_moving_the_axes():
    live = plots.LiveHeatmap(band(16))
    plots.freeze(live.figure)
    before = pixels(live.figure)
    box = live.ax.get_position().bounds
    live.update(window.mask(10, 24, window=3), "other")
    assert live.ax.get_position().bounds == box
    assert live.ax.get_xlim() == (-0.5, 23.5) and live.ax.get_ylim() == (9.5, -0.5)
    assert (pixels(live.figure) != before).any()
    assert live.ax.get_title(loc="left") == "other"


def test_live_mask_counts_the_keys_of_each_query():
    live = plots.LiveMask(band(8, 1))
    assert live.line.get_xdata()[::2].tolist() == [2, 3, 3, 3, 3, 3, 3, 2]
    live.update(band(6, 1, causal=True))
    assert live.line.get_xdata()[::2].tolist() == [1, 2, 2, 2, 2, 2]
    live.update(np.zeros((3, 3), dtype=bool))
    assert live.line.get_xdata().tolist() == [0] * 6


def test_graph_draws_one_line_for_each_pair_and_aligns_the_last_query():
    mask = window.mask(2, 5, window=1)
    live = plots.LiveGraph(mask)
    segments = {tuple(map(tuple, s.astype(int).tolist())) for s in live.edges.get_segments()}
    assert segments == {((i + 3, 1), (j, 0)) for i, j in zip(*np.nonzero(mask), strict=True)}


def test_graph_picks_out_one_query():
    live = plots.LiveGraph(band(8))
    live.update(band(8), query=2)
    strong = [c for c in live.edges.get_colors() if c[3] == 1]
    assert len(strong) == band(8)[2].sum()
    filled = [np.allclose(colour, plots.INK) for colour in live.nodes.get_facecolors()]
    assert sum(filled) == 1 + band(8)[2].sum()


def test_arcs_end_at_the_keys_and_name_the_parts():
    ax = plots.arcs(16, 8, {"window": [7, 9], "global": [0]})
    ends = [{round(float(x)) for x in line.get_xdata()[[0, -1]]} for line in ax.lines]
    assert ends == [{7, 8}, {8, 9}, {0, 8}]
    assert ax.lines[0].get_linestyle() != ax.lines[2].get_linestyle()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["window", "global"]
    (tokens,) = ax.collections
    dark = [np.allclose(colour, plots.INK) for colour in tokens.get_facecolors()]
    assert np.flatnonzero(dark).tolist() == [0, 7, 8, 9]


def test_an_empty_part_keeps_its_style_for_another_picture():
    both = plots.arcs(16, 8, {"window": [7], "random": [2], "global": [0]})
    one = plots.arcs(16, 8, {"window": [7], "random": [], "global": [0]})
    styles = [
        {line.get_label(): (line.get_linestyle(), line.get_color()) for line in ax.lines}
        for ax in (both, one)
    ]
    assert styles[1] == {part: styles[0][part] for part in ("window", "global")}


def test_reach_counts_tokens_in_words():
    reached = np.stack([masks.reach(band(9, 1), layers)[4] for layers in range(4)])
    live = plots.LiveReach(reached)
    assert [text.get_text() for text in live.counts] == ["1 of 9", "3 of 9", "5 of 9", "7 of 9"]
    live.update(reached[:2])
    assert [text.get_text() for text in live.counts] == ["1 of 9", "3 of 9"]
    assert live.ax.get_ylim() == (-0.5, 1.5)


def test_bars_write_their_values_out():
    live = plots.LiveBars({"full": Timing(0.01, 0.009, 0.02, 5), "window": 0.001}, unit="s")
    assert [text.get_text() for text in live.texts] == ["10 ms", "1 ms"]
    live.update({"full": 0.002, "window": 0.001})
    assert [bar.get_width() for bar in live.bars] == [0.002, 0.001]
    assert plots.bars({"a": 2**20}, unit="bytes").texts[0].get_text() == "1 MiB"


def test_three_kinds_of_cells_have_a_legend_of_three_words():
    live = plots.LiveHeatmap(np.arange(9).reshape(3, 3) % 3, words=("skipped", "hidden", "counts"))
    legend = live.figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["counts", "hidden", "skipped"]
    shown = [patch.get_facecolor() for patch in legend.get_patches()]
    assert shown == [tuple(live.image.cmap(kind)) for kind in (2, 1, 0)]
    assert len(live.figure.axes) == 1  # no colour bar


def test_bars_of_bytes_have_ticks_at_powers_of_two():
    live = plots.LiveBars({"a": 65 * 2**20, "b": 80 * 2**20}, unit="bytes")
    assert {0, 2**25, 2**26} <= set(live.ax.get_xticks())
    live.update({"a": 3.0, "b": 1.0})
    assert {0, 1, 2, 3} <= set(live.ax.get_xticks())


def test_growth_shows_spread_and_prediction_on_logarithmic_axes():
    timing = Timing(2.0, 1.5, 4.0, 5)
    ax = plots.growth([1, 2], {"full": [1.0, timing]}, {"full": [1.0, 4.0]}, unit="s")
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["full"]
    assert ax.get_legend().get_title().get_text() == "points: measured\nlines: predicted"
    low, high = ax.containers[0][2][0].get_segments()[1][:, 1]
    assert (low, high) == pytest.approx((1.5, 4.0))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2"]


def test_growth_names_its_curves_in_the_order_in_which_they_end():
    ends = {"low": 1.0, "high": 9.0, "middle": 4.0, "gone": float("nan"), "top": 20.0}
    ax = plots.growth([1, 2], {label: [0.5, end] for label, end in ends.items()})
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["top", "high", "middle", "low", "gone"]
    assert not ax.get_legend().get_title().get_text()
    colours = np.array([container[0].get_color() for container in ax.containers])
    apart = np.abs(colours[:, None] - colours).sum(axis=-1)
    assert apart[~np.eye(5, dtype=bool)].min() > 0.3


def test_growth_dashes_each_prediction_in_its_own_way():
    labels = "abcdef"
    ax = plots.growth([1, 2], {}, {label: [1.0, 2.0] for label in labels})
    dashes = {str(line._unscaled_dash_pattern) for line in ax.lines}
    assert len(dashes) == len(labels) and str((0, None)) not in dashes


def test_growth_leaves_missing_points_out():
    ax = plots.growth([1, 2, 4], {"full": [1.0, float("nan"), 3.0]}, unit="bytes")
    plots.png(ax.get_figure())
    assert ax.get_ylim()[1] < 10


def test_budget_marks_the_length_and_names_the_devices():
    n = 2 ** np.arange(9, 15)
    devices = [("A100 40 GB", 40e9), ("RTX 4090", 24e9)]
    live = plots.LiveBudget(n, {"scores": 4.0 * n**2}, devices, at=1024)
    words = [text.get_text() for text in live.ax.texts]
    assert {"RTX 4090 24 GB", "A100 40 GB", "4 MiB", "more than any of them"} <= set(words)
    live.update({"scores": 8.0 * n**2}, at=3000)
    ((x, y),) = live.points.get_offsets()
    assert x == 3000 and y == pytest.approx(8 * 3000**2, rel=1e-6)


def test_a_budget_of_two_curves_has_their_bytes_where_they_cannot_overlap():
    n = 2 ** np.arange(9, 15)
    live = plots.LiveBudget(n, {"all": 4.0 * n**2, "half": 2.0 * n**2}, [("GPU", 1e9)], at=1024)
    words = [text.get_text() for text in live.legend.get_texts()]
    assert words == ["all: 4 MiB", "half: 2 MiB"] and not live.text.get_text()
    live.update({"all": 8.0 * n**2, "half": 4.0 * n**2})
    assert [text.get_text() for text in live.legend.get_texts()] == ["all", "half"]


def test_a_line_that_ends_early_has_its_name_at_its_end():
    fig = plots.benchmark(toy_record(full=(64, 128, 256), scoring=(64, 128)))
    for ax in fig.axes:
        beside = {text.get_text() for text in ax.texts if text.get_transform() == ax.transAxes}
        assert beside == {"full"}
        (note,) = [text for text in ax.texts if text.get_text() == "scoring"]
        assert note.xy[0] == 128
    plots.benchmark(toy_record(full=()))  # nothing was measured: nothing is drawn
    few = plots.benchmark(toy_record(full=(64, 128), scoring=(64, 128)), mechanisms={"scoring"})
    assert {text.get_text() for ax in few.axes for text in ax.texts} == {"scoring"}


def toy_record(**lengths):
    timing = {"median": 1e-3, "low": 1e-3, "high": 1e-3, "repeats": 5}
    rows = [
        {"mechanism": stem, "implementation": "NumPy", "n": n, "batch": 1, "heads": 1, "width": 64,
         "causal": False, "mode": "forward", "knobs": {}, "seconds": timing, "peak_bytes": 64 * n}
        for stem, all_n in lengths.items()
        for n in all_n or [64]
    ]  # fmt: skip
    for row in rows if not any(lengths.values()) else ():
        del row["seconds"]
    return {"settings": {"device": "cpu", "dtype": "float32"}, "measurements": rows}


def test_many_works_under_a_roof_are_named_in_a_legend():
    device = DEVICES["H100 80 GB"]
    few = plots.LiveRoofline(device, dict.fromkeys("abc", 1.0))
    many = plots.LiveRoofline(device, dict.fromkeys("abcd", 1.0))
    assert few.ax.get_legend() is None and set(few.texts) == set("abc")
    assert not many.texts
    assert [text.get_text() for text in many.ax.get_legend().get_texts()] == list("abcd")


def test_titles_of_the_gallery_keep_apart():
    fig = plots.gallery(n=16)
    fig.canvas.draw()
    titles = [ax._left_title.get_window_extent() for ax in fig.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(titles) for b in titles[:i])


def test_a_logarithmic_axis_names_numbers_and_no_powers():
    drawn = plots.curves([1, 4, 1024], {"a": [0, 1, 2]}, x_label="", y_label="", log_x=True)
    drawn.figure.canvas.draw()
    names = [tick.get_text() for tick in drawn.get_xticklabels()]
    assert {"4", "64", "1,024"} <= set(names)


def test_the_gallery_has_one_full_square():
    """Latent attention has a mask too, and leaves out no pair."""
    full = [ax.get_title(loc="left") for ax in plots.gallery(n=64).axes if ax.images[0]._A.all()]
    assert full == ["Scaled dot-product attention"]


def test_heads_stand_in_rows_of_layers_on_one_scale():
    maps = np.random.default_rng(0).random((2, 3, 5, 5))
    titles = {(i, j): f"layer {i}, head {j}" for i in range(2) for j in range(3)}
    drawn = plots.heads(maps, titles)
    axes = [ax for ax in drawn.axes if ax.get_title(loc="left")]
    assert [ax.get_title(loc="left") for ax in axes] == list(titles.values())
    for ax, shown in zip(axes, maps.reshape(-1, 5, 5), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), shown)
        assert ax.images[0].norm(0.25) == 0.5  # the root, from 0 to 1 whatever is shown
    assert (
        plots.heads(np.ones((4, 4, 2, 2)), dict.fromkeys(np.ndindex(4, 4), "")).get_figheight() < 6
    )


def test_names_of_devices_keep_apart():
    heights = np.array([0.50, 0.51, 0.52, 0.90])
    places = lines.apart(heights, gap=0.05)
    assert np.diff(places).min() >= 0.05 - 1e-9
    assert abs(places - heights).max() < 0.08
    np.testing.assert_array_equal(lines.apart(np.array([0.1, 0.5])), [0.1, 0.5])
    crowded = lines.apart(np.array([0.1, 0.5, 0.98, 0.99, 1.0]), gap=0.1)
    np.testing.assert_allclose(crowded, [0.1, 0.5, 0.8, 0.9, 1.0])


def traced_window(shape, radius):
    """The trace of the window kernel on random tensors."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton has no wheels for this platform")
    from attncourse import trace
    from attncourse.kernels import window as kernel

    if not trace.INTERPRETED:
        pytest.skip("kernels run on the GPU here, where nothing is recorded")
    import torch

    q = torch.randn(shape)
    return trace.record(kernel.attention, q, q, q, window=radius)


def test_tiles_show_what_a_program_computes_and_says_so():
    traced = traced_window((1, 2, 128, 16), 20)
    live = plots.LiveTiles(traced)
    assert live.programs == len(traced.programs)
    sentence = live.draw(1)
    scores = live.scores.get_array()
    here, earlier = scores == 2, scores == 1
    mask = window.mask(128, 128, window=20)
    rows = here.any(axis=1)
    assert here[rows][mask[rows]].all()  # every pair of these queries that counts is computed
    assert earlier.any() and not (earlier & here).any()
    loaded = sum(
        access.bytes
        for access in traced.accesses
        if access.program == live.places[1] and access.kind == "load"
    )
    assert sentence.startswith(f"Program 1 of {live.programs} loads ")
    assert plots.in_unit(loaded, "bytes") in sentence


def test_tiles_refuse_a_trace_without_the_tensors():
    traced = traced_window((1, 1, 32, 16), 4)
    with pytest.raises(ValueError, match="no kernel of the trace has x and k"):
        plots.LiveTiles(traced, queries="x")


def test_curves_keep_their_labels():
    live = plots.LiveCurves(
        [1, 2, 3], {"a": [1, 2, 3], "b": [3, 2, 1]}, x_label="token", y_label="keys"
    )
    live.update({"a": [0, 0, 6], "b": [1, 1, 1]})
    assert live.ax.get_ylim()[1] > 6
    assert [line.get_label() for line in live.lines.values()] == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.00125, "s", "1.25 ms"),
        (2**26, "bytes", "64 MiB"),
        (12345.0, "keys", "12,345 keys"),
        (3, "", "3"),
    ],
)
def test_values_carry_their_unit(value, unit, text):
    assert plots.in_unit(value, unit) == text


@pytest.mark.parametrize(
    ("n", "ticks"), [(1, [0]), (6, [0, 1, 2, 3, 4, 5]), (256, [0, 64, 128, 192])]
)
def test_ticks_stand_at_powers_of_two(n, ticks):
    assert base.cell_ticks(n).tolist() == ticks


def test_a_redraw_of_a_mask_takes_under_half_of_a_new_one():
    def seconds(live, w):
        start = time.process_time()  # this process alone: other work on the machine does not count
        live = live or plots.LiveMask(band(256, 20))
        live.update(band(256, 20 + w), f"window {w}")
        plots.png(live.figure)
        return time.process_time() - start

    live = plots.LiveMask(band(256, 20))
    assert min(seconds(live, w) for w in range(11)) < 0.5 * min(seconds(None, w) for w in range(5))


def test_works_stand_on_the_roof_or_where_they_were_measured():
    device = Device("toy", 100.0, 10.0, 1, "made up")
    live = plots.LiveRoofline(device, {"copy": 1.0, "product": 50.0}, {"product": 40.0})
    assert plots.attainable(device, [1.0, 10.0, 50.0]).tolist() == [10.0, 100.0, 100.0]
    assert live.points["copy"].get_xydata().tolist() == [[1.0, 10.0]]
    assert live.points["product"].get_xydata().tolist() == [[50.0, 40.0]]
    assert live.drops["product"].get_xydata().tolist() == [[50.0, 40.0], [50.0, 100.0]]
    assert live.ridge_text.get_text() == "ridge: 10"
    live.update(Device("wider", 100.0, 50.0, 1, "made up"), {"copy": 1.0, "product": 50.0})
    assert live.points["copy"].get_xydata().tolist() == [[1.0, 50.0]]
    assert live.ridge_text.get_text() == "ridge: 2"


def test_names_of_scattered_points_do_not_overlap():
    points = {f"name {i}": (1.0 + i % 3, 5.0 + 0.01 * i) for i in range(18)}
    ax = plots.scatter(points, x_unit="GFLOPs", y_unit="bytes")
    ax.figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in ax.texts]  # without its leader
    assert len(boxes) == 18
    for one, other in itertools.combinations(boxes, 2):
        assert not one.padded(-1.5).overlaps(other.padded(-1.5))


def test_growth_calls_measured_what_no_label_names_otherwise():
    ax = plots.growth(
        [1, 2], {"ours": [1.0, 2.0], "theirs: printed": [1.0, 2.0]}, {"n": [1.0, 2.0]}
    )
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert sorted(labels) == ["n: predicted", "ours: measured", "theirs: printed"]


def test_a_dot_marks_one_place_on_each_curve():
    live = plots.LiveCurves([0, 2, 4], {"a": [0, 2, 4], "b": [1, 1, 1]}, x_label="", y_label="")
    assert not len(live.dots.get_xdata())
    live.update({"a": [0, 2, 4], "b": [1, 1, 1]}, at=3)
    assert (list(live.dots.get_xdata()), list(live.dots.get_ydata())) == ([3, 3], [3, 1])
    live.update({"a": [0, 2, 4], "b": [1, 1, np.nan]})  # a curve may end early
    assert live.ax.get_ylim()[1] == 1.1 * 4


def test_equal_ratios_are_equally_far_apart_on_a_logarithmic_axis():
    live = plots.LiveCurves([1, 2], {"a": [1, 200]}, x_label="", y_label="", log_y=True)
    live.update({"a": [4, 80]}, measured=None)
    assert live.ax.get_ylim() == pytest.approx((4 / 1.1, 80 * 1.1))


def test_what_was_measured_stands_beside_its_curve():
    said, found = {"a": [0, 2, 4], "b": [1, 1, 1]}, {"a": [0, 3, 9], "b": [2, 2, 2]}
    live = plots.LiveCurves([0, 2, 4], said, x_label="", y_label="", measured=found)
    assert live.ax.get_ylim()[1] == 1.1 * 9
    assert [text.get_text() for text in live.ax.get_legend().get_texts()] == [
        "a", "b", "a, measured", "b, measured",
    ]  # fmt: skip
    live.update(said, measured={"a": [0, 1, 1], "b": [5, 5, 5]})
    for label, mark in live.marks.items():
        assert mark.get_color() == live.lines[label].get_color() and mark.get_linestyle() == "None"
    assert list(live.marks["b"].get_ydata()) == [5, 5, 5]
    assert live.ax.get_ylim()[1] == 1.1 * 5


def test_the_legend_of_growth_covers_no_point():
    ax = plots.growth([1, 2], {"full": [2.0, 1.0], "window": [3.0, 1.0]}, {"full": [2.0, 1.0]})
    ax.get_figure().draw_without_rendering()
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1


def test_a_comparison_shows_what_was_measured_beside_what_was_predicted():
    from attncourse.cost import DEVICES

    def row(stem, n, seconds, **more):
        predicted = {"flops": 165_200_000 * n, "bytes_read": 0, "bytes_written": 0, "peak_bytes": n}
        timing = {"median": seconds, "low": seconds / 2, "high": 2 * seconds, "repeats": 5}
        measured = {"mechanism": stem, "implementation": "NumPy", "n": n, "predicted": predicted}
        return measured | {"seconds": timing, "peak_bytes": 2 * n, "error": 0.5} | more

    skipped = {"mechanism": "window", "implementation": "NumPy", "n": 8, "skipped": "long"}
    record = {
        "settings": {"dtype": "float16"},
        "measurements": [row("full", 4, 1.0), row("window", 4, 2.0), row("full", 8, 3.0), skipped],
    }
    live = plots.LiveComparison(record, DEVICES["RTX 4090"], 4)
    times, memory, errors = live.dots
    assert list(times.get_xdata()) == [1.0, 2.0] and list(times.get_ydata()) == [0, 1]
    quartiles = [0.5, 2.0, np.nan, 1.0, 4.0, np.nan]
    assert np.array_equal(live.quartiles.get_xdata(), quartiles, equal_nan=True)
    assert list(live.quartiles.get_ydata()) == [0, 0, 0, 1, 1, 1]
    assert np.allclose(live.bars[0].get_xdata(), 4e-6)  # 165.2 MFLOP a token at 165.2 TFLOP/s
    assert list(memory.get_xdata()) == [8, 8] and list(live.bars[1].get_xdata()) == [4, 4]
    assert list(errors.get_xdata()) == [0.5, 0.5] and not len(live.bars[2].get_xdata())
    assert {text.get_text() for text in live.whys} == {""}
    live.update(8)
    assert list(times.get_xdata()) == [3.0] and list(times.get_ydata()) == [0]
    for ax in live.figure.axes:  # the empty row says why, in each panel
        said = [(text.get_text(), text.get_position()[1]) for text in ax.texts if text.get_text()]
        assert said == [("skipped", 1)]
