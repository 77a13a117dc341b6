"""The matrix products that NumPy executes in a call, counted."""

from __future__ import annotations

import math
import string
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np

# They drop the subclass or make an array without one, and `a @ b` on their results must be seen.
_ARRAY_MAKERS = (
    *("array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray"),
    *("arange", "empty", "eye", "full", "identity", "linspace", "ones", "zeros"),
)

_open: list[list[int]] = []  # the multiply-adds of each count under way, those inside it included


def count_flops(function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Count the matrix products that `function(*args, **kwargs)` executes, 2 per multiply-add.

    Counted are `@`, np.matmul, np.dot, np.inner, np.vdot, np.vecdot, np.matvec, np.vecmat,
    np.einsum, np.tensordot and what NumPy builds from them, and torch's products as torch itself
    counts them, its fused attention on a CPU included; causal skips nothing there. Exponentials,
    sums and scaling are not. The call computes what it always computes: its arrays carry a counter,
    nothing else. They inherit it from the arguments and from NumPy's array makers, which are
    replaced while the call runs, so let no other thread use NumPy meanwhile. Counts may be taken
    inside each other.

    Arrays, and tuples of them, count as arguments do where the function finds them in its closure,
    its defaults or the globals that it or code inside it names; so do those of the functions of its
    own module that it finds so. The product of two arrays that come from elsewhere goes unseen, and
    is counted as 0: two straight from a random generator, two attributes of an object, two in a
    list or dict or bound by a partial that is no argument, two globals of another module. Pass such
    arrays as arguments.

    Args:
        function: What to run, once.
        *args: Its arguments; arrays in tuples, lists and dicts count too.
        **kwargs: Its keyword arguments.

    Returns:
        FLOPs: twice the number of multiply-adds.

    Raises:
        NotImplementedError: np.einsum was called with lists of indices instead of a string.
    """
    if isinstance(function, partial):
        args, kwargs = (*function.args, *args), function.keywords | kwargs
        return count_flops(function.func, *args, **kwargs)
    count = [0]
    makers = {name: getattr(np, name) for name in _ARRAY_MAKERS}
    _open.append(count)
    try:
        for name, maker in makers.items():
            setattr(np, name, _Counted.making(maker))
        with _carried_counted(function), _torch_counted() as torch_flops:
            function(*_Counted.wrap(args), **_Counted.wrap(kwargs))
    finally:
        for name, maker in makers.items():
            setattr(np, name, maker)
        _open.pop()
    return 2 * count[0] + torch_flops()


class _Counted(np.ndarray):
    """An ndarray that counts the matrix products it takes part in."""

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        cls = type(self)
        result = getattr(ufunc, method)(*cls.plain(inputs), **cls.plain(kwargs))
        if ufunc.__name__ in ("matmul", "vecdot", "matvec", "vecmat") and method == "__call__":
            axis = kwargs["axes"][0][-1] if "axes" in kwargs else kwargs.get("axis", -1)
            _book(np.size(result) * np.shape(inputs[0])[axis])
        if "out" in kwargs:
            return kwargs["out"] if ufunc.nout > 1 else kwargs["out"][0]
        return cls.wrap(result)

    def __array_function__(self, func, types, args, kwargs):
        cls = type(self)
        count = _PRODUCTS.get(func.__name__)
        if count is None:  # NumPy's own code, and the products inside it, run on counted arrays
            return cls.wrap(super().__array_function__(func, types, args, kwargs))
        args, kwargs = cls.plain(args), cls.plain(kwargs)
        result = func(*args, **kwargs)
        _book(count(result, *args, **kwargs))
        return cls.wrap(result)

    def dot(self, b, out=None):
        return np.dot(self, b, out)

    @classmethod
    def wrap(cls, value):
        """Let the plain arrays in `value` count, over the same memory."""
        return _convert(value, np.ndarray, cls)

    @classmethod
    def plain(cls, value):
        """See the counted arrays in `value` as plain ones, over the same memory."""
        return _convert(value, cls, np.ndarray)

    @classmethod
    def making(cls, maker):
        return lambda *args, **kwargs: cls.wrap(maker(*args, **kwargs))


def _book(multiply_adds: int) -> None:
    for count in _open:
        count[0] += multiply_adds


@contextmanager
def _carried_counted(function: Callable[..., Any]) -> Iterator[None]:
    """Let the arrays count that a function, and the helpers of its module, find by name."""
    own = getattr(function, "__globals__", None)
    waiting, followed = [function], set()
    with ExitStack() as later:
        while waiting:
            helper = waiting.pop()
            if isinstance(helper, MethodType):
                helper = helper.__func__
            theirs = not isinstance(helper, FunctionType) or helper.__globals__ is not own
            if theirs or helper in followed:
                continue
            followed.add(helper)
            for get, put in _places(helper):
                plain = get()
                waiting.extend(plain if isinstance(plain, tuple) else (plain,))
                counted = _Counted.wrap(plain) if isinstance(plain, (np.ndarray, tuple)) else plain
                if counted is not plain:
                    put(counted)
                    later.callback(_put_back, get, put, plain, counted)
        yield


def _places(function: FunctionType) -> Iterator[tuple[Callable[[], Any], Callable[[Any], None]]]:
    """Yield how to get and how to put each thing that a function finds by name or by default."""
    for cell in function.__closure__ or ():
        yield partial(_content, cell), partial(setattr, cell, "cell_contents")
    yield partial(getattr, function, "__defaults__"), partial(setattr, function, "__defaults__")
    defaults = function.__kwdefaults__ or {}
    for place, names in (
        (defaults, defaults),
        (function.__globals__, _global_names(function.__code__)),
    ):
        for name in names:
            yield partial(place.get, name), partial(place.__setitem__, name)


def _global_names(code: CodeType) -> set[str]:
    """Return the names, at least, that a function and those inside it look up in the globals."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_global_names, inner))


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is still empty
        return None


def _put_back(get: Callable, put: Callable, plain: Any, counted: Any) -> None:
    """Give a place what it held, unless the call has put something else there."""
    if get() is counted:
        put(plain)


@contextmanager
def _torch_counted() -> Iterator[Callable[[], int]]:
    """Let torch count its products, if it is loaded; yield what gives their FLOPs."""
    if "torch" not in sys.modules:
        yield lambda: 0
        return
    from torch.utils.flop_counter import FlopCounterMode

    aten, flash = sys.modules["torch"].ops.aten, "_scaled_dot_product_flash_attention"
    with FlopCounterMode(display=False) as counter:
        formulas = counter.flop_registry
        for end in ("", "_backward"):  # torch has none for its kernels of a CPU
            formulas[getattr(aten, f"{flash}_for_cpu{end}")] = formulas[getattr(aten, flash + end)]
        yield counter.get_total_flops


def _convert(value, old: type, new: type):
    if type(value) is old:
        return value.view(new)
    if type(value) in (tuple, list):
        return type(value)(_convert(part, old, new) for part in value)
    if type(value) is dict:
        return {key: _convert(part, old, new) for key, part in value.items()}
    return value


def _dot_products(result, a, b, out=None) -> int:
    return np.size(result) * np.shape(a)[-1] if np.ndim(a) and np.ndim(b) else 0


def _vdot_products(result, a, b) -> int:
    return np.size(a)


def _tensordot_products(result, a, b, axes=2) -> int:
    a_axes = range(-axes, 0) if isinstance(axes, int) else np.ravel(axes[0]).tolist()
    return np.size(result) * math.prod(np.shape(a)[axis] for axis in a_axes)


def _einsum_products(result, subscripts, *arrays, optimize=False, **_) -> int:
    """Multiply-adds of einsum: for each product of a pair, the sizes of all its indices."""
    if not isinstance(subscripts, str):
        raise NotImplementedError(
            "measure.count_flops: np.einsum is counted with its indices in a string only"
        )
    terms, kept = _einsum_terms(subscripts, arrays)
    sizes: dict[str, int] = {}
    for term, array in zip(terms, arrays, strict=True):
        for index, size in zip(term, np.shape(array), strict=True):
            sizes[index] = max(size, sizes.get(index, 1))
    path = [tuple(range(len(arrays)))]
    if optimize is not False:
        path = np.einsum_path(subscripts, *arrays, optimize=optimize)[0][1:]
    total = 0
    for step in path:
        together = set().union(*(terms[position] for position in step))
        total += (len(step) - 1) * math.prod(sizes[index] for index in together)
        terms = [term for position, term in enumerate(terms) if position not in step]
        terms.append("".join(together & kept.union(*terms)))
    return total


def _einsum_terms(subscripts: str, arrays) -> tuple[list[str], set[str]]:
    """Return each array's indices, the ellipsis spelt out, and the indices of the result."""
    given, arrow, result = subscripts.replace(" ", "").partition("->")
    spare = [letter for letter in string.ascii_letters if letter not in subscripts]
    terms, leading = [], ""
    for term, array in zip(given.split(","), arrays, strict=True):
        n_leading = np.ndim(array) - len(term.replace("...", ""))
        ellipsis = "".join(spare[:n_leading][::-1])  # aligned at the right, as broadcasting is
        leading = max(leading, ellipsis, key=len)
        terms.append(term.replace("...", ellipsis))
    if not arrow:
        result = "".join(i for i in set(given) if i.isalpha() and given.count(i) == 1)
        return terms, set(result + leading)
    return terms, set(result.replace("...", leading))


_PRODUCTS = {
    "dot": _dot_products,
    "inner": _dot_products,
    "vdot": _vdot_products,
    "tensordot": _tensordot_products,
    "einsum": _einsum_products,
}
