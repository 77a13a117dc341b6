"""`check("04.3")`: find the learner's function, have it judged, show the verdict."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

from attncourse.grading import exercises, progress
from attncourse.grading.judging import judge
from attncourse.grading.messages import Verdict, error_words, plain, verdict

__all__ = ["check", "hint", "judge"]

_broken_cells: dict[str, str] = {}  # function -> why the last cell that should define it failed


def check(exercise_id: str, function: Callable | None = None) -> None:
    """Judge the answer to an exercise and show the verdict.

    Args:
        exercise_id: "04.3".
        function: The answer, if it is not to be found by its name in the notebook.

    Raises:
        LookupError: There is no such exercise.
    """
    caller = sys._getframe(1).f_globals
    try:
        exercise = exercises.exercise(exercise_id)
    except LookupError:
        raise
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
    _show(result)


def hint(exercise_id: str) -> None:
    """Show the next of an exercise's three hints and record that it was taken.

    Raises:
        LookupError: There is no such exercise.
    """
    exercise = exercises.exercise(exercise_id)
    level = progress.record_hint(exercise.id)
    print(f"{exercise.id} {exercise.title}: hint {level} of {len(exercise.hints)}")
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


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


def _after_cell(result: Any) -> None:
    """Note which functions a failed cell should have defined: IPython's `post_run_cell`."""
    error = result.error_before_exec or result.error_in_exec
    for name in re.findall(r"^(?:async )?def (\w+)", result.info.raw_cell or "", re.MULTILINE):
        if error is None:
            _broken_cells.pop(name, None)
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

    display({"text/plain": str(result)}, raw=True, metadata={"attncourse": result.data})


if (shell := _shell()) is not None:
    shell.events.register("post_run_cell", _after_cell)
