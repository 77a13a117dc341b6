"""Exercises and their grading. In a notebook: `check("04.3")` and `hint("04.3")`."""

from attncourse.grading.check import check, hint

__all__ = ["check", "hint"]
