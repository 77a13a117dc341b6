"""Where in the learner's code something happened: a line counted from the head of the function."""

from __future__ import annotations

import linecache
from dataclasses import dataclass
from types import CodeType, FunctionType, TracebackType
from typing import Any


@dataclass(frozen=True)
class Place:
    """A line of the learner's code.

    Attributes:
        line: 1 is the first line of the function (its decorator, if it has one).
        text: The line itself, stripped; empty where the source is not at hand.
        helper: The name of the function or method, unless it is the answer itself.
    """

    line: int
    text: str
    helper: str | None = None

    def __str__(self) -> str:
        owner = f"`{self.helper}`" if self.helper else "your function"
        return f"line {self.line} of {owner}"


def unwrap(function: Any) -> FunctionType | None:
    """Return the Python function inside a wrapper, partial, method, jit function or instance.

    Of a class it is the first method, whose namespace is that of the others.
    """
    for _ in range(10):
        if isinstance(function, type):
            methods = (each for each in vars(function).values() if isinstance(each, FunctionType))
            return next(methods, None)
        if isinstance(function, FunctionType) and not hasattr(function, "__wrapped__"):
            return function
        inner = next(
            (
                value
                for name in ("__wrapped__", "func", "fn", "__func__")
                if callable(value := getattr(function, name, None))
            ),
            getattr(type(function), "__call__", None),  # noqa: B004 (wanted: the method itself)
        )
        if inner is None or inner is function:
            return None
        function = inner
    return None


def namespace(function: Any) -> dict | None:
    """Return the globals of the answer: frames that share them are the learner's own code."""
    plain = unwrap(function)
    return None if plain is None else plain.__globals__


def place(function: Any, code: CodeType, line: int) -> Place:
    """Describe an absolute line of `code`, counted from the head of the function it stands in."""
    text = linecache.getline(code.co_filename, line).strip()
    answer = unwrap(function)
    is_class = isinstance(getattr(function, "__wrapped__", function), type)
    if answer is not None and not is_class and code in nested(answer.__code__):
        return Place(line - answer.__code__.co_firstlineno + 1, text)
    return Place(line - code.co_firstlineno + 1, text, code.co_name)


def last_place(function: Any, traceback: TracebackType | None) -> Place | None:
    """Return the innermost line of a traceback that the learner wrote."""
    found, own = None, namespace(function)
    while traceback is not None:
        if traceback.tb_frame.f_globals is own:
            found = (traceback.tb_frame.f_code, traceback.tb_lineno or _line_before(traceback))
        traceback = traceback.tb_next
    return place(function, *found) if found else None


def _line_before(traceback: TracebackType) -> int:
    """Return the line before what the compiler added without one, as at the end of an except."""
    code = traceback.tb_frame.f_code
    lines = [line for start, _, line in code.co_lines() if line and start <= traceback.tb_lasti]
    return lines[-1] if lines else code.co_firstlineno


def nested(code: CodeType) -> set[CodeType]:
    """Return a code object and those of the functions inside it."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return {code}.union(*(nested(each) for each in inner))
