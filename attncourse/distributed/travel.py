"""How functions, arguments and results reach another process: pickled, or as a function's text."""

from __future__ import annotations
import __future__

import dis
import importlib
import inspect
import io
import pickle
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType
from typing import Any


def dumps(value: Any) -> bytes:
    """Pickle a value for another process.

    A tensor goes without its graph, and a part of one without the rest. What stands in a module is
    named, to be imported there. What a notebook or script defines cannot be imported: a function of
    it goes as its text, with the modules, functions and values that the text names.

    Raises:
        TypeError: A function without a text of its own or that uses a variable of one around it, a
            class of the notebook, or something else that cannot be pickled.
    """
    out = io.BytesIO()
    try:
        _Pickler(out, pickle.HIGHEST_PROTOCOL).dump(value)
    except (pickle.PicklingError, AttributeError) as error:
        raise TypeError(f"this cannot travel to another process: {error}") from None
    return out.getvalue()


def first_line(error: BaseException) -> str:
    """Return ": " and the first line of what an error says, empty if it says nothing."""
    try:
        line = next(iter(str(error).splitlines()), "")
    except Exception as wrong:
        line = f"its message raises {type(wrong).__name__}"
    return f": {line}" if line else ""


@dataclass
class _Text:
    """A function of a notebook or script, with what it names there.

    Attributes:
        name: The function's.
        functions: Texts by name: those of the notebook's functions that it calls, and its own.
        modules: Names of modules, by the names they go by.
        values: Everything else that it names.
    """

    name: str
    functions: dict[str, str] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, FunctionType) and value.__module__ == "__main__":
            text = _Text(value.__name__)
            _add(value, text)
            return _made, (text,)
        if isinstance(value, type) and value.__module__ == "__main__":
            raise TypeError(
                f"the class {value.__name__} cannot travel to another process: "
                "a notebook's or script's functions can, classes must stand in a module"
            )
        torch = sys.modules.get("torch")
        if torch is None or type(value) is not torch.Tensor:
            return NotImplemented
        own = value.detach()
        if own.untyped_storage().nbytes() != own.nbytes:
            own = own.clone()
        return own.requires_grad_(value.requires_grad and value.is_leaf).__reduce_ex__(2)


def _made(text: _Text) -> Any:
    """Return the function of a text, in the process that it has come to."""
    names: dict[str, Any] = {"__name__": "__notebook__"}
    names |= {name: importlib.import_module(module) for name, module in text.modules.items()}
    names |= text.values
    for name, source in text.functions.items():
        exec(_compiled(name, source), names)
    return names[text.name]


def _add(function: FunctionType, text: _Text) -> None:
    """Add a function of the notebook to a text, and before it what it names."""
    name, free = function.__name__, function.__code__.co_freevars
    if name == "<lambda>":
        raise TypeError("a lambda cannot travel to another process: give it a name by def")
    if free:
        raise TypeError(
            f"{name} cannot travel to another process: it uses {free[0]} of the function around "
            "it; make that an argument"
        )
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        raise TypeError(
            f"{name} cannot travel to another process: its text is not to be found; "
            "put it in a cell or a file"
        ) from None
    text.functions[name] = ""  # known from here on, for those that call one another
    for used in sorted(set(_names(_compiled(name, source)))):
        if used in text.functions or used not in function.__globals__:
            continue
        value = function.__globals__[used]
        if isinstance(value, ModuleType):
            text.modules[used] = value.__name__
        elif _is_from_here(value, used):
            _add(value, text)
        else:
            text.values[used] = value
    del text.functions[name]
    text.functions[name] = source


def _is_from_here(value: Any, name: str) -> bool:
    return (
        isinstance(value, FunctionType)
        and value.__module__ == "__main__"
        and value.__name__ == name
    )


def _compiled(name: str, source: str) -> CodeType:
    flags = __future__.annotations.compiler_flag  # names in annotations are not looked up
    return compile(source, f"<{name}>", "exec", flags=flags, dont_inherit=True)


def _names(code: CodeType) -> Iterator[str]:
    """Yield the global names that a code and those within it look up."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
