"""Building notebooks from their sources: what is built, what is refused, what --check sees."""

import ast
import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from attncourse import authoring, cli, execution, pictures
from attncourse.sources import BuildError, read, stub

pytestmark = pytest.mark.usefixtures("forked_kernels")

ROOT = Path(__file__).parents[1]

README = "# Course\n{}\nThe end.\n".format(
    "\n".join(
        f"{authoring.README_BEGIN.format(part)}\nan old list\n{authoring.README_END}"
        for part in authoring.README_PARTS
    )
)

_buffer = io.BytesIO()
Image.new("RGB", (3, 2), "#21918c").save(_buffer, "PNG")
PIXEL = base64.b64encode(_buffer.getvalue()).decode()

CHAPTER = (
    """\
# %% [markdown] covers="F1 C057-C059"
# # Window
# Size $n$.
# <!-- summary: what a window
# saves -->

# %%
import os
from IPython.display import Image, display; pixel = "PIXEL"

# %%
{"rows": 3}

# %%
print("scores:", 12)
print("weights: 3")
display({"image/png": pixel, "text/plain": "a picture of 3 rows"}, raw=True,
        metadata={"image/png": {"alt": "x"}})

# %%
print("scores:", 12)
print("weights: 3")
display({"image/png": pixel, "text/plain": "a picture of 3 rows"}, raw=True,
        metadata={"image/png": {"alt": "x"}})

# %% tags=["raises-exception"]
1 / 0

# %% folded=true
12;

# %%
import ipywidgets
ipywidgets.IntSlider(description="w")

# %% [markdown]
# The rest shows numbers.
"""
    + "".join(f"\n# %%\n{n} * 2\n" for n in range(4))
    + """
# %% tags=["nbval-ignore-output"]
import time
print(time.time(), os.getcwd(), os.environ["ATTNCOURSE_HOME"])
"""
).replace("PIXEL", PIXEL)

SOLUTIONS = '''\
# %% role="setup"
import random
from IPython.display import display

def check(name):
    passed = {"status": "passed" if answers[name]() == 2 else "failed", "reason": "it is not 2"}
    about = {"attncourse": passed | {"seed": random.random()}}
    display({"text/plain": f"✓ {name}: passed"}, raw=True, metadata=about)

# %% [markdown] role="prompt" exercise="04.1"
# ## 04.1 Two
#
# *1 minutes · difficulty 1 of 3 · 1 point*
#
# Write `two`.

# %% role="answer" exercise="04.1"
def two():
    """Return 2."""
    total = 0
    # BEGIN SOLUTION
    total += 2
    # END SOLUTION
    return total

answers = {"04.1": two}

# %% role="check" exercise="04.1"
check("04.1")

# %% [markdown] role="hints" exercise="04.1"
# 1. One.
# 2. Two.
# 3. 1 + 1.

# %% role="spec" exercise="04.1"
from attncourse.grading.writing import Spec, case, edit

Spec(
    kind="number",
    cases=[case(f"call {n}") for n in range(7)],
    mistakes=[edit("+= 2", f"+= {n}", says=f"it is {n}", next="two") for n in range(3, 8)],
    alternatives=[lambda: 2, lambda: 1 + 1],
)
'''


def repository(folder, chapter=CHAPTER, solutions=SOLUTIONS):
    for name, text in (("notebooks", chapter), ("solutions", solutions)):
        source = folder / name / "_source" / "04_window.py"
        source.parent.mkdir(parents=True)
        source.write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(README, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small course, built."""
    root = repository(tmp_path_factory.mktemp("course"))
    assert authoring.main(root=root) == 0
    return root


@pytest.fixture
def course(built, tmp_path):
    """The same, to be changed."""
    shutil.copytree(built, tmp_path / "course")
    return tmp_path / "course"


def files(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*.ipynb")}


def notebook(root, folder="notebooks"):
    return nbformat.read(root / folder / "04_window.ipynb", as_version=4)


# What is built


def test_two_builds_in_two_places_give_the_same_bytes(built, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("COLUMNS", "40")
    again = repository(tmp_path / "another place")
    assert authoring.main(root=again) == 0
    assert files(again) == files(built)
    assert len(files(built)) == 4


def test_only_text_that_stays_and_small_pictures_are_stored(built):
    cells = [cell for cell in notebook(built).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert [cell.outputs for cell in cells if "nbval-ignore-output" in str(cell.metadata)] == [[]]
    text, picture, words = cells[2].outputs
    assert text == {"output_type": "stream", "name": "stdout", "text": "scores: 12\nweights: 3\n"}
    small = pictures.encoded(pictures.small(base64.b64decode(PIXEL)))
    assert picture.data == {"image/png": small} and picture.metadata == {"image/png": {"alt": "x"}}
    assert words.data == {"text/plain": "a picture of 3 rows"} and words.metadata == {}
    assert cells[4].outputs[0].traceback == ["ZeroDivisionError: division by zero"]
    assert cells[6].outputs[0].data.keys() == {"text/plain"}
    whole = (built / "notebooks/04_window.ipynb").read_text()
    for trace in ("widget-view", str(built), "/tmp", "iopub", "version", "seed"):
        assert trace not in whole


def test_a_chapter_that_leaves_a_topic_out_changes_no_list(tmp_path, monkeypatch):
    root = repository(tmp_path, CHAPTER)
    inventory = root / authoring.INVENTORY
    inventory.parent.mkdir(parents=True)
    inventory.touch()
    monkeypatch.setattr(authoring.coverage, "missing", lambda *_: ["chapter 04: topic F1"])
    before = (root / "README.md").read_bytes()
    with pytest.raises(BuildError, match="chapter 04: topic F1"):
        authoring.build_house(root)
    assert (root / "README.md").read_bytes() == before
    assert not (root / authoring.COVERAGE).exists()


def test_printed_text_is_stored_in_one_piece_wherever_the_kernel_cut_it():
    def printed(text, name="stdout"):
        return nbformat.v4.new_output("stream", name=name, text=text)

    picture = nbformat.v4.new_output("display_data", data={"text/plain": "a picture"})
    cut = [printed("1"), printed("2"), printed("!", "stderr"), picture, printed("3"), printed("4")]
    assert execution._joined(cut) == [printed("12"), printed("!", "stderr"), picture, printed("34")]
    assert cut[0] == printed("1")  # what was given is left alone


def test_the_file_is_sorted_json_with_one_space_and_a_newline(built):
    text = (built / "notebooks/04_window.ipynb").read_text(encoding="utf-8")
    same = json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False)
    assert text == same + "\n"


def test_metadata_say_what_a_notebook_and_a_cell_are_for(built):
    assert notebook(built).metadata.attncourse == {
        "kind": "chapter",
        "chapter": "04",
        "stem": "04_window",
        "release": authoring.attncourse.__version__,
    }
    assert notebook(built).metadata.kernelspec.name == "python3"
    assert notebook(built, "solutions").metadata.attncourse.kind == "solutions"
    assert notebook(built, "exercises").metadata.attncourse.kind == "exercises"
    assert notebook(built).cells[0].metadata.attncourse == {
        "covers": ["F1", "C057", "C058", "C059"]
    }
    folded = [cell for cell in notebook(built).cells if cell.metadata.get("jupyter")]
    assert [cell.source for cell in folded] == ["12;"]
    assert folded[0].metadata.jupyter == {"source_hidden": True}
    assert folded[0].metadata.attncourse == {"folded": True}
    roles = [cell.metadata.attncourse for cell in notebook(built, "exercises").cells]
    assert [about["role"] for about in roles] == ["setup", "prompt", "answer", "check"]
    assert {about.get("exercise") for about in roles} == {None, "04.1"}


def test_ids_come_from_content_and_occurrence(course):
    before = [cell.id for cell in notebook(course).cells]
    assert len(set(before)) == len(before)
    assert before[4] == before[3] + "-2"  # the same cell twice
    source = course / "notebooks/_source/04_window.py"
    source.write_text("# %%\nx = 1\n\n" + source.read_text())
    after = [cell.id for cell in authoring.assemble(read(source, course)).cells]
    assert after[1:] == before


def test_answers_become_stubs_and_checks_keep_the_solution_s_verdict(built):
    solved, cut = notebook(built, "solutions"), notebook(built, "exercises")
    assert "SOLUTION" not in str(solved) + str(cut)
    assert "total += 2" in solved.cells[2].source
    answer = cut.cells[2].source
    assert "    total = 0\n    raise NotImplementedError\n    return total" in answer
    # The learner's copy shows no verdict before anything was tried.
    assert [c.outputs for c in cut.cells if c.cell_type == "code"] == [[], [], []]
    kept = notebook(built, authoring.RELEASED)
    assert [c.source for c in kept.cells] == [c.source for c in cut.cells]
    assert [c.id for c in kept.cells] == [c.id for c in cut.cells]
    assert kept.cells[3].id == solved.cells[3].id
    (verdict,) = kept.cells[3].outputs
    assert verdict.data == {"text/plain": "✓ 04.1: passed"}
    assert kept.cells[3].execution_count
    assert not kept.cells[0].outputs and not kept.cells[2].outputs


def test_exercises_show_the_pictures_of_their_set_up(built):
    source = read(built / "solutions/_source/04_window.py", built)
    solved, seen = notebook(built, "solutions"), notebook(built).cells[3].outputs
    _, picture, words = seen
    picture.metadata["image/png"].alt = words.data["text/plain"]
    for cell in (solved.cells[0], solved.cells[3]):  # set-up, check
        cell.outputs = seen
    shown = [cell.get("outputs") for cell in authoring._to_learn_from(source, solved).cells]
    assert shown == [[picture, words], None, [], []]


def test_the_lists_in_the_readme_are_written(built):
    text = (built / "README.md").read_text(encoding="utf-8")
    written = [read(path, built) for path in authoring.sources(built)]
    assert text == authoring.readme(README, written)
    assert authoring.markdown_table() in text and "old list" not in text
    assert "\n- **04, window**: what a window saves\n" in text
    assert text.startswith("# Course\n") and text.endswith("\nThe end.\n")
    with pytest.raises(BuildError, match="its chapters must stand between"):
        authoring.readme("no markers", written)


def test_a_chapter_without_a_summary_is_named(tmp_path):
    root = repository(tmp_path, CHAPTER.replace("summary:", "resume:"))
    with pytest.raises(BuildError, match=r"04_window\.py:2: cell 1: needs a line `<!-- summary"):
        authoring.build_house(root)


def test_printed_text_is_stored_in_one_piece_however_slowly_it_came(tmp_path):
    slow = "# %%\nimport time\nfor line in 'abc':\n    print(line, flush=True); time.sleep(0.4)\n"
    root = repository(tmp_path, slow)
    authoring.build(root, root / "notebooks/_source/04_window.py")
    [cell] = notebook(root).cells
    assert [(one.name, one.text) for one in cell.outputs] == [("stdout", "a\nb\nc\n")]


def test_nbval_agrees_with_what_is_stored(course):
    path = course / "notebooks/04_window.ipynb"
    changed = path.with_name("changed.ipynb")
    changed.write_text(path.read_text().replace('"weights: 3\\n"', '"weights: 4\\n"'))
    options = ["--nbval", "--nbval-current-env", "-c", os.devnull]
    command = [sys.executable, "-m", "pytest", "-q", *options, str(path), str(changed)]
    told = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, timeout=120)
    failed = re.findall(r"^FAILED (\S+)::", told.stdout, re.MULTILINE)
    assert failed and all(name.endswith("changed.ipynb") for name in failed), told.stdout


def test_the_kernel_is_this_python_without_gpu_and_without_the_author_s_progress(
    tmp_path, monkeypatch
):
    spec = tmp_path / "share/kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    false = {"argv": ["/nonexistent", "{connection_file}"], "display_name": "x", "language": "x"}
    spec.write_text(json.dumps(false))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    text = (
        f"# %%\nimport os, sys\nassert sys.executable == {sys.executable!r}\n"
        f"assert os.environ['ATTNCOURSE_HOME'] != {os.environ['ATTNCOURSE_HOME']!r}\n"
        "assert os.environ['CUDA_VISIBLE_DEVICES'] == ''\n"
    )
    root = repository(tmp_path / "course", chapter=text)
    assert authoring.build(root, root / "notebooks/_source/04_window.py")


def test_one_stem_can_be_built_alone(course, capsys):
    other = course / "notebooks/_source/00_start.py"
    other.write_text("# %% [markdown]\n# <!-- summary: none -->\n\n# %%\n1 + 1\n")
    before = files(course)
    assert authoring.main(["00"], root=course) == 0
    assert files(course).keys() - before.keys() == {Path("notebooks/00_start.ipynb")}
    out = capsys.readouterr().out
    assert re.fullmatch(r"notebooks/00_start.ipynb: 2 cells, 1 with outputs, 0 .*; \d+ s\n", out)
    assert authoring.main(["07"], root=course) == 1
    assert "no source for 07; there are 00_start, 04_window" in capsys.readouterr().err


def test_answers_are_never_overwritten(course):
    path = course / "exercises/04_window.ipynb"
    source = course / "solutions/_source/04_window.py"
    for mine, says in (
        (path.read_text().replace("raise NotImplementedError", "total = 2"), "holds answers"),
        ("<<<<<<< HEAD", "not a notebook"),
    ):
        path.write_text(mine)
        before = files(course)
        with pytest.raises(BuildError, match=rf"^exercises/04_window.ipynb:? {says}"):
            authoring.build(course, source)
        assert files(course) == before


# What is refused


def complaints(tmp_path, chapter=None, solutions=None):
    root = repository(tmp_path / "course", chapter or CHAPTER, solutions or SOLUTIONS)
    name = "notebooks" if chapter else "solutions"
    with pytest.raises(BuildError) as error:
        read(root / name / "_source/04_window.py", root)
    return error.value.problems


@pytest.mark.parametrize(
    ("cell", "line", "says"),
    [
        ("# %%\n" + "x = 1\n" * 16, 2, "16 lines; at most 15 may stand in one cell"),
        ("# %%\nx = 1\n%timeit x\n", 3, "holds a magic or a shell command"),
        ("# %%\n# !ls\n", 2, "holds a magic or a shell command"),
        ("# %%\nprint('pip install numpy')\n", 2, "holds an install command"),
        ("# %%\nimport base64\n", 2, "holds base64 data"),
        ("# %% [markdown]\n# ![x](data:image/png;base64,aGk=)\n", 2, "holds base64 data"),
        ("# %%\n# NBVAL_IGNORE_OUTPUT\n1\n", 2, "holds a comment for nbval: use a tag"),
        ("# %%\nx = 1\nx = (\n", 3, "'(' was never closed"),
        ('# %% tag="nbval-skip"\n1\n', 1, "unknown option tag"),
        ('# %% role="check" exercise="04.1"\n1\n', 1, "exercises belong in solutions/_source"),
        ("# %%\ndef f():\n    # BEGIN SOLUTION\n", 2, "`# BEGIN SOLUTION` stands in answer cells"),
        ("# %% [raw]\n# x\n", 1, "a raw cell"),
        ('# %% covers="F2"\n1\n', 1, "`covers` stands on a heading"),
        ('# %% [markdown] covers="F2"\n# text\n', 1, "`covers` stands on a heading"),
        ('# %% [markdown] points="F2"\n# text\n', 1, "`points` stands on a heading"),
        ('# %% [markdown] covers="F2"\n# ```\n# # no\n# ```\n', 1, "`covers` stands on a heading"),
        ('# %% [markdown] covers="F2 F2"\n# # A\n', 1, "names F2 more than once"),
        ('# %% [markdown] covers="F2" points="F1-F3"\n# # A\n', 1, "names F2 more than once"),
        *(
            (f"# %% [markdown] covers={text}\n# # A\n", 1, '`covers` names topics as in "F2 F4-F6"')
            for text in (
                *('"F2,F3"', '"F2–F4"', '"F2-G4"', '"-F2"', '"F"', '"F2-"', '"F6-F2"', '"F٣"'),
                *("5", "true", '["F2"]', '""'),
            )
        ),
        ("# %% [markdown] folded=true\n# text\n", 1, "`folded=true` stands on a code cell"),
        ('# %% folded="yes"\n1\n', 1, "`folded=true` stands on a code cell"),
    ],
)
def test_a_broken_rule_is_named_with_file_line_and_cell(tmp_path, cell, line, says):
    first = "# %% [markdown]\n# # Title\n\n"
    problem, *_ = complaints(tmp_path, chapter=first + cell)
    assert problem.startswith(f"notebooks/_source/04_window.py:{3 + line}: cell 2: {says}")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("    # END SOLUTION\n", "", ":21: cell 3: `# BEGIN SOLUTION` without `# END SOLUTION`"),
        ("    # BEGIN SOLUTION\n", "", ":22: cell 3: `# END SOLUTION` without `# BEGIN SOLUTION`"),
        ("    # BEGIN", "# BEGIN", ":21: cell 3: `# BEGIN SOLUTION` must stand inside a function"),
        ('check("04.1")\n', 'check("04.2")\n', ':29: cell 4: a check cell holds `check("04.1")`'),
        ('# %% role="setup"', "# %%", ":1: cell 1: role must be one of"),
        ('="answer" exercise="04.1"', '="answer"', ":17: cell 3: exercise must be of chapter 04"),
        ('role="prompt"', 'role="promt"', ":10: cell 2: role must be one of"),
    ],
)
def test_broken_solutions_are_named_too(tmp_path, old, new, says):
    assert old in SOLUTIONS
    problems = complaints(tmp_path, solutions=SOLUTIONS.replace(old, new))
    assert any(problem.startswith(f"solutions/_source/04_window.py{says}") for problem in problems)


def test_every_broken_rule_is_named_at_once(tmp_path):
    problems = complaints(tmp_path, chapter="# %%\n%ls\n\n# %%\n%ls\n")
    assert [problem.split(": ")[1] for problem in problems if "magic" in problem] == [
        "cell 1",
        "cell 2",
    ]


def test_an_exercise_without_its_check_is_named(tmp_path):
    text = SOLUTIONS.replace('# %% role="check" exercise="04.1"\ncheck("04.1")\n', "")
    (problem,) = complaints(tmp_path, solutions=text)
    assert problem.endswith("exercise 04.1 needs one check cell, got 0")


def test_text_before_the_first_cell_is_refused(tmp_path):
    (problem,) = complaints(tmp_path, chapter="import numpy\n# %%\n1\n")
    assert "begins with a cell marker" in problem


def test_a_stub_is_cut_at_each_marker():
    text = (
        "def f(x):\n    # BEGIN SOLUTION\n    a = 1\n\n    # END SOLUTION\n    if x:\n"
        "        # BEGIN SOLUTION\n        b = 2\n        # END SOLUTION\n    return x"
    )
    cut = "def f(x):\n    raise NotImplementedError\n    if x:\n        raise NotImplementedError\n"
    assert stub(text) == cut + "    return x"
    ast.parse(stub(text))
    with pytest.raises(SyntaxError, match="without `# END SOLUTION`"):
        stub("def f():\n    # BEGIN SOLUTION\n    # BEGIN SOLUTION\n    # END SOLUTION")


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("\n\nx = 1\nx / 0\n", "04_window.py:7: cell 2: ZeroDivisionError: division by zero"),
        ("import os\nos._exit(1)\n", "04_window.py:4: cell 2: the kernel died"),
        ("import time\ntime.sleep(99)\n", "04_window.py:4: cell 2: ran for over 2 s"),
    ],
)
def test_a_run_that_must_not_be_stored_is_refused(tmp_path, monkeypatch, cell, says):
    monkeypatch.setattr(execution, "CELL_SECONDS", 2)
    text = f"# %%\nfirst = 0\n\n# %%{'' if cell[0] == chr(10) else chr(10)}{cell}"
    root = repository(tmp_path / "course", chapter=text)
    with pytest.raises(BuildError, match=re.escape(says)):
        authoring.build(root, root / "notebooks/_source/04_window.py")
    assert files(root) == {}


LEAKS = {
    "object()": "its output holds a memory address",
    "import sys; sys.prefix + '/lib'": "its output names a folder of this machine",
    "from pathlib import Path; str(Path.cwd())": "its output names a folder of this machine",
    "import warnings; warnings.warn('x')": "its output names a folder of this machine",
    "from IPython.display import SVG; SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>')": (
        "its output holds an SVG picture"
    ),
    "from IPython.display import display; display({'image/png': 'aGk='}, raw=True)": (
        "holds a PNG that cannot be read"
    ),
}


def test_outputs_that_must_not_be_stored_are_refused_all_at_once(tmp_path):
    text = "# %%\nsame = 0\nsame\n\n" + "".join(f"# %%\n{cell}\n\n" for cell in LEAKS)
    text += '# %% tags=["nbval-ignore-output"]\n2\n'
    root = repository(tmp_path / "course", chapter=text)
    with pytest.raises(BuildError) as refused:
        authoring.build(root, root / "notebooks/_source/04_window.py")
    said = str(refused.value)
    for number, says in enumerate(LEAKS.values(), 2):
        assert f"04_window.py:{3 * number - 1}: cell {number}: {says}" in said
    assert "cell 1: " not in said and "nbval ignores 1 of 8 cells with outputs" in said
    assert files(root) == {}


def test_at_most_a_tenth_may_be_ignored():
    cell = nbformat.v4.new_code_cell
    shown = [cell("1", outputs=[nbformat.v4.new_output("stream", text="1")]) for _ in range(18)]
    silent = [cell("x = 1") for _ in range(9)]
    ignored = [cell("2", metadata={"tags": [tag]}) for tag in sorted(execution.IGNORING_TAGS)]
    at_limit = nbformat.v4.new_notebook(cells=shown + silent + ignored)
    assert execution.ignored_outputs(at_limit) == (2, 20)
    assert execution.too_many_ignored(at_limit) is None
    over = nbformat.v4.new_notebook(cells=shown[1:] + silent + ignored)
    assert "2 of 19" in execution.too_many_ignored(over)


def test_a_solution_that_fails_its_check_is_refused(tmp_path):
    root = repository(tmp_path / "c", solutions=SOLUTIONS.replace("+= 2", "+= 3"))
    with pytest.raises(BuildError, match="cell 4: the solution failed: it is not 2"):
        authoring.build(root, root / "solutions/_source/04_window.py")
    silent = SOLUTIONS.replace("    display(", "    dict(")
    root = repository(tmp_path / "d", solutions=silent)
    with pytest.raises(BuildError, match="cell 4: shows 0 verdicts"):
        authoring.build(root, root / "solutions/_source/04_window.py")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "lambda: 1 + 1",
            "lambda: np.int64(2)",
            "alternative 2, <lambda>, is not right: raised NameError: name 'np' is not defined",
        ),
        ("lambda: 1 + 1", "lambda: 3", "alternative 2, <lambda>, is not right: wrong value"),
        (
            "range(3, 8)",
            "(3, 4, 5, 6, '2 + 0')",
            "the mistake of which you say `it is 2 + 0` is passed",
        ),
        (
            "for n in range(3, 8)]",
            'for n in range(3, 8)] + [edit("+= 2", "= 3", says="it is no sum", next="two")]',
            "the mistake of which you say `it is no sum` is told another cause: it is 3",
        ),
        (
            "cases=[",
            "cases=[lambda rng: np.zeros(3)] + [",
            "its cases raise NameError: name 'np' is not defined",
        ),
    ],
)
def test_a_spec_is_tried_on_its_own_answers(tmp_path, old, new, says):
    assert old in SOLUTIONS
    root = repository(tmp_path, solutions=SOLUTIONS.replace(old, new))
    source = read(root / "solutions/_source/04_window.py", root)
    [problem] = authoring._spec_problems(source)
    assert problem.startswith(f"solutions/_source/04_window.py: exercise 04.1: {says}")


def test_a_chapter_that_is_not_on_the_map_is_refused(tmp_path, capsys):
    root = repository(tmp_path, CHAPTER)
    arc = root / authoring.ARC
    arc.parent.mkdir(parents=True)
    arc.write_text("part,chapter,afterwards\nend,17,audit\n")
    says = "notebooks/_source/04_window.py: attncourse/data/arc.csv lacks a row `part,04,"
    source = root / "notebooks/_source/04_window.py"
    with pytest.raises(BuildError) as refused:
        authoring.build(root, source)
    [problem] = refused.value.problems
    assert problem.startswith(says)
    authoring.build(root, source, draft=True)
    assert capsys.readouterr().out.startswith(f"draft: {says}")
    assert authoring.main(only_check=True, root=root) == 1
    assert says in capsys.readouterr().err
    arc.write_text(arc.read_text() + "end,04,look nearby\n")
    assert authoring.build(root, source)


def test_lists_are_written_only_when_all_that_was_asked_for_was_built(course, capsys):
    start = course / "notebooks/_source/00_start.py"
    start.write_text("# %% [markdown]\n# # Start\n# <!-- summary: begins -->\n\n# %%\n1 / 0\n")
    before = (course / "README.md").read_bytes()
    assert authoring.main(["00"], root=course) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert (course / "README.md").read_bytes() == before
    start.write_text(start.read_text().replace("1 / 0", "1 / 1"))
    assert authoring.main(["00"], root=course) == 0
    assert "- **00, start**: begins" in (course / "README.md").read_text(encoding="utf-8")


def test_one_bad_source_does_not_stop_the_others(course, capsys):
    (course / "notebooks/_source/00_start.py").write_text("# %%\nx = (\n")
    (course / "notebooks/_source/04_window.py").write_text("# %%\n1\n")
    assert authoring.main(root=course) == 1
    shown = capsys.readouterr()
    assert "notebooks/04_window.ipynb: " in shown.out
    assert shown.err.startswith("notebooks/_source/00_start.py:2: cell 1: ")


# --check


def test_check_runs_nothing_and_passes_on_what_was_built(course, monkeypatch, capsys):
    monkeypatch.setattr(authoring, "run", None)
    monkeypatch.chdir(course)
    assert cli.main(["build", "--check"]) == 0
    assert capsys.readouterr().out == "2 sources: everything built from them is current\n"


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("notebooks/_source/04_window.py", "scores:", "score:", "_source/04_window.py:14: cell 4"),
        ("notebooks/04_window.ipynb", "Size $n$", "Size $m$", "cell 1 differs in its source"),
        (
            "notebooks/04_window.ipynb",
            '"raises-exception"',
            '"x"',
            "cell 6 differs in its metadata",
        ),
        (
            "notebooks/04_window.ipynb",
            '"execution_count": 2,',
            '"execution_count": null,',
            "cell 3",
        ),
        ("notebooks/04_window.ipynb", '"chapter": "04"', '"chapter": "05"', "its metadata differ"),
        (
            "solutions/04_window.ipynb",
            "total += 2",
            "total += 1 + 1",
            "cell 3 differs in its source",
        ),
        ("exercises/04_window.ipynb", "raise NotImpl", "return NotImpl", "cell 3 differs"),
        (
            "attncourse/grading/released/04_window.ipynb",
            "passed",
            "done",
            "not what would be built",
        ),
        (
            "solutions/_source/04_window.py",
            "total += 2",
            "total = 2",
            "solutions/04_window.ipynb: ",
        ),
        ("README.md", "Triton", "Tritone", "README.md: what is written into it is old"),
        (
            "notebooks/04_window.ipynb",
            '"image/png": "',
            '"image/png": "AAAA',
            "cell 4 stores a picture that cannot be read",
        ),
        (
            "notebooks/04_window.ipynb",
            '"pictures": 1',
            '"pictures": 2',
            "cell 4 stores 1 of the 2 pictures that it drew",
        ),
    ],
)
def test_check_names_what_differs(course, capsys, monkeypatch, file, old, new, says):
    monkeypatch.setenv("CI", "true")
    path = course / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert authoring.main(only_check=True, root=course) == 1
    problems = capsys.readouterr().err
    assert says in problems and "attncourse build" in problems


def test_check_leaves_outputs_to_nbval_and_pixels_to_the_build(course):
    path = course / "notebooks/04_window.ipynb"
    text = path.read_text().replace('"weights: 3\\n"', '"weights: 4\\n"')
    small = pictures.encoded(pictures.small(base64.b64decode(PIXEL)))
    assert text.count(small) == 2
    path.write_text(text.replace(small, PIXEL))
    assert authoring.main(only_check=True, root=course) == 0


def test_check_says_when_the_pictures_of_all_chapters_are_too_large(course, capsys, monkeypatch):
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(pictures, "ALL_LIMIT", 100)
    assert authoring.main(only_check=True, root=course) == 1
    assert re.search(r"^notebooks/: pictures take \d+ bytes; at most 100", capsys.readouterr().err)


def test_a_chapter_that_is_no_notebook_is_built_anew(course):
    path = course / "notebooks/04_window.ipynb"
    before = path.read_bytes()
    path.write_text("<<<<<<< HEAD")
    authoring.build(course, course / "notebooks/_source/04_window.py")
    assert path.read_bytes() == before


@pytest.mark.parametrize("file", sorted(["notebooks", "exercises", "solutions"]))
def test_check_names_missing_and_orphaned_notebooks(course, capsys, file):
    path = course / file / "04_window.ipynb"
    path.rename(path.with_name("05_sparse.ipynb"))
    assert authoring.main(only_check=True, root=course) == 1
    problems = capsys.readouterr().err
    assert f"{file}/04_window.ipynb: missing" in problems
    assert f"{file}/05_sparse.ipynb: has no source" in problems


def test_check_names_cells_too_many_and_too_few(course, capsys):
    path = course / "notebooks/04_window.ipynb"
    whole = notebook(course)
    cell = nbformat.v4.new_markdown_cell("mine", id="mine")
    many = len(whole.cells)
    for cells, says in (
        ([*whole.cells, cell], f"cell {many + 1} is not in notebooks/_source"),
        (whole.cells[:-1], f"cell {many} is missing"),
    ):
        whole.cells = cells
        nbformat.write(whole, path)
        assert authoring.main(only_check=True, root=course) == 1
        assert says in capsys.readouterr().err


def test_outside_of_a_course_build_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(authoring.attncourse, "__file__", str(tmp_path / "site/attncourse/x.py"))
    assert cli.main(["build"]) == 1
    assert "no notebooks/_source here or above" in capsys.readouterr().err


def test_check_leaves_a_learners_own_files_alone(course, capsys, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    exercises = course / "exercises" / "04_window.ipynb"
    text = exercises.read_text(encoding="utf-8")
    exercises.write_text(text.replace("raise NotImpl", "return 4; NotImpl"), encoding="utf-8")
    chapter = course / "notebooks" / "04_window.ipynb"
    saved = json.loads(chapter.read_text(encoding="utf-8"))
    saved["metadata"]["language_info"]["version"] = "3.12.1"  # as JupyterLab saves it
    saved["cells"][0]["metadata"]["editable"] = True
    noise, large = Image.effect_noise((200, 200), 50), io.BytesIO()
    noise.save(large, "PNG")  # larger than a stored one
    large = base64.b64encode(large.getvalue()).decode()
    saved["cells"][3]["outputs"][1]["data"]["image/png"] = large
    chapter.write_text(json.dumps(saved), encoding="utf-8")
    assert authoring.main(only_check=True, root=course) == 0
    assert "exercises/04_window.ipynb: holds answers, not compared" in capsys.readouterr().out


def test_this_course_is_built():
    assert authoring.main(only_check=True, root=ROOT) == 0


def test_notebooks_have_no_double_blank_lines_inside_a_cell(course):
    source = course / "notebooks" / "_source" / "04_window.py"
    text = source.read_text(encoding="utf-8") + "\n\n# %%\na = 1\n\n\ndef f():\n    return a\n"
    source.write_text(text, encoding="utf-8")
    cells = authoring.assemble(read(source, course)).cells
    assert cells[-1].source == "a = 1\n\ndef f():\n    return a"
