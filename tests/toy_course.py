"""A small course to grade: twenty exercises, "write f3 so that f3(x) = x + 3", and its notebooks.

The checks stand in the set-up cell, so that these tests need neither real exercises nor the real
check. `install` puts the course in place of the real one; `conftest` is a conftest.py that does the
same in a pytest started elsewhere.
"""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

STEM = "90_toy"
COUNT = 20
TITLES = {}  # of exercises that are not called "Add 3"

SETUP = """
import contextlib
import io

import numpy as np
from IPython.display import publish_display_data

def show(exercise, status, **verdict):
    number = exercise.partition(".")[2]
    passed = status == "passed"
    text = f"✓ {exercise} Add {number}: passed, 2/2 points" if passed else f"{exercise}: {status}"
    verdict |= {"exercise": exercise, "status": status, "score": 2 * passed, "points": 2}
    publish_display_data({"text/plain": text}, {"attncourse": verdict})

def check(exercise):
    number = exercise.partition(".")[2]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            value = globals()["f" + number](np.int64(1))
    except KeyError:
        show(exercise, "not_attempted", reason="not defined")
    except NotImplementedError:
        show(exercise, "not_attempted")
    except SystemExit:
        show(exercise, "failed", reason="your function calls exit", seed=7)
    else:
        right = value == 1 + int(number)
        reason = "" if right else f"\\x1b[31mexpected {1 + int(number)}\\x1b[0m, got {value}"
        good = vars(globals()["f" + number])  # as of a kernel: how many bytes it moved
        show(exercise, "passed" if right else "failed", reason=reason, seed=7, **good)
"""


def exercise_id(number: int) -> str:
    return f"90.{number}"


def code(source: str, cell_id: str, **ours) -> dict:
    return {
        "cell_type": "code",
        "id": cell_id,
        "metadata": {"attncourse": ours} if ours else {},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }


def markdown(source: str, cell_id: str, **ours) -> dict:
    metadata = {"attncourse": ours} if ours else {}
    return {"cell_type": "markdown", "id": cell_id, "metadata": metadata, "source": source}


def notebook(cells: list[dict], **ours) -> dict:
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        # No such kernel exists: the learner's Lab may have had any.
        "metadata": {
            "kernelspec": {"name": "learners-own", "display_name": "?", "language": "python"},
            **({"attncourse": ours} if ours else {}),
        },
        "cells": cells,
    }


def exercises(count: int = COUNT, kind: str = "exercises") -> dict:
    """The notebook as handed out: set-up, then for each exercise prompt, stub and check."""
    cells = [code(SETUP, "setup", role="setup")]
    for n in range(1, count + 1):
        e = exercise_id(n)
        stub = f"def f{n}(x):\n    raise NotImplementedError"
        cells += [
            markdown(f"## {e}", f"prompt-{n}", role="prompt", exercise=e),
            code(stub, f"answer-{n}", role="answer", exercise=e),
            code(f'check("{e}")', f"check-{n}", role="check", exercise=e),
        ]
    return notebook(cells, kind=kind, chapter="90", stem=STEM, release="2.0")


def released(count: int = COUNT) -> dict:
    """The released copy: as handed out, each check with the verdict on the course's solution.

    What the exercises are made from lies in its metadata.
    """
    copied = exercises(count)
    for n in range(1, count + 1):
        cell(copied, f"check-{n}").update(
            execution_count=n,
            outputs=[
                {
                    "output_type": "display_data",
                    "data": {"text/plain": [f"✓ 90.{n} Add {n}: passed, 2/2 points"]},
                    "metadata": {},
                }
            ],
        )
    copied["metadata"].setdefault("attncourse", {})["grading"] = [{"role": "spec", "source": []}]
    return copied


def cell(nb: dict, cell_id: str) -> dict:
    return next(found for found in nb["cells"] if found["id"] == cell_id)


def position(nb: dict, cell_id: str) -> int:
    return nb["cells"].index(cell(nb, cell_id))


def answered(nb: dict, answers: dict[int, str]) -> dict:
    """A copy of a notebook with these answer cells filled in."""
    filled = copy.deepcopy(nb)
    for n, source in answers.items():
        cell(filled, f"answer-{n}")["source"] = source
    return filled


def right(n: int) -> str:
    return f"def f{n}(x):\n    return x + {n}"


def save(nb: dict, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(nb, indent=1, ensure_ascii=False), encoding="utf-8")
    return path


def spec(exercise: str) -> SimpleNamespace:
    number = exercise.partition(".")[2]
    if exercise not in map(exercise_id, range(1, COUNT + 1)):
        raise LookupError(f"no exercise {exercise!r}: chapter 90 has 90.1 to 90.{COUNT}")
    hints = ("Think.", "Add.", f"Add {number}.")
    title, function = TITLES.get(int(number), f"Add {number}"), f"f{number}"
    return SimpleNamespace(id=exercise, title=title, function=function, points=2, hints=hints)


def install(patch, folder: Path) -> None:
    """Put this course, released in `folder`, in place of the real one; with short time limits."""
    from attncourse.grading import exercises as registry
    from attncourse.grading import kernel, session, submission

    patch.setattr(submission, "RELEASED", folder)
    patch.setattr(registry, "chapters", lambda: ("90",))
    patch.setattr(registry, "exercise", spec)
    patch.setattr(
        registry,
        "chapter_exercises",
        lambda chapter: tuple(map(spec, map(exercise_id, range(1, COUNT + 1)))),
    )
    patch.setattr(session, "LEARNER_SECONDS", 1.5)
    patch.setattr(session, "RELEASED_SECONDS", 5.0)
    patch.setattr(kernel, "INTERRUPT_SECONDS", 0.5)
    patch.setattr(kernel, "MEMORY_BYTES", 400 * 2**20)


def conftest(folder: Path) -> str:
    return (
        "import sys\n"
        "from pathlib import Path\n"
        f"sys.path.append({str(Path(__file__).parent)!r})\n"
        "import pytest, toy_course\n"
        f"toy_course.install(pytest.MonkeyPatch(), Path({str(folder)!r}))\n"
    )


# What learners have handed in: number -> (answer cell, status, a part of the reason).
HANDED_IN = {
    1: (right(1), "passed", ""),
    2: (None, "not_attempted", ""),
    3: ("def f3(x):\n    return x - 3", "failed", "expected 4, got -2"),
    4: ("def f4(x:\n    return x + 4", "not_attempted", "raised SyntaxError: '(' was never closed"),
    5: ("while True:\n    pass", "not_attempted", "did not end within 1.5 s"),
    6: (right(6) + "\nimport os; os._exit(0)", "failed", "ended the Python kernel"),
    7: (
        "import os\ndef f7(x):\n    os._exit(0)",
        "failed",
        "your function ended the Python kernel",
    ),
    8: (
        "import ctypes\ndef f8(x):\n    return ctypes.string_at(0)",
        "failed",
        "your function ended the Python kernel",
    ),
    9: (
        "import time\ndef f9(x):\n    while True:\n        try:\n            time.sleep(9)\n"
        "        except BaseException:\n            pass",
        "failed",
        "your function did not end within 5 s",
    ),
    10: (
        "def f10(x):\n    kept = []\n    while True:\n        kept.append(bytearray(2**24))",
        "failed",
        "took more than 400.0 MiB of memory",
    ),
    11: (
        "import warnings\ndef f11(x):\n    print('\\x1b[31mhello' * 1000)\n"
        "    warnings.warn('careful')\n    return x + 11",
        "passed",
        "",
    ),
    12: ("import sys\ndef f12(x):\n    sys.exit(3)", "failed", "your function calls exit"),
    13: (right(13) + "\nexit()", "passed", ""),
    14: (
        "def f14(x):\n    show('90.14', 'passed')\n    return 0",
        "failed",
        "a verdict that is not its own",
    ),
    15: ("def f15(x):\n    return helper(x, 15)", "passed", ""),
    16: (
        None,
        "not_attempted",
        "its answer cell is missing; `attncourse reset 90 --exercise 90.16`",
    ),
    17: (right(17), "not_attempted", "its answer cell is not a code cell"),
    18: (
        "import os\ndef f18(x):\n    show('90.18', 'passed')\n    os._exit(0)",
        "failed",
        "your function ended the Python kernel",
    ),
    19: (right(19) + "\ncheck = np = None", "passed", ""),
    20: (
        "show('90.20', 'passed')\ndef f20(x):\n    raise NotImplementedError",
        "not_attempted",
        "",
    ),
}


def handed_in() -> dict:
    """One notebook with all of them, its course cells tampered with in every way."""
    nb = answered(exercises(), {n: source for n, (source, *_) in HANDED_IN.items() if source})
    nb["metadata"]["attncourse"]["release"] = "1.0"
    cells = nb["cells"]
    cells.insert(1, code("def helper(a, b):\n    return a + b", "scratch"))
    cells.append(code("import time\ntime.sleep(99)", "after-the-last-check"))
    cells.remove(cell(nb, "answer-16"))
    cell(nb, "answer-17").update(cell_type="markdown")
    cell(nb, "setup")["source"] = "raise RuntimeError('edited')"
    cell(nb, "check-1")["source"] = "pass"
    cells.remove(cell(nb, "check-2"))
    cell(nb, "check-3")["metadata"]["tags"] = ["nbval-skip"]
    cell(nb, "check-4")["source"] = '# NBVAL_SKIP\ncheck("90.4")'
    copied = copy.deepcopy(cell(nb, "check-11"))
    copied["id"] = "new-id"
    cells.insert(position(nb, "check-11"), copied)
    cell(nb, "check-12")["id"] = "another-id"
    gone = code('check("90.99")', "gone", role="check", exercise="90.99")
    cells.insert(position(nb, "check-13"), gone)
    # Run and saved: the stored outputs are the learner's and count for nothing.
    cell(nb, "check-3").update(
        execution_count=3, outputs=released()["cells"][position(exercises(), "check-3")]["outputs"]
    )
    return nb
