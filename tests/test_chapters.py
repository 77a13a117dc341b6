"""The form of a chapter, read from its source: how long it is, what it may show, where it leads."""

import ast
import functools
import itertools
import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from prose import MOST_WORDS, words, words_of_a_prompt

from attncourse import coverage
from attncourse.sources import read

ROOT = Path(__file__).parents[1]
SOURCES = [
    f"{folder}/{path.stem}"
    for folder in ("notebooks", "solutions")
    for path in sorted((ROOT / folder / "_source").glob("[0-9][0-9]_*.py"))
]
CHAPTERS = [name for name in SOURCES if name.startswith("notebooks/")]
LESSONS = [name for name in CHAPTERS if name[10:12] not in ("00", "17")]  # not the frame
COMPREHENSION = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
REPEATS = ast.For | ast.While | ast.FunctionDef | ast.Lambda | COMPREHENSION


@functools.cache  # not when it is imported: parsing all takes a second
def source(name):
    folder, _, stem = name.partition("/")
    return read(ROOT / folder / "_source" / f"{stem}.py", ROOT)


def cells(name):
    return source(name).cells


def code(name):
    return [cell.source for cell in cells(name) if cell.cell_type == "code"]


@functools.cache
def prose(name):
    return [cell.source for cell in cells(name) if cell.cell_type == "markdown"]


def anchors(texts):
    """What JupyterLab calls the headings of a notebook: their words, without backticks."""
    parsed = [MarkdownIt().parse(text) for text in texts]
    for opened, inline in itertools.chain.from_iterable(map(itertools.pairwise, parsed)):
        if opened.type == "heading_open":
            yield "".join(part.content for part in inline.children).replace(" ", "-")


@functools.cache
def headings(name):
    return set(anchors(prose(name)))


def links(text):
    """The words and the target of each link in a markdown text, and of each picture."""
    words, target = "", ""
    for block in MarkdownIt().parse(text):
        for part in block.children or ():
            if part.type == "link_open":
                words, target = "", part.attrs["href"]
            elif part.type == "link_close":
                yield words, unquote(target)
            elif part.type == "image":
                yield part.content, unquote(part.attrs["src"])
            else:
                words += part.content or " "  # where the line ends


def calls(text, name):
    """The calls of a function, such as "claims.check", in a cell; each runs once, by that name."""
    tree, (module, _, function) = ast.parse(text), name.partition(".")
    nodes = list(ast.walk(tree))
    found = [
        node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == name
    ]
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            inside = (getattr(node, "module", None) or "").endswith(module)
            for each in node.names:
                renamed = each.name.endswith(module) and each.asname not in (None, module)
                assert not renamed, f"{module} is renamed: {text}"
                assert not (inside and each.name in (function, "*")), f"write {name}: {text}"
        if isinstance(node, REPEATS):
            inner = [one for one in ast.walk(node) if one in found]
            assert not inner, f"{name} in a loop or a function: {text}"
    used = [node for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node) == name]
    assert len(used) == len(found), f"{name} gets another name: {text}"
    return found


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_can_be_read_in_one_sitting(name):
    assert len(cells(name)) <= 120


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_text_cell_has_at_most_sixty_words(name):
    assert [text for text in prose(name) if len(words(text)) > MOST_WORDS] == []


def test_headings_formulas_and_targets_are_no_words():
    text = (
        "# A heading\n\nOne [two](http://x.org/a b) — $x + y$ three\n$$ z = 1\n + 2 $$ <!-- no -->"
    )
    assert words(text) == ["One", "[two]", "three"]


def test_minutes_code_and_the_way_back_are_no_words_of_a_prompt_either():
    text = (
        "## 04.1 A heading\n\n*10 minutes · difficulty 1 of 3 · 2 points*\n"
        "· [section](../notebooks/04_window.ipynb#A-heading)\n\n"
        "One $x$ [two](#b) `f(3)`:\n\n    f(4)\n"
    )
    assert words_of_a_prompt(text) == ["One", "[two]", "`f(3)`:"]


def in_a_real_model(name):
    """What the built section *In a real model* of a chapter shows: texts, and kinds of outputs."""
    inside, texts, kinds = False, [], set()
    for cell in json.loads((ROOT / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            if heading := re.findall(r"^## (.*)", text, re.MULTILINE):
                inside = heading[-1] == "In a real model"
        elif inside:
            for output in cell["outputs"]:
                data = output.get("data", {})
                texts.append("".join(output.get("text", data.get("text/plain", ""))))
                kinds |= data.keys()
            if re.search(r"widgets\.(in_a_real_model|explore)\(", text):
                kinds.add("slider")
    return "\n".join(texts), kinds


def lacks(name):
    """What a chapter's section does not show of what each of them shows."""
    said, kinds = in_a_real_model(name)
    cost = r"(?s)(FLOPs|bytes|\b[KMGT]?i?B\b).*n = +512\b|n = +512\b.*(FLOPs|bytes|\b[KMGT]?i?B\b)"
    shown = {
        "cost at n = 512 and 16,384": re.search(cost, said) and re.search(r"n = +16,384\b", said),
        "loss": re.search(r"\d\.\d\d nats a token", said),
        "copying": re.search(r"copying", said),
        "the page, word by word": "image/png" in kinds and "slider" in kinds,
    }
    return [what for what, there in shown.items() if not there]


@pytest.mark.parametrize(
    "number",
    sorted({name[10:12] for name in LESSONS} - {"01"}),  # there is no model yet
)
def test_each_chapter_tries_its_mechanism_in_the_model(number):
    parts = [name for name in LESSONS if name[10:12] == number]
    missing = {name: lacks(name) for name in parts if any(in_a_real_model(name))}
    assert [] in missing.values(), missing


def too_close(cards):
    """Whether two cards follow one another; a cell is its count of cards and what it shows."""
    seen = [count for count, shows in cards if count or shows]
    return max(seen, default=0) > 1 or any(one and two for one, two in itertools.pairwise(seen))


@pytest.mark.parametrize("name", LESSONS)
def test_at_most_three_cards_and_never_two_in_a_row(name):
    showed = coverage._outputs(source(name), ROOT)
    cards = [
        (len(calls(cell.source, "claims.check")), shows)
        for cell, shows in zip(cells(name), showed, strict=True)
        if cell.cell_type == "code"
    ]
    assert sum(count for count, _ in cards) <= 3
    assert not too_close(cards)


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ([(1, True), (0, True), (1, True)], False),
        ([(1, True), (0, False), (1, True)], True),
        ([(1, True), (1, True)], True),
        ([(2, True)], True),
        ([], False),
    ],
)
def test_a_silent_cell_does_not_part_two_cards(cards, expected):
    assert too_close(cards) is expected


def guesses(name):
    """Yield cell, question and answer of each guess of a chapter."""
    for cell in cells(name):
        for call in calls(cell.source, "widgets.guess") if cell.cell_type == "code" else ():
            body = ast.parse(cell.source).body
            set_here = {
                ast.unparse(n.targets[0]): n.value for n in body if isinstance(n, ast.Assign)
            }
            question, answer = call.args[:2]
            question = set_here.get(ast.unparse(question), question)
            yield cell, " ".join(ast.unparse(question).split()), answer


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_asks_for_three_to_five_guesses(name):
    assert 3 <= len(list(guesses(name))) <= 5


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_guess_is_folded_and_its_answer_is_a_function_since_its_code_would_tell(name):
    functions = {
        node.name
        for text in code(name)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
    }
    for cell, _, answer in guesses(name):
        assert cell.metadata.get("folded"), cell.source
        assert isinstance(answer, ast.Lambda) or ast.unparse(answer) in functions, cell.source


def test_each_question_is_asked_once():
    """It is the name of the guess in the reader's progress."""
    asked = [question for name in CHAPTERS for _, question, _ in guesses(name)]
    assert [question for question in asked if asked.count(question) > 1] == []


@pytest.mark.parametrize(
    "text",
    [
        "from attncourse import widgets as w\nw.guess('?', f)",
        "import attncourse.widgets as w\nw.guess('?', f)",
        "from attncourse.widgets import guess\nguess('?', f)",
        "from attncourse.widgets import *\nguess('?', f)",
        "ask = widgets.guess\nask('?', f)",
        "for question in '?!':\n    widgets.guess(question, f)",
        "[widgets.guess(question, f) for question in '?!']",
        "def ask():\n    widgets.guess('?', f)",
    ],
)
def test_a_call_that_cannot_be_counted_is_refused(text):
    with pytest.raises(AssertionError):
        calls(text, "widgets.guess")


def test_calls_are_counted_as_they_run():
    assert (
        len(calls("widgets . guess('widgets.guess(', f)  # widgets.guess(", "widgets.guess")) == 1
    )


def wrong(link, name):
    """Tell what is wrong with a link in a source, if anything."""
    target, _, anchor = link.partition("#")
    if re.match(r"\w+:|/", link):
        return None if link.startswith("https://") else "neither https nor relative"
    folder = Path(name).parent
    for start in [folder] if folder.name == "notebooks" else [folder, Path("exercises")]:
        path = (ROOT / start / target).resolve() if target else ROOT / f"{name}.ipynb"
        if not path.is_relative_to(ROOT):
            return "leads out of the course"
        there = path.relative_to(ROOT).as_posix()
        if path.suffix != ".ipynb":
            if not path.exists():
                return "leads nowhere"
            continue
        written = re.sub("^exercises/", "solutions/", there).removesuffix(".ipynb")
        if written not in SOURCES:
            return "no such notebook"
        if anchor and anchor not in headings(written):
            return "no such heading"
    return None


@pytest.mark.parametrize("name", SOURCES)
def test_links_lead_to_a_file_and_to_a_heading_in_it(name):
    found = [link for text in prose(name) for _, link in links(text)]
    assert {link: says for link in found if (says := wrong(link, name))} == {}


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ("[x](https://example.org)", None),
        ("[x](http://example.org)", "neither https nor relative"),
        ("[x](/etc/passwd)", "neither https nor relative"),
        ("[x](../../../etc/passwd)", "leads out of the course"),
        ('[x](nowhere.md "title")', "leads nowhere"),
        ("[x](<no where.md>)", "leads nowhere"),
        ("[x](no(where).md)", "leads nowhere"),
        ("[x][1]\n\n[1]: nowhere.md", "leads nowhere"),
        ("![x](nowhere.png)", "leads nowhere"),
        ("[x](../README.md)", None),
        ("[x](../exercises/04_window.ipynb)", None),
        ("[x](../nowhere/04_window.ipynb)", "no such notebook"),
        ("[x](notebooks/04_window.ipynb)", "no such notebook"),
        ("[x](#nowhere)", "no such heading"),
    ],
)
def test_a_link_that_leads_nowhere_is_named(link, says):
    [(_, target)] = links(link)
    assert wrong(target, "notebooks/04_window") == says


def test_code_and_comments_hold_no_links_and_headings_no_backticks():
    assert list(links("`[x](a)` <!-- [x](b) -->\n```\n[x](c)\n```\n[a `b`](d)")) == [("a b", "d")]
    assert list(anchors(["```\n# no\n```\n# A `b` *c*"])) == ["A-b-c"]


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("solutions/")])
def test_each_exercise_is_linked_from_its_chapter_and_links_back(name):
    number = name[10:12]
    parts = [chapter for chapter in CHAPTERS if chapter[10:12] == number]
    found = [link for chapter in parts for text in prose(chapter) for link in links(text)]
    prompts = {}
    for cell in cells(name):
        if cell.metadata.get("role") == "prompt":
            prompts.setdefault(cell.metadata["exercise"], []).extend(links(cell.source))
    for exercise, back in prompts.items():
        named = [link for words, link in found if re.search(rf"\b{re.escape(exercise)}\b", words)]
        assert any(link.startswith(f"../exercises/{number}_") for link in named), exercise
        assert any(link.startswith(f"../notebooks/{number}_") for _, link in back), exercise


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
    bound = [Bound(tree).names for tree in trees]
    for number, tree in enumerate(trees):
        functions |= {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        names = read_later(tree, functions)
        for text, later in zip(texts[number + 1 :], bound[number + 1 :], strict=True):
            for name in sorted(names & later):
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
