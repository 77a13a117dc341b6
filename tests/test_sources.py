"""The text sources are read as jupytext reads them, with which an author may open them."""

from pathlib import Path

import jupytext
import pytest
from covering import by_day

from attncourse.sources import parsed

ROOT = Path(__file__).parents[1]
SOURCES = sorted(ROOT.glob("*/_source/*.py"))
EVERYTHING = """\
# %% [markdown] covers="F1 F2-F4"
# # A title
#
#   indented, and a comment: # no heading
#no space

# %%
# a comment, not markdown

x = "# %% in a string"


# %% folded=true tags=["nbval-ignore-output", "other"]

print(x)
# %% role="answer" exercise="04.V1"
# %% [markdown]
# The end
"""


@pytest.mark.parametrize(
    "text",
    [EVERYTHING, *(path.read_text(encoding="utf-8") for path in by_day(SOURCES[3:4], SOURCES))],
    ids=["everything", *(path.stem for path in by_day(SOURCES[3:4], SOURCES))],
)
def test_cells_are_those_of_jupytext(text):
    layout = ("lines_to_", "cell_marker")  # jupytext's notes, for writing the file again
    expected = [
        (
            cell.cell_type,
            cell.source,
            {name: x for name, x in cell.metadata.items() if not name.startswith(layout)},
        )
        for cell in jupytext.reads(text, fmt="py:percent").cells
    ]
    cells, markers = parsed(text)
    assert [(cell.cell_type, cell.source, cell.metadata) for cell in cells] == expected
    assert [text.splitlines()[line - 1][:4] for line in markers] == ["# %%"] * len(expected)


@pytest.mark.parametrize(
    "marker", ["# %% A title", "# %% folded=True", '# %% role="setup" folded', "# %% [code"]
)
def test_a_marker_that_is_none_is_named_with_its_line(marker):
    with pytest.raises(ValueError, match=r'^3: a marker is like `# %% name="value"`, got `# %%'):
        parsed(f"# %%\n1\n{marker}\n2\n")
