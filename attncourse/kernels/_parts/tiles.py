"""What the kernels share: loading, storing and joining tiles, their sizes, checks at launch."""

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl

from attncourse import measure
from attncourse.inputs import check_qkv
from attncourse.kernels import INTERPRETED
from attncourse.kernels._parts.grids import MAX_GRID
from attncourse.units import format_bytes

MAX_WIDTH = 256  # a wider tile of q, k and v no longer fits on chip

# The GPU has an instruction for 2ˣ, none for eˣ. Since eˢ = 2^(s·log2 e), the factor goes into the
# scale of the scores, where it costs nothing.
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def far(steps, stride):
    """How far so many steps are, in 64 bits: a long or a wide array has more than 2³¹ elements."""
    return steps.to(tl.int64) * stride


@triton.jit
def load_tile(ptr, rows, cols, strides, n_rows, n_cols):
    """Load the given rows and columns of a matrix, with zeros outside of it.

    `strides` are those of a tensor whose last two axes are the matrix.
    """
    inside = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]
    offsets = far(rows[:, None], strides[-2]) + far(cols[None, :], strides[-1])
    return tl.load(ptr + offsets, mask=inside, other=0.0)


@triton.jit
def store_tile(ptr, tile, rows, cols, strides, n_rows, n_cols):
    """Store a tile at the given rows and columns of a matrix, in the matrix's dtype."""
    inside = (rows < n_rows)[:, None] & (cols < n_cols)[None, :]
    offsets = far(rows[:, None], strides[-2]) + far(cols[None, :], strides[-1])
    tl.store(ptr + offsets, tile.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def load_rows(ptr, offsets, in_rows, cols, strides, n_cols):
    """Load rows that begin at any 64-bit offsets, with zeros where not `in_rows`."""
    inside = in_rows[:, None] & (cols < n_cols)[None, :]
    where = ptr + offsets[:, None] + far(cols[None, :], strides[-1])
    return tl.load(where, mask=inside, other=0.0)


@triton.jit
def store_rows(ptr, tile, offsets, in_rows, cols, strides, n_cols):
    """Store rows that begin at any 64-bit offsets, in the dtype of what is there."""
    inside = in_rows[:, None] & (cols < n_cols)[None, :]
    where = ptr + offsets[:, None] + far(cols[None, :], strides[-1])
    tl.store(where, tile.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def pass_infinity(q):
    """Replace infinity by NaN: its scores of -inf would make a row look as if it saw no key."""
    return tl.where(tl.abs(q) == float("inf"), float("nan"), q)


@triton.jit
def finite(maximum):
    """Replace -inf, the maximum of a row without visible keys, by 0: -inf - -inf would be NaN."""
    return tl.where(maximum == float("-inf"), 0.0, maximum)


@triton.jit
def nonzero(total):
    """Replace 0, the sum of a row without visible keys, by 1: such a row gives 0 / 1 = 0."""
    return tl.where(total == 0.0, 1.0, total)


@triton.jit
def key_tiles(start, Tq, Tk, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, CAUSAL: tl.constexpr):
    """How many key tiles all queries of a tile see whole, and how many any of them sees.

    These bounds are the mechanism: tiles above the diagonal are neither loaded nor multiplied, and
    only the last few, on the diagonal or at the end of the keys, need a mask.
    """
    n_whole, n_seen = Tk, Tk
    if CAUSAL:
        n_whole = max(start + 1 + Tk - Tq, 0)
        n_seen = max(min(start + BLOCK_Q, Tq) + Tk - Tq, 0)
    return n_whole // BLOCK_K, (n_seen + BLOCK_K - 1) // BLOCK_K


@triton.jit
def visible_keys(positions, keys, Tk, CAUSAL: tl.constexpr):
    """True where the query at key position `positions` may attend to `keys`."""
    visible = keys < Tk
    if CAUSAL:
        visible &= keys <= positions
    return visible


@triton.jit
def numbers_of(v):
    """Return NaN for each key with a value that is NaN or infinite, else 0; and v with 0 for those.

    For a weight of 0 does not hide such a value: 0 · NaN is NaN, in all rows of a tile.
    """
    spoilt = tl.sum((v * 0.0).to(tl.float32), 1)  # [BLOCK_K]
    return spoilt, tl.where(spoilt[:, None] == 0.0, v, 0.0)


@triton.jit
def hide(scores, v, visible):
    """Return scores with -inf where not visible, and values of which none spoils other rows.

    A row that sees a value which is no number has NaN among its scores instead.
    """
    spoilt, v = numbers_of(v)
    return tl.where(visible, scores + spoilt[None, :], float("-inf")), v


@triton.jit
def join_tile(acc, running_max, running_sum, scores, v):
    """One step of the online softmax: what a tile of scores and its values add."""
    new_max = tl.maximum(running_max, tl.max(scores, 1))  # [BLOCK_Q]
    pivot = finite(new_max)
    weights = tl.exp2(scores - pivot[:, None])  # [BLOCK_Q, BLOCK_K]
    rescale = tl.exp2(running_max - pivot)  # [BLOCK_Q]
    acc = tl.dot(weights.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
    return acc, new_max, running_sum * rescale + tl.sum(weights, 1)


@triton.jit
def delta_kernel(
    out_ptr, grad_out_ptr, delta_ptr,
    out_strides, grad_out_strides, delta_strides,
    Tq,
    Dv: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """One program: delta of BLOCK_Q queries; see `row_delta`."""
    queries = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    out_ptr += batch * out_strides[0] + head * out_strides[1]
    grad_out_ptr += batch * grad_out_strides[0] + head * grad_out_strides[1]
    delta_ptr += batch * delta_strides[0] + head * delta_strides[1]
    cols = tl.arange(0, BLOCK_DV)
    out = load_tile(out_ptr, queries, cols, out_strides, Tq, Dv)  # [BLOCK_Q, BLOCK_DV]
    grad_out = load_tile(grad_out_ptr, queries, cols, grad_out_strides, Tq, Dv)
    delta = tl.sum(out.to(tl.float32) * grad_out.to(tl.float32), 1)  # [BLOCK_Q]
    tl.store(delta_ptr + queries * delta_strides[2], delta, mask=queries < Tq)


def row_delta(out: torch.Tensor, grad_out: torch.Tensor) -> torch.Tensor:
    """Return delta = rowsum(out · grad_out), what the gradient of a softmax row is lowered by.

    It equals rowsum(weights · dweights), for which no row of weights has to be whole.

    Args:
        out: (B, H, Tq, Dv), what attention returned.
        grad_out: (B, H, Tq, Dv), the gradient of the loss with respect to it.

    Returns:
        (B, H, Tq) float32.
    """
    B, H, Tq, Dv = out.shape
    BLOCK_Q, _, _ = tiling(Dv, out.element_size())
    delta = out.new_empty(B, H, Tq, dtype=torch.float32)
    delta_kernel[(triton.cdiv(Tq, BLOCK_Q), H, B)](
        out, grad_out, delta,
        out.stride(), grad_out.stride(), delta.stride(),
        Tq, Dv, padded(Dv), BLOCK_Q,
    )  # fmt: skip
    return delta


def padded(width: int) -> int:
    """Return the width of a tile that holds `width` numbers: a power of two, at least 16."""
    return max(16, triton.next_power_of_2(width))


def is_hopper() -> bool:
    """Say whether the current GPU is an H100 or H200, on which tiles were timed.

    Compiled for an A100 or an RTX 50, most of those that won there spill far more.
    """
    return compute_capability() // 10 == 9


def compute_capability() -> int:
    """Return that of the current GPU, 90 of an H100; 0 where there is none or none is used."""
    if INTERPRETED or not torch.cuda.is_available():
        return 0
    return _capability_of(torch.cuda.current_device())


@functools.cache
def _capability_of(device: int) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def tiling(width: int, dtype_bytes: int) -> tuple[int, int, dict[str, int]]:
    """Return BLOCK_Q and BLOCK_K, queries and keys of a tile, and the options of the launch.

    Other texts call them BLOCK_M and BLOCK_N. The wider the rows, the fewer fit on chip: at these
    sizes no kernel here spills registers, compiled by Triton 3.7.1 for A100 and H100, and none
    takes more shared memory than an RTX 30 or 40 has.

    Args:
        width: The larger of D and Dv.
        dtype_bytes: Bytes of one number of q, k and v.
    """
    if dtype_bytes == 4:  # exact float32 has no tensor cores: operands sit in registers
        sizes = (32, 32, 4, 2) if width <= 64 else (16, 16, 4, 1)
    elif width <= 64:
        sizes = (64, 64, 4, 3)
    elif width <= 128:
        sizes = (64, 64, 8, 2)
    else:
        sizes = (64, 16, 8, 2)
    BLOCK_Q, BLOCK_K, num_warps, num_stages = sizes
    return BLOCK_Q, BLOCK_K, {"num_warps": num_warps, "num_stages": num_stages}


def check_tensors(where: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Refuse what a kernel cannot run on.

    Args:
        where: The function that asks, such as "window.attention".
        q: (B, H, Tq, D).
        k: (B, H, Tk, D).
        v: (B, H, Tk, Dv).

    Raises:
        TypeError: No torch tensors, or a dtype without a kernel.
        ValueError: Shapes, dtypes or devices that do not fit, or that this machine cannot run.
    """
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{where}: {name} must be a torch tensor, got {type(tensor).__name__}")
        if tensor.ndim != 4:
            raise ValueError(
                f"{where}: {name} must have 4 axes (B, H, T, D), got shape {tuple(tensor.shape)}"
            )
    check_qkv(where, q, k, v)
    if q.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(f"{where}: q must be float32, float16 or bfloat16, got {q.dtype}")
    if not q.device == k.device == v.device:
        raise ValueError(
            f"{where}: q, k and v must be on one device, got {q.device}, {k.device}, {v.device}"
        )
    for name, width in (("D", q.shape[-1]), ("Dv", v.shape[-1])):
        if not 1 <= width <= MAX_WIDTH:
            raise ValueError(f"{where}: {name} must be between 1 and {MAX_WIDTH}, got {width}")
    if INTERPRETED and q.dtype == torch.bfloat16:
        raise ValueError(
            f"{where}: q must be float32 or float16 in Triton's interpreter, got bfloat16, which "
            "the interpreter computes wrongly: use a GPU"
        )
    if not runs_on(q.device):
        raise ValueError(
            f"{where}: q must be on a CUDA device, got {q.device}; to run the kernels on the CPU "
            "set TRITON_INTERPRET=1 before Python starts"
        )


def runs_on(device: torch.device) -> bool:
    """Say whether the kernels run on tensors of this device."""
    return INTERPRETED or device.type == "cuda"


def shrunk_product(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return a b / factor, in the dtype of both, and the factor: a power of two, so exact.

    torch adds in float32 and rounds the sums to the dtype of a. Those of n numbers that are mostly
    of one sign leave the range of float16, at 65,504, long before the numbers do: the factor is
    about √n. Scores get it back in float32.

    Args:
        a: (B, H, rows, n), leading axes perhaps expanded: they are not copied.
        b: (B, H, n, columns).
    """
    factor = 2.0 ** (max(1, a.shape[-1]).bit_length() // 2)
    (B, H, rows, _), columns = a.shape, b.shape[-1]
    flat = a.flatten(0, 1), b.flatten(0, 1)
    ignored = a.new_empty(1, 1, 1)  # for beta is 0
    product = torch.baddbmm(ignored, *flat, beta=0, alpha=1 / factor)
    return product.view(B, H, rows, columns), factor


def check_grid(where: str, axes: dict[str, int]) -> None:
    """Refuse a grid that CUDA cannot launch: see `MAX_GRID`.

    Args:
        where: The function that asks.
        axes: What the second and third axis of the grid hold, in words, and how many.
    """
    for name, count in axes.items():
        if count > MAX_GRID:
            raise ValueError(f"{where}: {name} must be at most {MAX_GRID}, got {count}")


@contextlib.contextmanager
def room_for(
    where: str, what: str, n_bytes: int, fits: Callable[[int], str], device: torch.device
) -> Iterator[None]:
    """Say of an allocation that fails how many bytes it asked for, and what would fit.

    Args:
        where: The function that allocates.
        what: What for, such as "scores".
        n_bytes: How much.
        fits: Turns the bytes that are free into words, such as "n = 4096".
        device: Where it allocates.

    Raises:
        torch.OutOfMemoryError: There is no room.
    """
    try:
        yield
    except RuntimeError as error:  # of which torch.OutOfMemoryError is one; a CPU has the former
        if "allocate" not in str(error):
            raise
        free = measure.free_bytes(device)
        raise torch.OutOfMemoryError(
            f"{where}: {format_bytes(n_bytes)} asked for {what}, {format_bytes(free)} are free: "
            f"{fits(free)} would fit"
        ) from error


def check_no_grad(where: str, *tensors: torch.Tensor | None) -> None:
    """Refuse tensors that ask for gradients which no kernel computes.

    Args:
        where: The function that asks.
        *tensors: All that the result depends on.
    """
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        raise ValueError(f"{where}: inputs must not require grad, the kernels have no backward")


def check_beside(where: str, q: torch.Tensor, **tensors: torch.Tensor) -> None:
    """Refuse what goes into a product with q, k or v and has not their dtype and device.

    Args:
        where: The function that asks.
        q: The queries.
        **tensors: The others, by the names of their arguments.

    Raises:
        TypeError: No torch tensor.
        ValueError: Another dtype or device.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{where}: {name} must be a torch tensor, got {type(tensor).__name__}")
        if (tensor.dtype, tensor.device) != (q.dtype, q.device):
            raise ValueError(
                f"{where}: {name} must be {q.dtype} on {q.device}, as q, "
                f"got {tensor.dtype} on {tensor.device}"
            )
