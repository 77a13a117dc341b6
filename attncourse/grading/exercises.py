"""The exercises of the course, by chapter: made from their released cells when asked for."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from attncourse.grading import submission

if TYPE_CHECKING:
    from attncourse.grading.spec import Exercise


def chapters() -> tuple[str, ...]:
    """Return the chapters that have exercises, two digits each, in order."""
    return tuple(dict.fromkeys(stem[:2] for stem in submission.released_stems()))


@functools.cache
def chapter_exercises(chapter: str) -> tuple[Exercise, ...]:
    """Return the exercises of a chapter, in the order in which they are worked.

    Args:
        chapter: Two digits, "04".

    Raises:
        LookupError: The chapter has no exercises.
    """
    if chapter not in chapters():
        raise LookupError(
            f"no exercises for chapter {chapter!r}: there are {', '.join(chapters())}"
        )
    from attncourse.grading.assembly import exercises

    [stem] = [stem for stem in submission.released_stems() if stem.startswith(chapter)]
    return exercises(submission.grading_cells(stem))


def exercise(exercise_id: str) -> Exercise:
    """Return one exercise.

    Args:
        exercise_id: "04.3", or "04.V7" for an exercise of the source documents.

    Raises:
        LookupError: There is no such exercise.
    """
    chapter = str(exercise_id).partition(".")[0]
    if chapter not in chapters():
        raise LookupError(f"no exercise {exercise_id!r}: the chapters are {', '.join(chapters())}")
    found = {exercise.id: exercise for exercise in chapter_exercises(chapter)}
    if exercise_id not in found:
        raise LookupError(f"no exercise {exercise_id!r}: chapter {chapter} has {', '.join(found)}")
    return found[exercise_id]
