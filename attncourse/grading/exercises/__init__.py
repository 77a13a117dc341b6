"""The exercises of the course, one module a chapter, loaded when a chapter is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attncourse.grading.spec import Exercise

CHAPTERS = ("00", "01", "04", "05", "07", "09", "13")


def chapter_exercises(chapter: str) -> tuple[Exercise, ...]:
    """Return the exercises of a chapter, in the order in which they are worked.

    Args:
        chapter: Two digits, "04".

    Raises:
        LookupError: The chapter has no exercises.
    """
    if chapter not in CHAPTERS:
        raise LookupError(f"no exercises for chapter {chapter!r}: there are {', '.join(CHAPTERS)}")
    return importlib.import_module(f"{__name__}.ch{chapter}").EXERCISES


def exercise(exercise_id: str) -> Exercise:
    """Return one exercise.

    Args:
        exercise_id: "04.3", or "04.V7" for an exercise of the source documents.

    Raises:
        LookupError: There is no such exercise.
    """
    chapter = str(exercise_id).partition(".")[0]
    if chapter not in CHAPTERS:
        raise LookupError(f"no exercise {exercise_id!r}: the chapters are {', '.join(CHAPTERS)}")
    found = {exercise.id: exercise for exercise in chapter_exercises(chapter)}
    if exercise_id not in found:
        raise LookupError(f"no exercise {exercise_id!r}: chapter {chapter} has {', '.join(found)}")
    return found[exercise_id]
