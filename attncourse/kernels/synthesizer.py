"""Synthesizer in Triton: softmax of given logits times v, tile by tile; no query meets a key."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, int_sizes
from attncourse.kernels._parts.grids import counted_in_grids, in_grids
from attncourse.kernels._parts.tiles import (
    LOG2E,
    MAX_WIDTH,
    check_beside,
    check_no_grad,
    check_tensors,
    hide,
    join_tile,
    key_tiles,
    load_tile,
    nonzero,
    padded,
    shrunk_product,
    store_tile,
    tiling,
    visible_keys,
)

KINDS = ("dense", "random", "factorised")


@dataclass(frozen=True)
class Logits:
    """How logits are made; `random`, `dense` and `factorised` return it.

    Attributes:
        kind: One of `KINDS`.
        matrices: Its tensors, by the names of the function's arguments.
    """

    kind: str
    matrices: Mapping[str, torch.Tensor]


@in_grids(logits=(-4, -3))
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    logits: Logits,
    causal: bool = False,
) -> torch.Tensor:
    """Return softmax(logits) v, the logits made by `random`, `dense` or `factorised`.

    k gives the number of keys and is not read. A tile of logits is loaded, if they are given, or
    else multiplied on chip from two thin factors, and meets its values there: unless they are
    given whole, no (Tq, Tk) matrix is held.

    Contract: `attncourse.kernels`; knobs: `reference.synthesizer.attention`.
    `logits` come from this module's functions and no other, for a kernel cannot call a function.
    Gradients: none.
    Memory: the output; for `dense` also (B, H, Tq, hidden) in the dtype of q.
    """
    where = "synthesizer.attention"
    check_tensors(where, q, k, v)
    causal = check_flag(where, "causal", causal)
    if not isinstance(logits, Logits):
        raise TypeError(
            f"{where}: logits must be what random, dense or factorised of this module return, "
            f"got {type(logits).__name__}"
        )
    check_beside(where, q, **logits.matrices)
    check_no_grad(where, q, v, *logits.matrices.values())
    B, H, Tq, _ = q.shape
    Tk, Dv = v.shape[2:]
    with torch.cuda.device_of(q):
        given, left, right, bias, factor = _operands(where, q, Tk, logits)
        width = 1 if left is None else left.shape[-1]
        BLOCK_Q, BLOCK_K, options = tiling(max(width, Dv), q.element_size())
        out = q.new_empty(B, H, Tq, Dv)
        _synthesizer_fwd_kernel[(triton.cdiv(Tq, BLOCK_Q), H, B)](
            given, left, right, bias, v, out,
            _strides(given), _strides(left), _strides(right),
            (0,) if bias is None else bias.stride(), v.stride(), out.stride(),
            Tq, Tk, factor,
            width, Dv, padded(width), padded(Dv), BLOCK_Q, BLOCK_K, causal, **options,
        )  # fmt: skip
    return out


def random(logits: torch.Tensor) -> Logits:
    """Return given logits: learned, or drawn once, and the same for every input.

    Args:
        logits: (Tq, Tk), or with leading axes that broadcast to those of q: one map per head. It
            is n² numbers by itself; `factorised` is not. Rows beyond Tq are left unused.
    """
    _check_matrices("synthesizer.random", logits=logits)
    return Logits("random", {"logits": logits})


def dense(
    first: torch.Tensor,
    second: torch.Tensor,
    *,
    first_bias: torch.Tensor | None = None,
    second_bias: torch.Tensor | None = None,
) -> Logits:
    """Return the map of each query to its logits by two layers.

    logits = relu(q first + first_bias) second + second_bias.

    Args:
        first: (D, hidden), hidden ≤ 256; leading axes, if any, broadcast to those of q.
        second: (hidden, Tk): the map is tied to the number of keys.
        first_bias: (hidden,); none if not given.
        second_bias: (Tk,); none if not given.
    """
    _check_matrices("synthesizer.dense", first=first, second=second)
    if first.shape[-1] != second.shape[-2]:
        raise ValueError(
            f"synthesizer.dense: first (D, hidden) and second (hidden, Tk) must share hidden, "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    biases = {"first_bias": first_bias, "second_bias": second_bias}
    given = {name: bias for name, bias in biases.items() if bias is not None}
    return Logits("dense", {"first": first, "second": second, **given})


def factorised(left: torch.Tensor, right: torch.Tensor) -> Logits:
    """Return the logits left rightᵀ: learned as `random`, but 2·n·rank numbers.

    Args:
        left: (Tq, rank), rank ≤ 256; leading axes, if any, broadcast to those of q. Rows beyond Tq
            are left unused.
        right: (Tk, rank).
    """
    _check_matrices("synthesizer.factorised", left=left, right=right)
    if left.shape[-1] != right.shape[-1]:
        raise ValueError(
            f"synthesizer.factorised: left (Tq, rank) and right (Tk, rank) must share rank, "
            f"got {tuple(left.shape)} and {tuple(right.shape)}"
        )
    return Logits("factorised", {"left": left, "right": right})


@triton.jit
def _synthesizer_fwd_kernel(
    given_ptr, left_ptr, right_ptr, bias_ptr, v_ptr, out_ptr,
    given_strides, left_strides, right_strides, bias_strides, v_strides, out_strides,
    Tq, Tk, factor,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_Q queries of one head. D is the hidden width, or the rank.

    `factor` is what the hidden layer was divided by.
    """
    start = tl.program_id(0) * BLOCK_Q
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    out_ptr += batch * out_strides[0] + head * out_strides[1]
    queries = start + tl.arange(0, BLOCK_Q)
    positions = queries + (Tk - Tq)  # where the queries sit among the keys
    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    if given_ptr is not None:
        given_ptr += batch * given_strides[0] + head * given_strides[1]
    else:
        left_ptr += batch * left_strides[0] + head * left_strides[1]
        right_ptr += batch * right_strides[0] + head * right_strides[1]
        left = load_tile(left_ptr, queries, cols, left_strides, Tq, D)  # [BLOCK_Q, BLOCK_D]
    acc = tl.zeros([BLOCK_Q, BLOCK_DV], tl.float32)
    running_max = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    running_sum = tl.zeros([BLOCK_Q], tl.float32)

    n_whole, n_tiles = key_tiles(start, Tq, Tk, BLOCK_Q, BLOCK_K, CAUSAL)
    bounds = 0, n_whole, n_tiles
    for stretch in tl.static_range(2):  # below the diagonal, on it
        for tile in range(bounds[stretch], bounds[stretch + 1]):
            keys = tile * BLOCK_K + tl.arange(0, BLOCK_K)
            if given_ptr is not None:
                logits = load_tile(given_ptr, queries, keys, given_strides, Tq, Tk)
                scores = logits.to(tl.float32) * LOG2E  # [BLOCK_Q, BLOCK_K]
            else:
                right = load_tile(right_ptr, keys, cols, right_strides, Tk, D)
                scores = tl.dot(left, tl.trans(right), input_precision="ieee") * (factor * LOG2E)
                if bias_ptr is not None:
                    bias = tl.load(bias_ptr + keys * bias_strides[0], mask=keys < Tk, other=0.0)
                    scores += (bias.to(tl.float32) * LOG2E)[None, :]
            v = load_tile(v_ptr, keys, v_cols, v_strides, Tk, Dv)  # [BLOCK_K, BLOCK_DV]
            if stretch == 1:
                visible = visible_keys(positions[:, None], keys[None, :], Tk, CAUSAL)
                scores, v = hide(scores, v, visible)
            acc, running_max, running_sum = join_tile(acc, running_max, running_sum, scores, v)

    out = acc / nonzero(running_sum)[:, None]  # [BLOCK_Q, BLOCK_DV]
    store_tile(out_ptr, out, queries, v_cols, out_strides, Tq, Dv)


def _operands(where, q, Tk, logits) -> tuple[torch.Tensor | float | None, ...]:
    """Return given (B, H, Tq, Tk), or left (B, H, Tq, D), right (B, H, Tk, D) and a bias (Tk,).

    All are views of what was given, but for the first layer of `dense`: a plain product of all
    queries with one small matrix, which torch computes. At the end comes what it is divided by.
    """
    B, H, Tq, width = q.shape
    matrices = logits.matrices
    if logits.kind == "random":
        return _spread(where, "logits", matrices["logits"], (B, H, Tq, Tk)), None, None, None, 1.0
    name = "first" if logits.kind == "dense" else "left"
    D = matrices[name].shape[-1]
    if not 1 <= D <= MAX_WIDTH:
        what = "hidden" if logits.kind == "dense" else "rank"
        raise ValueError(f"{where}: {what} must be between 1 and {MAX_WIDTH}, got {D}")
    if logits.kind == "factorised":
        left = _spread(where, "left", matrices["left"], (B, H, Tq, D))
        return None, left, _spread(where, "right", matrices["right"], (B, H, Tk, D)), None, 1.0
    first = _spread(where, "first", matrices["first"], (B, H, width, D))
    second = _spread(where, "second", matrices["second"], (B, H, D, Tk))
    layer, factor = shrunk_product(q, first)
    if "first_bias" in matrices:
        layer += _spread(where, "first_bias", matrices["first_bias"], (D,)) / factor
    bias = matrices.get("second_bias")
    if bias is not None:
        bias = _spread(where, "second_bias", bias, (Tk,))
    return None, layer.relu_(), second.mT, bias, factor


def _spread(where, name, matrix, shape) -> torch.Tensor:
    """Return a matrix as a view for all heads; surplus rows for longer sequences are left out."""
    rows = matrix
    if name in ("logits", "left"):
        rows = matrix[..., : shape[-2], :]
    if rows.shape[-2:] == shape[-2:] and rows.ndim <= len(shape):
        try:
            return rows.expand(shape)
        except RuntimeError:
            pass
    raise ValueError(f"{where}: {name} must broadcast to {shape}, got {tuple(matrix.shape)}")


def _strides(tensor: torch.Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0, 0) if tensor is None else tensor.stride()


def _check_matrices(where: str, **matrices: torch.Tensor) -> None:
    for name, matrix in matrices.items():
        if not isinstance(matrix, torch.Tensor):
            raise TypeError(f"{where}: {name} must be a torch tensor, got {type(matrix).__name__}")
        if matrix.ndim < 2:
            raise ValueError(
                f"{where}: {name} must have at least 2 axes, got {tuple(matrix.shape)}"
            )


@int_sizes
@counted_in_grids()
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    hidden: int,
    kind: str = "dense",
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what `attention` does, `torch_cost` included: see `attncourse.kernels`.

    There is no bias, and all heads share their weights. `hidden` is the width of the dense map, or
    the rank of the factors, and nothing to "random".
    """
    hidden = check_count("synthesizer.cost", "hidden", hidden, least=1)
    knobs = {"hidden": hidden, "kind": kind, "causal": causal, "dtype_bytes": dtype_bytes}
    layer = torch_cost(B, H, Tq, Tk, D, **knobs)
    width = 1 if kind == "random" else hidden
    BLOCK_Q, BLOCK_K, _ = tiling(max(width, D), dtype_bytes)
    tiles = loaded = pairs = 0
    for start in range(0, Tq, BLOCK_Q):
        _, n_tiles = key_tiles.fn(start, Tq, Tk, BLOCK_Q, BLOCK_K, causal)
        keys = min(n_tiles * BLOCK_K, Tk)
        tiles += n_tiles
        loaded += keys
        pairs += keys * min(BLOCK_Q, Tq - start)
    made = pairs if kind == "random" else (Tq + loaded) * hidden  # what logits come from
    multiplied = padded(D) + (0 if kind == "random" else padded(hidden))
    out = B * H * Tq * D * dtype_bytes
    return Cost(
        flops=2 * B * H * tiles * BLOCK_Q * BLOCK_K * multiplied + layer.flops,
        bytes_read=B * H * (made + loaded * D) * dtype_bytes + layer.bytes_read,
        bytes_written=out + layer.bytes_written,
        peak_bytes=out + layer.peak_bytes,
    )


@int_sizes
def torch_cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    hidden: int,
    kind: str = "dense",
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count the part of `cost` that is torch's: the first layer of "dense", then its relu."""
    hidden = check_count("synthesizer.cost", "hidden", hidden, least=1)
    causal = check_flag("synthesizer.cost", "causal", causal)
    if kind not in KINDS:
        raise ValueError(f"synthesizer.cost: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind != "dense":
        return Cost(0, 0, 0, 0)
    layer = B * H * Tq * hidden * dtype_bytes
    return Cost(
        flops=2 * B * H * Tq * D * hidden,
        bytes_read=(B * H * Tq * D + D * hidden) * dtype_bytes + layer,
        bytes_written=2 * layer,
        peak_bytes=layer,
    )
