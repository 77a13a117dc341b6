import inspect
import re
import subprocess
import sys

import pytest

from attncourse import side_by_side
from attncourse.reference import flash

LEFT = '''
def left(a, b):
    """Not shown."""
    n = len(a)
    total = 0  # nothing yet
    for x in a:
        total += x
        seen = x
    return total
'''
RIGHT = """
@decorated
def right(
    a_ptr,
    b_ptr,
):
    base = a_ptr
    total = 0
    for tile in range(3):
        extra = load(a_ptr < tile)
        total += extra
    store(total)
"""


def pairs(rows):
    return [(left.text.strip(), right.text.strip()) for left, right, matched in rows if matched]


def beside(**words):
    return side_by_side.SideBySide(LEFT, RIGHT, titles=("one", "other"), **words)


def test_lines_that_set_the_same_name_share_a_row():
    shown = beside(same={"for x": "for tile", "return": "store"})
    assert pairs(shown.rows) == [
        ("total = 0  # nothing yet", "total = 0"),
        ("for x in a:", "for tile in range(3):"),
        ("total += x", "total += extra"),
        ("return total", "store(total)"),
    ]


def test_nothing_is_lost_and_the_order_stays():
    rows = beside().rows
    for column, source in ((0, LEFT), (1, RIGHT)):
        shown = [row[column].text.strip() for row in rows if row[column].text]
        written = [line.strip() for line in source.splitlines() if line.strip()]
        assert shown == written[-len(shown) :]
    assert next(row[0].text.strip() for row in rows) == "n = len(a)"


def test_signature_and_docstring_are_left_out():
    text = str(beside())
    assert "Not shown" not in text and "a_ptr," not in text and "decorated" not in text


def test_headings_and_notes_stand_where_they_belong():
    shown = beside(
        same={"for x": "for tile", "return": "store"},
        steps={"for x": "The loop"},
        notes={"seen": "only here", "extra": "only there", "total": "never beside a partner"},
    )
    text = shown._repr_html_()
    assert text.index("nothing yet") < text.index("The loop") < text.index("range(3)")
    assert "only here" in text and "only there" in text
    assert "never beside a partner" not in text
    assert "-- 1 · The loop" in str(shown)


def test_code_is_escaped_and_names_are_set_off():
    text = beside()._repr_html_()
    assert "a_ptr &lt; tile" in text
    assert "<b>total</b> = 0" in text
    assert len(re.findall("<tr", text)) == len(re.findall("</tr>", text))


def test_a_page_that_lost_what_jupyterlab_does_not_know_keeps_its_indentation_and_its_letters():
    """A stored page is cleaned: of each style that is left, the last one holds."""
    text = beside()._repr_html_()
    (cell,) = re.findall(r"<td style=\"([^\"]*)\">((?:&nbsp;)*)<b>total</b> \+= x", text)
    assert cell[1] == 4 * "&nbsp;"  # in the text, since some show a page without any style
    known = [re.sub("[^;]*[(:](?:var|calc)[(][^;]*", "", style) for style in (cell[0], table(text))]
    assert dict(one.split(":") for one in known[0].split(";"))["padding-left"] == "5.1em"
    assert "text-indent:-4.8em" in known[0] and "font-family:monospace;" in known[1]
    assert not re.findall("[0-9]ch|anywhere", text)


def table(text):
    return re.search('<table style="([^"]*)"', text)[1]


def test_a_step_has_one_colour_in_both_columns_and_another_than_the_next():
    same = {"for x": "for tile", "return": "store"}
    text = beside(same=same, steps={"total =": "Begin", "for x": "Walk"})._repr_html_()
    begin, walk = side_by_side.STEPS[:2]
    rows = text.split("<tr")
    (row,) = [row for row in rows if "nothing yet" in row]
    assert f"background:rgba({begin},0.3)" in row and row.count(f"solid rgba({begin}") == 2
    (row,) = [row for row in rows if "extra</b> = load" in row]  # only there
    assert "background:none" in row and row.count(f"solid rgba({walk}") == 1
    assert len(set(side_by_side.STEPS)) == 7


def test_helpers_are_explained_in_their_own_words_in_order():
    kernel = side_by_side.function("kernels/flash.py", "_flash_fwd_kernel")
    said = side_by_side.helpers(kernel, "kernels/_parts/tiles.py")
    assert list(said) == [
        "load_tile", "pass_infinity", "key_tiles", "visible_keys", "hide", "finite", "nonzero",
        "store_tile",
    ]  # fmt: skip
    assert said["store_tile"].startswith("Store a tile at the given rows")


def test_a_heading_or_note_without_a_line_is_refused():
    with pytest.raises(ValueError, match="no line begins with 'gone'"):
        beside(steps={"gone": "?"})


def test_a_kernel_is_read_without_triton():
    script = (
        "import sys; sys.modules['triton'] = None; sys.modules['torch'] = None\n"
        "from attncourse import side_by_side\n"
        "print(side_by_side.function('kernels/flash.py', '_flash_fwd_kernel'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("def _flash_fwd_kernel(")
    assert "@triton.jit" not in done.stdout
    with pytest.raises(LookupError, match=r"kernels/flash.py has no function nothing"):
        side_by_side.function("kernels/flash.py", "nothing")


def test_the_twins_of_flash_have_the_same_names_in_the_same_order():
    shown = side_by_side.SideBySide(
        inspect.getsource(flash._query_tile),
        side_by_side.function("kernels/flash.py", "_flash_fwd_kernel"),
        titles=("NumPy", "Triton"),
    )
    matched = [left.key for left, _, same in shown.rows if same]
    names = ["acc", "running_max", "running_sum", "scores", "new_max", "pivot", "weights"]
    names += ["rescale", "running_sum", "acc *=", "running_max", "running_sum", "acc /="]
    assert [key for key in matched if key in names] == names
