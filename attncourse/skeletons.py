"""Writes the skeleton of a new chapter or exercise, which `attncourse build --draft` can build."""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from pathlib import Path

from attncourse.authoring import find_root, not_on_the_map, sources
from attncourse.sources import BuildError, read

CHAPTER = """\
# %% [markdown]
# # {number} · TODO title: {title}
#
# TODO the question of this chapter, and what you can do after it.
#
# <!-- summary: TODO what the chapter is about, for README -->

# %%
from attncourse import widgets
from attncourse.inputs import random_qkv

q, k, v = random_qkv(64)

# %% [markdown]
# ## TODO a first idea, and where it fails

# %% folded=true
widgets.guess("64 tokens attend to one another: how many scores?", lambda: 64**2, unit="scores")

# %%
q.shape
"""

SOLUTIONS = """\
# %% [markdown]
# # {number} Exercises: {title}
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("{number}.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% role="setup"
import numpy as np

from attncourse.grading import check, hint

# %% role="spec"
\"\"\"What the specs of this chapter share.\"\"\"

import numpy as np

from attncourse.grading.writing import Memory, Mistake, Spec, case, draws, edit, qkv, rewrite

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run
# `attncourse grade exercises/{stem}.ipynb`. It runs a copy of the notebook from the top and
# prints the score; your file is not changed.
"""

EXERCISE = """\
# %% [markdown] role="prompt" exercise="{id}"
# ## {id} TODO title
#
# *10 minutes · difficulty 1 of 3 · 2 points*
# · [section](../notebooks/{stem}.ipynb)
#
# TODO what `{function}` returns, with sizes and an example: `{function}(3)` is `9`.


# %% role="answer" exercise="{id}"
def {function}(n):
    \"\"\"TODO return what the prompt asks for.\"\"\"
    # BEGIN SOLUTION
    return n * n
    # END SOLUTION


# %% role="check" exercise="{id}"
check("{id}")

# %% [markdown] role="hints" exercise="{id}"
# 1. TODO a nudge; the third hint is nearly the answer.


# %% role="spec" exercise="{id}"
Spec(
    kind="number",
    cases=[
        case("n = 1", 1),
        *draws(6, lambda rng: rng.integers(2, 10_000, 1)),
    ],
    mistakes=[
        edit("n * n", "2 * n",
             says="your number grows with n, not with n²",
             next="count pairs"),
    ],
    alternatives=[edit("n * n", "n**2")],
)  # fmt: skip

"""


def new_chapter(root: Path, number: str, name: str) -> list[Path]:
    """Write the two sources of a chapter.

    Args:
        root: the repository.
        number: two digits, "06".
        name: the rest of the stem, "low_rank".

    Returns:
        The files.

    Raises:
        BuildError: the number or name is none, or such a chapter is there.
    """
    if not re.fullmatch(r"\d\d", number) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise BuildError([f"a chapter is named like `06 low_rank`, got `{number} {name}`"])
    stem = f"{number}_{name}"
    values = {"number": number, "stem": stem, "title": name.replace("_", " ")}
    written = []
    for folder, text in (("notebooks", CHAPTER), ("solutions", SOLUTIONS)):
        path = root / folder / "_source" / f"{stem}.py"
        if there := sorted(path.parent.glob(f"{number}_*.py")):
            raise BuildError([f"{there[0].relative_to(root).as_posix()}: is there already"])
        written.append((path, text.format(**values)))
    for path, text in written:
        path.write_text(text, encoding="utf-8", newline="\n")
    return [path for path, _ in written]


def new_exercise(root: Path, exercise_id: str) -> Path:
    """Write the cells of an exercise into its chapter's source, behind the others.

    Args:
        root: the repository.
        exercise_id: "06.2".

    Returns:
        The file.

    Raises:
        BuildError: the id is none, is taken or leaves a gap, or the chapter has no source.
    """
    if not re.fullmatch(r"\d\d\.V?[1-9]\d?", exercise_id):
        raise BuildError([f"an exercise is named like 06.2 or 06.V4, got {exercise_id}"])
    path = sources(root, [exercise_id[:2]])[-1]
    if path.parents[1].name != "solutions":
        raise BuildError([f"chapter {exercise_id[:2]} has no source in solutions/_source"])
    source = read(path, root)
    there = {cell["exercise"] for cell in source.grading}
    if exercise_id in there:
        raise BuildError([f"{source.name}: has exercise {exercise_id} already"])
    counted = (f"{exercise_id[:2]}.{number}" for number in itertools.count(1))
    following = next(each for each in counted if each not in there)
    if "V" not in exercise_id and exercise_id != following:  # a V is named by its topic
        raise BuildError([f"{source.name}: the next exercise is {following}, got {exercise_id}"])
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    last = source.cells[-1].metadata.get("role")
    at = len(lines) if last else source.markers[-1] - 1  # before the cell about the score
    function = "answer_" + exercise_id.replace(".", "_").lower()
    lines.insert(at, EXERCISE.format(id=exercise_id, function=function, stem=path.stem))
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
    return path


def _run(args: argparse.Namespace) -> int:
    try:
        root = find_root()
        if args.what == "chapter":
            written = new_chapter(root, args.number, args.name)
        else:
            written = [new_exercise(root, args.id)]
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    for path in written:
        print(path.relative_to(root).as_posix())
    if args.what == "chapter":
        for says in not_on_the_map(root, written[0].stem):
            print(f"before it is finished: {says}")
    print(f"build it as it grows: attncourse build {written[-1].stem[:2]} --draft")
    return 0


def add_parsers(subparsers: argparse._SubParsersAction) -> None:
    """Add `attncourse new chapter` and `attncourse new exercise`."""
    parser = subparsers.add_parser("new", description=__doc__)
    kinds = parser.add_subparsers(dest="what", metavar="KIND", required=True)
    chapter = kinds.add_parser("chapter", help="write the sources of a chapter")
    chapter.add_argument("number", help="two digits, 06")
    chapter.add_argument("name", help="the rest of its stem, low_rank")
    exercise = kinds.add_parser("exercise", help="write the cells of an exercise into its chapter")
    exercise.add_argument("id", help="06.2")
    parser.set_defaults(run=_run)
