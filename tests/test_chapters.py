"""The form of a chapter, read from its source: how long it is, what it may show, where it leads."""

import ast
import functools
import itertools
import re
from pathlib import Path

import pytest

from attncourse.sources import read

ROOT = Path(__file__).parents[1]
SOURCES = [
    f"{folder}/{path.stem}"
    for folder in ("notebooks", "solutions")
    for path in sorted((ROOT / folder / "_source").glob("[0-9][0-9]_*.py"))
]
CHAPTERS = [name for name in SOURCES if name.startswith("notebooks/")]
LESSONS = [name for name in CHAPTERS if name[10:12] not in ("00", "17")]  # not the frame
LINK = re.compile(r"\]\(([^()\s]+)\)")
NOT_WORDS = re.compile(r"\$\$.*?\$\$|<!--.*?-->", re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@functools.cache  # not when it is imported: parsing all takes a second
def cells(name):
    folder, _, stem = name.partition("/")
    return read(ROOT / folder / "_source" / f"{stem}.py", ROOT).cells


def code(name):
    return [cell.source for cell in cells(name) if cell.cell_type == "code"]


def prose(name):
    return [cell.source for cell in cells(name) if cell.cell_type == "markdown"]


def anchors(name):
    """What JupyterLab calls the headings of a notebook."""
    return {
        title.strip().replace(" ", "-") for text in prose(name) for title in HEADING.findall(text)
    }


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_can_be_read_in_one_sitting(name):
    assert len(cells(name)) <= 120
    assert [text for text in prose(name) if len(NOT_WORDS.sub("", text).split()) > 120] == []


@pytest.mark.parametrize("name", LESSONS)
def test_at_most_three_cards_and_never_two_in_a_row(name):
    cards = ["claims.check(" in text for text in code(name)]
    assert sum(text.count("claims.check(") for text in code(name)) <= 3
    assert not any(one and two for one, two in itertools.pairwise(cards))


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_asks_for_three_to_five_guesses(name):
    assert 3 <= sum(text.count("widgets.guess(") for text in code(name)) <= 5


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_code_of_a_guess_is_folded_since_it_holds_the_answer(name):
    guesses = [cell for cell in cells(name) if "widgets.guess(" in cell.source]
    assert all(cell.metadata.get("folded") for cell in guesses)


@pytest.mark.parametrize("name", SOURCES)
def test_links_lead_to_a_file_and_to_a_heading_in_it(name):
    folder = Path(name).parent
    folders = [folder] if folder.name == "notebooks" else [folder, Path("exercises")]
    for text in prose(name):
        for link in LINK.findall(text):
            target, _, anchor = link.partition("#")
            if link.startswith("https://"):
                continue
            for start in folders:
                path = (ROOT / start / target).resolve() if target else ROOT / f"{name}.ipynb"
                assert path.exists() or path.suffix == ".ipynb", link
                if path.suffix == ".ipynb":
                    place = "notebooks" if path.parent.name == "notebooks" else "solutions"
                    assert f"{place}/{path.stem}" in SOURCES, link
                    assert not anchor or anchor in anchors(f"{place}/{path.stem}"), link


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("solutions/")])
def test_each_exercise_is_linked_from_its_chapter_and_links_back(name):
    number = name[10:12]
    parts = [chapter for chapter in CHAPTERS if chapter[10:12] == number]
    text = "\n".join(part for chapter in parts for part in prose(chapter))
    prompts = {}
    for cell in cells(name):
        if cell.metadata.get("role") == "prompt":
            prompts.setdefault(cell.metadata["exercise"], []).append(cell.source)
    for exercise, texts in prompts.items():
        linked = rf"\[[^\]]*\b{re.escape(exercise)}\b[^\]]*\]\(\.\./exercises/{number}_"
        assert re.search(linked, text), exercise
        assert f"](../notebooks/{number}_" in "".join(texts), exercise


class Bound(ast.NodeVisitor):
    """The names that a cell binds in its notebook, whether in a loop or not."""

    def __init__(self, tree):
        self.names = set()
        self.visit(tree)

    def visit_FunctionDef(self, node):
        self.names.add(node.name)

    visit_ClassDef = visit_FunctionDef

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Store):
            self.names.add(node.id)

    def visit_Import(self, node):
        self.names |= {(each.asname or each.name).partition(".")[0] for each in node.names}

    visit_ImportFrom = visit_Import

    def leave(self, node):
        """What these bind is their own."""

    visit_Lambda = visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = leave


def read_by(function):
    """The names that a function takes from its notebook when it is called."""
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    own = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    return {node.id for node in names} - own


def read_later(tree, functions):
    """The names that the widgets of a cell read when a reader moves or commits something."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    widgets = [call for call in calls if ast.unparse(call.func).startswith("widgets.")]
    named = {node.id for call in widgets for node in ast.walk(call) if isinstance(node, ast.Name)}
    waiting = [node for call in widgets for node in ast.walk(call) if isinstance(node, ast.Lambda)]
    waiting += [functions[name] for name in named & functions.keys()]
    names, seen = set(), []
    while waiting:
        function = waiting.pop()
        if function not in seen:
            seen.append(function)
            names |= read_by(function)
            waiting += [functions[name] for name in read_by(function) & functions.keys()]
    return names


def rebound(texts):
    """What a widget reads after "run all", but a later cell has bound anew: a line for each."""
    trees, functions = [ast.parse(text) for text in texts], {}
    for number, tree in enumerate(trees):
        functions |= {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        names = read_later(tree, functions)
        for text, later in zip(texts[number + 1 :], trees[number + 1 :], strict=True):
            for name in sorted(names & Bound(later).names):
                yield f"{name}: read by {texts[number]!r}, bound anew by {text!r}"


@pytest.mark.parametrize("name", CHAPTERS)
def test_what_a_widget_reads_is_not_bound_anew_further_down(name):
    assert list(rebound(code(name))) == []


def test_a_name_bound_anew_is_found_through_functions_loops_and_lambdas():
    cells = ["n = 3", "def f():\n    return n", "widgets.guess('?', lambda: f())"]
    assert list(rebound([*cells, "m = [n for n in range(3)]", "g = lambda n: n"])) == []
    assert list(rebound(cells)) == []
    for last in ("n = 4", "for n in (1, 2):\n    pass", "def n():\n    pass", "import n.m"):
        assert len(list(rebound([*cells, last]))) == 1
    assert len(list(rebound(["def draw(w):\n    return n", "widgets.explore(draw)", "n = 4"]))) == 1
