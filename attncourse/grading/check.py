"""`check("04.3")`: find the learner's function, have it judged, show the verdict."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from attncourse import progress
from attncourse.grading import exercises, quality
from attncourse.grading.judging import judge
from attncourse.grading.messages import Verdict, error_words, plain, verdict
from attncourse.grading.spec import Exercise

__all__ = ["check", "hint", "judge"]

STUB = "raise NotImplementedError"

WIDEST_LINE = 96  # columns of a notebook
_broken_cells: dict[str, str] = {}  # function -> why the last cell that should define it failed
_cells: dict[str, dict[str, bool]] = {}  # function -> cells that defined it: stub? Last run last


def check(exercise_id: str, function: Callable | None = None) -> None:
    """Judge the answer to an exercise and show the verdict.

    Args:
        exercise_id: "04.3". Of one that does not exist is said which there are.
        function: The answer, if it is not to be found by its name in the notebook.
    """
    caller = sys._getframe(1).f_globals
    try:
        exercise = find_exercise(exercise_id)
    except LookupError as error:
        print(error)
        return
    except Exception as error:
        _show(Verdict(str(exercise_id), "", "grader_error", 0, 0, reason=error_words(error)))
        return
    reason, name = "", exercise.function
    if function is None:
        function, reason = _find(name, caller)
    if function is None:
        result = verdict(exercise, "not_attempted", reason=reason)
    else:
        result = judge(exercise, function)
    if result.status == "passed":
        progress.record_pass(exercise.id)
    elif result.status == "not_attempted" and not result.reason and _elsewhere(name):
        reason = f"another cell has defined `{name}` too: if it is below this check, move it above"
        result = replace(result, reason=reason)
    _show(result)
    if result.moved is not None or result.roofline is not None:
        best = progress.record_best(exercise.id, moved=result.moved, roofline=result.roofline)
        print(f"          {quality.words(result, best)}")


def hint(exercise_id: str) -> None:
    """Show the next of an exercise's three hints and record that it was taken.

    Of an exercise that does not exist is said which there are.
    """
    try:
        show_hint(find_exercise(exercise_id))
    except LookupError as error:
        print(error)


def find_exercise(exercise_id: Any) -> Exercise:
    """Return an exercise; its chapter may be given with one digit, as in "4.3".

    Raises:
        LookupError: There is no such exercise.
    """
    chapter, dot, number = str(exercise_id).strip().partition(".")
    return exercises.exercise(f"{chapter.zfill(2)}{dot}{number.upper()}")


def show_hint(exercise: Exercise) -> None:
    """Print the next hint and record it; after the last one, that one again."""
    last = len(exercise.hints)
    again = ", the last: there are no more"
    again = again if progress.load().entry(exercise.id).hints >= last else ""
    level = progress.record_hint(exercise.id)
    print(f"{exercise.id} {exercise.title}: hint {level} of {last}{again}")
    print(exercise.hints[level - 1])


def _find(name: str, caller: dict) -> tuple[Any, str]:
    """Return the learner's function, or None and why there is none."""
    shell = _shell()
    space = caller if shell is None else shell.user_ns
    broken = _broken_cells.get(name, "")
    function = None if broken.startswith("SyntaxError") else space.get(name)
    if function is not None:
        return function, ""
    if broken:
        return None, f"the cell above raised {broken}"
    return None, f"`{name}` is not defined: run the cell above first"


def _elsewhere(name: str) -> bool:
    """Whether a stub has taken the place of an answer that was run in another cell."""
    return not all(list(_cells.get(name, {}).values())[:-1])


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


def _after_cell(result: Any) -> None:
    """Note which functions a failed cell should have defined: IPython's `post_run_cell`."""
    error = result.error_before_exec or result.error_in_exec
    head = r"^(?:(?:async )?def|class) (\w+)"
    for name in re.findall(head, result.info.raw_cell or "", re.MULTILINE):
        if error is None:
            _broken_cells.pop(name, None)
            cells = _cells.setdefault(name, {})
            cells.pop(result.info.cell_id, None)
            cells[result.info.cell_id] = STUB in result.info.raw_cell
        else:
            kind = "SyntaxError" if isinstance(error, SyntaxError) else type(error).__name__
            line = f", line {error.lineno}" if getattr(error, "lineno", None) else ""
            message = plain(getattr(error, "msg", None) or error)
            _broken_cells[name] = f"{kind}: {message}{line}"


def _show(result: Verdict) -> None:
    """Display the verdict: its text, and for the plugin its data in the output's metadata."""
    if _shell() is None:
        print(result)
        return
    from IPython.display import display

    # JupyterLab would break a long line within a word.
    text = "\n".join(map(_folded, str(result).splitlines()))
    display({"text/plain": text}, raw=True, metadata={"attncourse": result.data})


def _folded(line: str) -> str:
    """Break a line at spaces, its rest indented as the text of a verdict's parts is."""
    return textwrap.fill(
        line,
        WIDEST_LINE,
        subsequent_indent=10 * " ",
        drop_whitespace=len(line) > WIDEST_LINE,
        break_long_words=False,
        break_on_hyphens=False,
    )


if (shell := _shell()) is not None:
    shell.events.register("post_run_cell", _after_cell)
