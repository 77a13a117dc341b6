"""Pictures of errors: seeds and means, the bar that costs nothing, and a scan's tiles."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from attncourse import plots
from attncourse.plots import accuracy

COUNTS = [32, 64, 128]


def live(**knobs):
    errors = {
        "ours": np.array([[1.0, 0.5, 0.25], [3.0, 1.5, 0.75]]),
        "printed": np.full((1, 3), np.nan),
    }
    words = {"words": ("worse than nothing", "better"), "x_label": "m", "y_label": "error"}
    return plots.LiveErrors(COUNTS, errors, 0.6, **words, low=0.01, high=10, **knobs), errors


def test_the_band_holds_every_seed_and_the_mean_has_the_name():
    drawn, _ = live()
    [band] = drawn.bands["ours"].get_paths()
    around = [[32, 1.0], [64, 0.5], [128, 0.25], [128, 0.75], [64, 1.5], [32, 3.0]]
    np.testing.assert_allclose(band.vertices[:6], around)
    np.testing.assert_allclose(drawn.means["ours"].get_ydata(), [2.0, 1.0, 0.5])
    assert len(drawn.bands["printed"].get_paths()) == 0
    assert [text.get_text() for text in drawn.names.values()] == ["ours", "printed"]


def test_what_lies_above_the_bar_is_shaded_and_said():
    drawn, errors = live()
    assert (drawn.shade.get_y(), drawn.shade.get_height()) == (0.6, pytest.approx(9.4))
    heights = {text.get_text(): text.get_position()[1] for text in drawn.ax.texts}
    assert heights["worse than nothing"] > 0.9 and heights["better"] < 0.1
    drawn.update(errors, 2.0, "another", {"ours": "m^-1.0"})
    assert (drawn.shade.get_y(), drawn.shade.get_height()) == (2.0, pytest.approx(8.0))
    assert set(drawn.bar.get_ydata()) == {2.0}
    assert drawn.ax.get_title(loc="left") == "another"
    assert [text.get_text() for text in drawn.names.values()] == ["ours\nm^-1.0", "printed"]


def test_words_stand_where_no_curve_is():
    words = {"words": ("above", "below"), "x_label": "", "y_label": "", "low": 1, "high": 1e4}
    rising = np.geomspace(1, 1e4, 9)
    drawn = plots.LiveErrors(np.arange(9), {"a": rising}, 100, log_x=False, **words)
    assert [text.get_ha() for text in drawn.words] == ["left", "right"]
    drawn.update({"a": rising[::-1]}, 100)
    assert [text.get_ha() for text in drawn.words] == ["right", "left"]
    drawn.update({"a": 0 * rising}, 100)  # a value of 0 lies below any logarithmic axis
    assert not drawn.names  # one curve needs no name


def test_each_band_has_its_name_at_its_end():
    drawn, errors = live()
    name = drawn.names["ours"]
    assert name.get_position()[1] == pytest.approx(np.log(50) / np.log(1000))
    assert name.get_visible() and not drawn.names["printed"].get_visible()
    drawn.update({"ours": errors["ours"], "printed": errors["ours"]}, 0.6)
    heights = sorted(text.get_position()[1] for text in drawn.names.values())
    assert heights[1] - heights[0] > 0.05
    drawn.update({"ours": errors["ours"], "printed": errors["ours"]}, 0.6, notes={"ours": "note"})
    heights = sorted(text.get_position()[1] for text in drawn.names.values())
    assert heights[1] - heights[0] > 0.1  # two lines of words


def test_axes_stay_where_they_are():
    drawn, errors = live()
    drawn.update({label: 100 * values for label, values in errors.items()}, 0.6)
    assert drawn.ax.get_ylim() == (0.01, 10)
    assert live(log_x=False)[0].ax.get_xscale() == "linear"


@pytest.mark.parametrize(
    ("value", "text"), [(0.001, "0.001"), (1.0, "1"), (1000, "1000"), (1e6, "10⁶"), (1e-7, "10⁻⁷")]
)
def test_decades_are_written_as_people_do(value, text):
    assert accuracy.decade(value) == text


def test_the_function_draws_what_the_class_does():
    _, errors = live()
    words = {"words": ("a", "b"), "x_label": "m", "y_label": "error", "low": 0.01, "high": 10}
    ax = plots.errors(COUNTS, errors, 0.6, **words)
    assert ax.get_xlabel() == "m"


def test_a_redraw_takes_less_than_a_new_picture():
    def seconds(drawn, errors, bar):
        start = time.process_time()  # of this process: another one may keep the machine busy
        if drawn is None:
            drawn, _ = live()
            plots.freeze(drawn.figure)
        drawn.update(errors, bar)
        plots.png(drawn.figure)
        return time.process_time() - start

    drawn, errors = live()
    plots.freeze(drawn.figure)
    bars = np.linspace(0.1, 1, 8)
    moved = [seconds(drawn, errors, bar) for bar in bars]
    new = [seconds(None, errors, bar) for bar in bars]
    print(min(moved), min(new))
    assert min(moved) < 0.7 * min(new)


def scan_trace():
    """Two programs; each loads a tile of q, then one of k, twice."""
    accesses = [
        SimpleNamespace(
            kernel="scan", program=(program, 0, 0), kind="load", tensor=tensor,
            rows=(first, first + 2), columns=(0, 4), elements=8, bytes=32, out_of_bounds=0,
        )
        for program in range(2)
        for first in (4 * program, 4 * program + 2)
        for tensor in ("q", "k")
    ]  # fmt: skip
    launch = SimpleNamespace(kernel="scan", grid=(2, 1, 1), shapes={"q": (8, 4), "k": (8, 4)})
    return SimpleNamespace(launches=[launch], accesses=accesses)


def test_tiles_of_a_scan_meet_only_in_step():
    whole, in_step = (plots.LiveTiles(scan_trace(), in_step=flag) for flag in (False, True))
    assert (whole.scores.get_array()[:4, :4] == 2).all()
    expected = np.kron(np.eye(2), np.full((2, 2), 2))
    assert (in_step.scores.get_array()[:4, :4] == expected).all()
    in_step.update(1)
    assert (in_step.scores.get_array()[4:, 4:] == expected).all()
    assert (in_step.scores.get_array()[:4, :4] == expected / 2).all()
