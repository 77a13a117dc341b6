"""What a Triton kernel touched: its tiles, its bytes, and its accesses out of bounds.

Triton's interpreter runs a kernel program by program on the CPU. `record` puts itself between the
kernel and the interpreter's loads and stores, and writes down each one:

    >>> traced = record(window.attention, q, k, v, window=64)  # doctest: +SKIP
    >>> traced.bytes_loaded("k"), traced.out_of_bounds  # doctest: +SKIP
    (163840, [])

A load out of bounds does not end the process, as it may on a GPU: it is written down, and the
kernel gets NaN (0 for integers). A store out of bounds is written down and dropped.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attncourse.kernels import INTERPRETED  # and so before triton, which it prepares
from attncourse.units import format_bytes

if INTERPRETED:
    from triton.runtime import interpreter

TESTED = "3.6 to 3.9"


class TraceWarning(UserWarning):
    """This Triton has moved a hook of the recorder, so that something is missing in the trace."""


@dataclass(frozen=True)
class Access:
    """One load, store or atomic of one program.

    Attributes:
        kernel: The kernel's name without its underscore and `_kernel`.
        program: (x, y, z) of the grid.
        kind: "load", "store" or "atomic".
        tensor: The kernel's argument without `_ptr`; "?" for an address that belongs to none.
        rows: First and one past the last index on the axis before the last, among the elements
            in bounds; None if there are none, if the tensor has no such axis, or if it repeats
            itself along it (stride 0).
        columns: The same of the last axis.
        elements: How many elements were asked for, those masked away not counted.
        bytes: Their size.
        out_of_bounds: How many of them lie outside of the tensor, or in a gap between its rows.
    """

    kernel: str
    program: tuple[int, int, int]
    kind: str
    tensor: str
    rows: tuple[int, int] | None
    columns: tuple[int, int] | None
    elements: int
    bytes: int
    out_of_bounds: int


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    Attributes:
        kernel: The kernel's name, as in `Access`.
        grid: (x, y, z), how many programs on each axis.
        shapes: The shape of each tensor argument, by name.
    """

    kernel: str
    grid: tuple[int, int, int]
    shapes: dict[str, tuple[int, ...]]


@dataclass
class Trace:
    """All that the kernels of one call touched, in the order in which they did.

    Attributes:
        result: What the call returned.
        launches: The kernels that ran.
        accesses: Their loads, stores and atomics.
        flops: Of their `tl.dot`s, 2 per multiply-add, masked elements included.
    """

    result: Any = None
    launches: list[Launch] = field(default_factory=list)
    accesses: list[Access] = field(default_factory=list)
    flops: int = 0

    @property
    def programs(self) -> list[tuple[int, int, int]]:
        """The programs, in the order in which they ran; of several launches, each place once."""
        places = (place for launch in self.launches for place in np.ndindex(*launch.grid))
        return list(dict.fromkeys(places))

    @property
    def out_of_bounds(self) -> list[Access]:
        """The accesses that left their tensor."""
        return [access for access in self.accesses if access.out_of_bounds]

    def bytes_loaded(self, tensor: str | None = None) -> int:
        """Return the bytes read from one tensor, or from all. Atomics read and write."""
        return self._bytes("store", tensor)

    def bytes_stored(self, tensor: str | None = None) -> int:
        """Return the bytes written to one tensor, or to all. Atomics read and write."""
        return self._bytes("load", tensor)

    def _bytes(self, other_kind: str, tensor: str | None) -> int:
        return sum(
            access.bytes
            for access in self.accesses
            if access.kind != other_kind and tensor in (None, access.tensor)
        )

    def tiles(
        self, tensor: str, kernel: str | None = None
    ) -> dict[tuple[int, int, int], list[tuple[tuple[int, int], tuple[int, int]]]]:
        """Return program -> the (rows, columns) of a tensor that it touched, in order.

        Args:
            tensor: A name as in `Access`.
            kernel: Of this kernel only.
        """
        found: dict = {}
        for access in self.accesses:
            if access.tensor == tensor and kernel in (None, access.kernel):
                found.setdefault(access.program, []).append((access.rows, access.columns))
        return found

    def __repr__(self) -> str:
        if not self.launches:
            return "no kernel ran"
        kernels = dict.fromkeys(launch.kernel for launch in self.launches)
        return "\n".join(self._line(kernel) for kernel in kernels)

    def _line(self, kernel: str) -> str:
        """Return what one kernel did, in one line."""
        n_programs = sum(math.prod(x.grid) for x in self.launches if x.kernel == kernel)
        accesses = [access for access in self.accesses if access.kernel == kernel]
        groups: dict[tuple[str, str], list[Access]] = {}
        for access in accesses:
            groups.setdefault((access.tensor, access.kind), []).append(access)
        parts = [_count(n_programs, "program")]
        for (tensor, kind), group in groups.items():
            n_bytes = format_bytes(sum(access.bytes for access in group))
            parts.append(f"{tensor} {_DONE[kind]} {n_bytes} in {_count(len(group), 'tile')}")
        beyond = dict.fromkeys(access.tensor for access in accesses if access.out_of_bounds)
        parts.append(
            f"OUT OF BOUNDS in {', '.join(beyond)}" if beyond else "no access out of bounds"
        )
        return f"{kernel}: {', '.join(parts)}"


_DONE = {"load": "read", "store": "written", "atomic": "updated"}


def record(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Trace:
    """Call a function and return what the Triton kernels in it touched.

    Args:
        function: Anything that launches kernels.
        *args: Its arguments.
        **kwargs: Its arguments.

    Raises:
        RuntimeError: Kernels run on a GPU in this process, where nothing can be recorded.
    """
    with recording() as trace:
        trace.result = function(*args, **kwargs)
    return trace


@contextlib.contextmanager
def recording() -> Iterator[Trace]:
    """Record all kernels that run in a `with` block, which gets the `Trace` at once.

    Raises:
        RuntimeError: Kernels run on a GPU in this process, where nothing can be recorded.
    """
    if not INTERPRETED:
        raise RuntimeError(
            "trace.record: kernels run on the GPU in this process, and only Triton's interpreter "
            "can be recorded; set TRITON_INTERPRET=1 before Python starts"
        )
    recorder = _Recorder()
    with contextlib.ExitStack() as stack:
        for owner, name, hook, parameters in recorder.hooks():
            original = getattr(owner, name, None)
            if original is None or _parameters(original)[: len(parameters)] != parameters:
                warnings.warn(
                    f"Triton {interpreter.triton.__version__} has no "
                    f"{name}({', '.join(parameters)}) in its interpreter: what it does is not "
                    f"recorded. The recorder is tested with Triton {TESTED}",
                    TraceWarning,
                    stacklevel=3,
                )
                continue
            setattr(owner, name, _around(original, hook))
            stack.callback(setattr, owner, name, original)
        yield recorder.trace


def _around(original, hook):
    def hooked(*args, **kwargs):
        return hook(original, *args, **kwargs)

    # the recorder may be switched on twice, and then looks at the names again
    vars(hooked)["__signature__"] = inspect.signature(original)
    return hooked


def _parameters(function) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + "s" * (n != 1)


class _Tensor:
    """A tensor argument: where its elements lie."""

    def __init__(self, name: str, tensor: Any):
        # Triton's reinterpreted tensors hold the torch tensor as `base`
        base = tensor if hasattr(tensor, "stride") else tensor.base
        self.name = name
        self.address, self.itemsize = tensor.data_ptr(), base.element_size()
        self.shape, self.strides = tuple(base.shape), tuple(base.stride())
        ordered = sorted(range(base.ndim), key=lambda axis: -self.strides[axis])
        self.axes = [axis for axis in ordered if self.strides[axis] and self.shape[axis] != 1]
        steps = [(self.shape[axis] - 1) * self.strides[axis] for axis in self.axes]
        self.end = 1 + sum(steps)
        self.empty = 0 in self.shape
        # where rows overlap (as in a sliding view) an address has no single index
        self.overlaps = any(
            self.strides[axis] <= sum(steps[i + 1 :]) for i, axis in enumerate(self.axes)
        )

    def locate(self, addresses: np.ndarray) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """Return which addresses are elements of the tensor, and their index on each axis."""
        offset, rest = np.divmod(addresses.view(np.int64) - self.address, self.itemsize)
        inside = (rest == 0) & (offset >= 0) & (offset < self.end) & (not self.empty)
        index = {axis: np.zeros_like(offset) for axis, size in enumerate(self.shape) if size == 1}
        if not self.overlaps:
            for axis in self.axes:
                index[axis], offset = np.divmod(offset, self.strides[axis])
                inside &= index[axis] < self.shape[axis]
            inside &= offset == 0
        return inside, index


class _Recorder:
    """Stands between a kernel and the interpreter, and fills a `Trace`.

    Who an address belongs to is not guessed: each tensor argument becomes a pointer whose type
    object is its own, and the interpreter hands that object on through all pointer arithmetic.
    """

    def __init__(self):
        self.trace = Trace()
        self.kernel = ""
        self.arguments: dict[int, _Tensor] = {}

    def hooks(self) -> list[tuple[Any, str, Callable, list[str]]]:
        """Return (owner, attribute, what to call instead, its first parameters)."""
        builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
        return [
            (executor, "_init_args_hst", self.launch, ["args_dev", "kwargs"]),
            (interpreter, "_implicit_cvt", self.convert, ["arg"]),
            (builder, "set_grid_dim", self.grid, ["nx", "ny", "nz"]),
            (builder, "create_masked_load", self.load, ["ptrs", "mask", "other"]),
            (builder, "create_masked_store", self.store, ["ptrs", "value", "mask"]),
            (builder, "create_atomic_rmw", self.update, ["rmwOp", "ptr", "val", "mask"]),
            (builder, "create_atomic_cas", self.swap, ["ptr", "cmp", "val"]),
            (builder, "create_dot", self.dot, ["a", "b", "d"]),
        ]

    # Before the programs run

    def launch(self, original, executor, args, kwargs):
        args, kwargs = original(executor, args, kwargs)
        self.kernel = executor.fn.__name__.strip("_").removesuffix("_kernel")
        self.arguments = {}
        for name, value in [*zip(executor.arg_names, args, strict=False), *kwargs.items()]:
            for part in value if isinstance(value, tuple) else (value,):
                tensor = getattr(part, "base", part) if hasattr(part, "block_shape") else part
                if hasattr(tensor, "data_ptr"):
                    self.arguments[id(tensor)] = _Tensor(name.removesuffix("_ptr"), tensor)
        return args, kwargs

    def convert(self, original, arg):
        converted = original(arg)
        if id(arg) in self.arguments:
            converted.handle.dtype = copy.copy(converted.handle.dtype)
            converted.handle.dtype.argument = self.arguments[id(arg)]
        return converted

    def grid(self, original, builder, nx, ny, nz):
        shapes = {tensor.name: tensor.shape for tensor in self.arguments.values()}
        self.trace.launches.append(Launch(self.kernel, (nx, ny, nz), shapes))
        return original(builder, nx, ny, nz)

    # While they run

    def load(self, original, builder, ptrs, mask, other, *args, **kwargs):
        inside = self.note(builder, "load", ptrs, mask)
        result = original(builder, ptrs, _narrowed(mask, inside), other, *args, **kwargs)
        return result if inside is None else _filled(result, mask, inside)

    def store(self, original, builder, ptrs, value, mask, *args, **kwargs):
        inside = self.note(builder, "store", ptrs, mask)
        return original(builder, ptrs, value, _narrowed(mask, inside), *args, **kwargs)

    def update(self, original, builder, operation, ptr, val, mask, *args, **kwargs):
        inside = self.note(builder, "atomic", ptr, mask)
        result = original(builder, operation, ptr, val, _narrowed(mask, inside), *args, **kwargs)
        return result if inside is None else _filled(result, mask, inside)

    def swap(self, original, builder, ptr, cmp, val, *args, **kwargs):
        everywhere = interpreter.TensorHandle(np.ones(ptr.data.shape, bool), interpreter.tl.int1)
        if self.note(builder, "atomic", ptr, everywhere) is None:
            return original(builder, ptr, cmp, val, *args, **kwargs)
        return interpreter.TensorHandle(np.zeros_like(cmp.data), cmp.dtype)  # it takes no mask

    def dot(self, original, builder, a, b, *args, **kwargs):
        self.trace.flops += 2 * a.data.size * b.data.shape[-1]
        return original(builder, a, b, *args, **kwargs)

    def note(self, builder, kind, ptrs, mask) -> np.ndarray | None:
        """Write an access down; return which elements are in bounds, or None if all are."""
        asked = np.broadcast_to(np.asarray(mask.data), ptrs.data.shape)
        addresses = ptrs.data[asked]
        tensor = getattr(ptrs.dtype, "argument", None) or self.owner(addresses)
        if tensor is None:
            name, itemsize = "?", max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
            inside, index, n_axes = np.zeros(addresses.shape, bool), {}, 0
        else:
            name, itemsize, n_axes = tensor.name, tensor.itemsize, len(tensor.shape)
            inside, index = tensor.locate(addresses)
        access = Access(
            kernel=self.kernel,
            program=tuple(builder.grid_idx),
            kind=kind,
            tensor=name,
            rows=_span(index.get(n_axes - 2), inside),
            columns=_span(index.get(n_axes - 1), inside),
            elements=addresses.size,
            bytes=addresses.size * itemsize,
            out_of_bounds=addresses.size - int(np.count_nonzero(inside)),
        )
        self.trace.accesses.append(access)
        if not access.out_of_bounds:
            return None
        everywhere = np.ones(asked.shape, bool)
        everywhere[asked] = inside
        return everywhere

    def owner(self, addresses: np.ndarray) -> _Tensor | None:
        """Return the tensor around the first address, for pointers made from integers."""
        for tensor in self.arguments.values():
            if addresses.size and tensor.locate(addresses[:1])[0].all():
                return tensor
        return None


def _span(index: np.ndarray | None, inside: np.ndarray) -> tuple[int, int] | None:
    """Return the first and one past the last index of the elements in bounds."""
    if index is None or not inside.any():
        return None
    return int(index[inside].min()), int(index[inside].max()) + 1


def _narrowed(mask, inside: np.ndarray | None):
    """Return the mask without the elements out of bounds."""
    if inside is None:
        return mask
    return interpreter.TensorHandle(np.asarray(mask.data) & inside, interpreter.tl.int1)


def _filled(result, mask, inside: np.ndarray):
    """Return what was loaded, with NaN (0 for integers) in place of what lies out of bounds."""
    dtype = result.data.dtype
    fill = np.nan if np.issubdtype(dtype, np.floating) else 0
    beyond = ~inside & np.asarray(mask.data)
    return interpreter.TensorHandle(np.where(beyond, dtype.type(fill), result.data), result.dtype)
