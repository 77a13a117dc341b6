"""What a function carries from call to call: arrays in its defaults, globals, closure, attributes.

The allocation meter counts what a call makes. A buffer that was made before, when the cell was run
or in an earlier call, is not among it, though the function uses it: it is found here, by following
the references from the function. Helper functions of the learner's are followed, packages are not.
"""

from __future__ import annotations

import ctypes
import dis
import functools
import gc
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from mmap import mmap
from types import (
    CellType,
    CodeType,
    FunctionType,
    GeneratorType,
    MappingProxyType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

import numpy as np

from attncourse.grading.places import namespace, nested, unwrap
from attncourse.grading.values import is_array, is_tensor
from attncourse.units import format_bytes

WORTH_NAMING = 1024  # bytes
MOST_OBJECTS = 10**5  # that are looked at
_OF_A_PACKAGE = sys.stdlib_module_names - {"__main__"} | {"attncourse"}
_CONTAINERS = (
    *(dict, list, tuple, set, frozenset, deque),
    *(CellType, GeneratorType, MappingProxyType, MethodType),
    *(functools.partial, functools._lru_cache_wrapper, SimpleNamespace),
)


@dataclass
class Carried:
    """What one name carries.

    Attributes:
        name: "the default argument `buffer`".
        bytes: All of it together.
        largest: Bytes of its largest part.
        part: That part in words: "a (2048, 2048) float32 array"; empty if all are small.
    """

    name: str
    bytes: int = 0
    largest: int = 0
    part: str = ""

    def __str__(self) -> str:
        if not self.part:
            return f"{self.name} holds {format_bytes(self.bytes)} of Python objects"
        several = self.largest < 0.95 * self.bytes
        rest = f", {format_bytes(self.bytes)} in all" if several else ""
        return f"{self.name} holds {self.part}{rest}"


def carried(function: Any) -> list[Carried]:
    """Return what a function carries, by the name that it goes by, the largest first."""
    found: dict[str, Carried] = {}
    first, own = unwrap(function), namespace(function)
    waiting: deque[tuple[str, Any]] = deque([("your function", function)])
    seen = set()
    while waiting and len(seen) < MOST_OBJECTS:
        name, value = waiting.popleft()
        value = _owner(value)
        if id(value) in seen or value is own:
            continue
        seen.add(id(value))
        if isinstance(value, FunctionType):
            if value is first or value.__globals__ is own or _is_own(value):
                waiting.extend(_names(value, "" if value is first else f" of `{value.__name__}`"))
            continue
        n_bytes, words = _size(value)
        if n_bytes:
            entry = found.setdefault(name, Carried(name))
            entry.bytes += n_bytes
            if words and n_bytes > entry.largest:
                entry.largest, entry.part = n_bytes, words
        waiting.extend((name, part) for part in _parts(value))
    return sorted(found.values(), key=lambda entry: -entry.bytes)


def _names(function: FunctionType, of: str) -> Iterator[tuple[str, Any]]:
    """Yield what a function reaches by name; `of` says whose, if it is not the answer itself."""
    code = function.__code__
    defaults = function.__defaults__ or ()
    positional = code.co_varnames[: code.co_argcount]
    for name, value in chain(
        zip(positional[len(positional) - len(defaults) :], defaults, strict=True),
        (function.__kwdefaults__ or {}).items(),
    ):
        yield f"the default argument `{name}`{of}", value
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not assigned yet
            yield f"the enclosing function's variable `{name}`", cell.cell_contents
    for name, value in vars(function).items():
        yield f"the attribute `{name}` of `{function.__name__}`", value
    codes = nested(code)
    names = dict.fromkeys(chain.from_iterable(_operands(each, "LOAD_GLOBAL") for each in codes))
    # Also as `globals()["name"]`, `getattr(module, "name")`, `module.__dict__["name"]`.
    written = [each for part in codes for each in part.co_consts if isinstance(each, str)]
    if "globals" in names:
        names |= dict.fromkeys(written)
    for name in names:
        if name in function.__globals__:
            yield f"the global variable `{name}`", function.__globals__[name]
    attributes = {*chain.from_iterable(each.co_names for each in codes), *written}
    imported = chain.from_iterable(_operands(each, "IMPORT_NAME") for each in codes)
    modules = [function.__globals__.get(name) for name in names] + [
        sys.modules.get(name) for name in imported
    ]
    yield from _arrays_in(modules, attributes)


def _operands(code: CodeType, operation: str) -> Iterator[str]:
    # co_names would not do: it holds names of several kinds.
    return (each.argval for each in dis.get_instructions(code) if each.opname == operation)


def _arrays_in(modules: list[Any], names: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield arrays of these names in modules and their submodules: somebody has put them there."""
    seen = set()
    while modules:
        module = modules.pop()
        if not isinstance(module, ModuleType) or id(module) in seen:
            continue
        seen.add(id(module))
        found = {name: vars(module)[name] for name in names & vars(module).keys()}
        modules += found.values()
        for name, value in found.items():
            if is_array(value) or isinstance(value, mmap):
                yield f"`{name}` of the module `{module.__name__}`", value


def _owner(value: Any) -> Any:
    """The array whose memory a view shows, anything else as it is."""
    while type(value) is np.ndarray and isinstance(value.base, np.ndarray):
        value = value.base
    return value


def _size(value: Any) -> tuple[int, str]:
    """Bytes of an object without its parts, and what to call it."""
    if isinstance(value, np.ndarray):
        low, high = np.lib.array_utils.byte_bounds(
            value
        )  # a broadcast array takes less than nbytes
        return min(value.nbytes, high - low), f"a {value.shape} {value.dtype} array"
    if is_tensor(value):
        dtype = str(value.dtype).removeprefix("torch.")
        return value.untyped_storage().nbytes(), f"a {tuple(value.shape)} {dtype} tensor"
    if isinstance(value, type | CodeType):
        return 0, ""
    with suppress(Exception):  # an object may refuse
        n_bytes = sys.getsizeof(value)
        if isinstance(value, mmap | ctypes.Array | memoryview):
            with memoryview(value) as view:
                n_bytes = view.nbytes
        if n_bytes < WORTH_NAMING or isinstance(value, _CONTAINERS):
            return n_bytes, ""
        return n_bytes, f"a {type(value).__name__} of {format_bytes(n_bytes)}"
    return 0, ""


def _parts(value: Any) -> list[Any]:
    """What a container, or an object of the learner's, refers to."""
    if type(value) is np.ndarray:
        return value.ravel().tolist() if value.dtype.hasobject else []
    if type(value) in (int, float, complex):
        return []
    if isinstance(value, ModuleType):
        return list(vars(value).values()) if _is_made_by_hand(value) else []
    if isinstance(value, type):
        return list(vars(value).values()) if _is_own(value) else []
    if isinstance(value, _CONTAINERS) or _is_own(type(value)):
        return [part for part in gc.get_referents(value) if part is not type(value)] + [type(value)]
    return []


def _is_made_by_hand(module: ModuleType) -> bool:
    """Whether a module is a mere place to put things, not imported and not the notebook."""
    space = vars(module)
    named = space.get("__spec__") or space.get("__file__") or space.get("__name__") == "__main__"
    return not named


def _is_own(value: Any) -> bool:
    """Whether a function or class is the learner's, not a package's."""
    name = getattr(value, "__module__", None)
    root = name.partition(".")[0] if isinstance(name, str) else "builtins"
    if root in _OF_A_PACKAGE:
        return False
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return "site-packages" not in file and "dist-packages" not in file
