"""Stored pictures: small, kept until they look different, and missed where a cell draws."""

import copy
import io

import nbformat
import numpy as np
import pytest
from PIL import Image, ImageDraw

from attncourse import pictures

IGNORED = {"nbval-ignore-output"}


def png(array_or_image):
    buffer = io.BytesIO()
    image = array_or_image
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image.clip(0, 255).astype(np.uint8))
    image.save(buffer, "PNG")
    return buffer.getvalue()


def labelled(text="512", at=20):
    """A picture with an area, a thin line of a colour of its own, and a small text."""
    image = Image.new("RGB", (150, 100), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((25, 25, 125, 75), fill="#00224e")
    draw.line((0, at, 150, at), fill="#21918c")
    draw.text((5, 85), text, fill="#222222")
    return image


# Small


def test_a_picture_is_stored_with_few_colours_and_all_its_pixels():
    rng = np.random.default_rng(0)
    smooth = np.asarray(labelled(), float) + rng.integers(-3, 4, (100, 150, 3))
    small = pictures.small(png(smooth))
    image = Image.open(io.BytesIO(small))
    assert image.mode == "P" and len(image.getcolors()) <= 64 and image.size == (150, 100)
    assert len(small) < len(png(smooth))
    assert np.abs(np.asarray(image.convert("RGB"), float) - smooth).max() <= 24
    assert pictures.small(png(smooth)) == small


def test_what_is_too_large_loses_pixels_until_it_is_not(monkeypatch):
    monkeypatch.setattr(pictures, "LIMIT", 2000)
    noise = png(np.random.default_rng(0).integers(0, 256, (60, 60, 3)))
    small = pictures.small(noise)
    assert len(small) <= 2000 and 30 <= Image.open(io.BytesIO(small)).width < 60
    monkeypatch.setattr(pictures, "LIMIT", 500)
    with pytest.raises(ValueError, match="takes over 500 even at half its width: draw less in it"):
        pictures.small(noise)
    with pytest.raises(ValueError, match="draw less in it"):
        pictures.small(png(np.asarray(Image.open(io.BytesIO(noise))).reshape(-1, 1, 3)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="draw less in it"):
        pictures.small(noise)
    with pytest.raises(ValueError, match="cannot be read"):
        pictures.small(b"no picture")


def test_what_is_transparent_is_stored_as_it_looks_on_white():
    clear = np.zeros((20, 20, 4))
    clear[5:] = 200, 0, 0, 51  # a fifth of it
    image = Image.open(io.BytesIO(pictures.small(png(clear)))).convert("RGB")
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((9, 9)) == (244, 204, 204)
    opaque = labelled().convert("RGBA")
    assert pictures.small(png(opaque)) == pictures.small(png(labelled()))


# Alike


def test_rounding_is_no_difference():
    rng = np.random.default_rng(0)
    exact = np.asarray(labelled(), float)
    noisy = exact + rng.integers(-2, 3, exact.shape)
    assert pictures.alike(pictures.small(png(exact)), pictures.small(png(noisy)))


@pytest.mark.parametrize(
    "other",
    [labelled("513"), labelled(at=21), labelled().resize((150, 101)), labelled().convert("L")],
)
def test_what_can_be_seen_is_a_difference(other):
    one, other = (pictures.small(png(image)) for image in (labelled(), other))
    assert pictures.alike(one, one) and not pictures.alike(one, other)
    assert not pictures.alike(one, b"damaged")


def test_a_pale_area_that_moves_a_little_is_a_difference():
    pale = np.full((100, 100, 3), 255)
    pale[:50] -= 12
    one, moved = (pictures.small(png(area)) for area in (pale, np.roll(pale, 1, 0)))
    assert pictures.alike(one, one) and not pictures.alike(one, moved)


# Measured


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["x = 1", "x"], [False, False]),
        (["from attncourse import measure, plots", "plots.show(a, 'b')"], [False, False]),
        (["t = measure.seconds(f)", "y = [t / 2 for n in z]", "y", "n"], [True, True, True, False]),
        (["t = measure.seconds(f)", "t = 3", "t"], [True, False, False]),
        (["times = {}", "for n in sizes:\n    times[n] = bench.latest(n)", "times"], [0, 1, 1]),
        (["def draw(k):\n    return measure.seconds(k)", "widgets.explore(draw, fig)"], [1, 1]),
        (["def draw(measure):\n    return measure", "widgets.explore(draw, fig)"], [0, 0]),
        (
            ["from attncourse.measure import seconds as s", "x = 1", "plots.show(s(f), 'b')"],
            [0, 0, 1],
        ),
        (["from attncourse import measure as m", "x = m.seconds(f)", "x"], [0, 1, 1]),
        (["import time as clock", "x = clock.time()"], [0, 1]),
        (["import time", "x = time.time()", "import time", "time.time()"], [0, 1, 0, 1]),
        (["import timeit", "x = timeit.timeit('1')", "x"], [0, 1, 1]),
        (["try:\n    from time import sleep as wait\nexcept E:\n    pass", "wait(1)"], [0, 1]),
        (["times = []", "times.append(measure.seconds(f))", "times", "f"], [0, 1, 1, 0]),
        (["d = {}", "for n in z:\n    d[n].append(time.time())", "d"], [0, 1, 1]),
        (["from attncourse import plots", "plots.show(time.time())", "plots.show(1)"], [0, 1, 0]),
        (["live.ticks = time.perf_counter();", "live"], [True, True]),
    ],
)
def test_measured_values_are_followed_through_the_cells(cells, expected):
    assert pictures.measured(cells) == [bool(one) for one in expected]


# Kept


def notebook(code, picture, words="A line.", tags=(), above="x = 1"):
    about = {"image/png": {"alt": words, "width": 240}}
    data = {"image/png": pictures.encoded(pictures.small(png(picture)))}
    outputs = [
        nbformat.v4.new_output("display_data", data=data, metadata=about),
        nbformat.v4.new_output("display_data", data={"text/plain": words}),
    ]
    first = nbformat.v4.new_code_cell(above, id="first")
    cell = nbformat.v4.new_code_cell(code, id=str(abs(hash(code))), outputs=outputs)
    cell.metadata.tags = list(tags)
    return nbformat.v4.new_notebook(cells=[first, cell])


def kept(new, before):
    """Whether a build stores what the one before stored; `before` has gone through one itself."""
    before = copy.deepcopy(before)
    pictures.keep(before, None, IGNORED)
    pictures.keep(new, before, IGNORED)
    return new.cells[1].outputs == before.cells[1].outputs


DRAWS, TIMES = "plots.show(mask, 'A line.')", "plots.show(measure.seconds(f), 'A line.')"


def test_a_picture_is_rewritten_when_it_looks_different():
    rng = np.random.default_rng(0)
    noisy = np.asarray(labelled(), float) + rng.integers(-2, 3, (100, 150, 3))
    before = notebook(DRAWS, labelled())
    assert notebook(DRAWS, noisy).cells[1].outputs != before.cells[1].outputs
    assert kept(notebook(DRAWS, noisy), before)
    assert not kept(notebook(DRAWS, labelled(at=30)), before)
    assert not kept(notebook(DRAWS, noisy, words="Another."), before)


def test_a_picture_of_times_stays_while_its_words_and_all_code_do(monkeypatch, tmp_path):
    before, new = notebook(TIMES, labelled()), labelled(at=30)
    assert kept(notebook(TIMES, new), before)
    assert not kept(notebook(TIMES, new, words="Another."), before)
    assert not kept(notebook(TIMES, new, above="x = 2"), before)
    assert not kept(notebook(TIMES + "  # more", new), before)
    pictures.keep(before, None, IGNORED)
    for name, same in (("attncourse/plots/base.py", True), ("lines.py", False)):
        if not same:
            (tmp_path / name).write_text("# drawn in another way")
            monkeypatch.setattr(pictures.plots, "__file__", str(tmp_path / "__init__.py"))
        drawn = notebook(TIMES, new)
        pictures.keep(drawn, before, IGNORED)
        assert (drawn.cells[1].outputs == before.cells[1].outputs) == same


def test_where_words_vary_too_they_stay_with_the_picture():
    before = notebook(TIMES, labelled(), "3 ms.", IGNORED)
    assert kept(notebook(TIMES, labelled(at=30), "4 ms.", IGNORED), before)
    assert not kept(notebook(TIMES, labelled(at=30), "4 ms.", IGNORED, above="x = 2"), before)


def test_what_a_learner_s_run_saved_is_not_kept():
    """It has the same pixels, uncompressed."""
    before = notebook(DRAWS, labelled())
    before.cells[1].outputs[0].data["image/png"] = pictures.encoded(png(labelled()))
    assert not kept(notebook(DRAWS, labelled()), before)


def test_of_a_cell_that_is_not_compared_pictures_and_their_words_are_stored():
    printed = nbformat.v4.new_output("stream", text="3 ms")
    picture, words = notebook(TIMES, labelled()).cells[1].outputs
    assert pictures.with_words([printed, picture, words, printed]) == [picture, words]
    assert pictures.with_words([picture, printed]) == [picture]
    assert pictures.with_words([printed]) == []


# Missed


@pytest.mark.parametrize(
    ("code", "drew", "stores", "says"),
    [
        (DRAWS, 1, 1, None),
        (DRAWS, 1, 0, "stores 0 of the 1 pictures that it drew"),
        (
            "for n in sizes:\n    plots.show(n, 'a')",
            3,
            1,
            "stores 1 of the 3 pictures that it drew",
        ),
        ("show(n, 'a')", 1, 0, "stores 0 of the 1 pictures that it drew"),
        (f"if traced:\n    {DRAWS}", 1, 0, "stores 0 of the 1 pictures that it drew"),
        (f"if traced:\n    {DRAWS}", 0, 1, None),
        ("widgets.guess('?', f, explain=lambda a: plots.show(a, 'b'))", 0, 0, None),
    ],
)
def test_a_cell_that_stores_fewer_pictures_than_when_it_was_built_is_named(
    code, drew, stores, says
):
    built = notebook(code, labelled())
    outputs = built.cells[1].outputs
    built.cells[1].outputs = outputs * drew
    pictures.count(built)
    assert built.cells[1].metadata.get("attncourse") == ({"pictures": drew} if drew else None)
    built.cells[1].outputs = outputs * stores
    assert list(pictures.complaints(built)) == ([] if says is None else [(1, says)])


@pytest.mark.parametrize("broken", ["", "!!!", "aGk=", "half"])
def test_a_picture_that_cannot_be_read_is_named(broken):
    built = notebook(DRAWS, labelled())
    data = pictures.stored(built.cells[1])[0].data
    whole = data["image/png"]
    data["image/png"] = whole[: len(whole) // 8 * 4] if broken == "half" else broken
    assert list(pictures.complaints(built)) == [(1, "stores a picture that cannot be read")]


def test_words_instead_of_a_picture_are_enough_under_a_condition():
    built = notebook(f"if recorded:\n    {DRAWS}\nelse:\n    print('none')", labelled())
    pictures.count(built)
    built.cells[1].outputs = [nbformat.v4.new_output("stream", text="none\n")]
    assert list(pictures.complaints(built)) == []


def test_a_picture_over_the_limit_is_named():
    built = notebook(DRAWS, labelled())
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3))
    built.cells[1].outputs[0].data["image/png"] = pictures.encoded(png(noise))
    ((index, says),) = pictures.complaints(built)
    assert index == 1 and says.endswith("bytes; at most 20000 are allowed")
    assert list(pictures.complaints(built, limit=None)) == []


def test_all_pictures_count_as_they_stand_in_the_files():
    built = notebook(DRAWS, labelled())
    (picture,) = pictures.stored(built.cells[1])
    assert pictures.all_bytes([built, built]) == 2 * len(picture.data["image/png"])
