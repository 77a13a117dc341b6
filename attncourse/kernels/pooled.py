"""Pooled attention in Triton: a kernel that pools, then flash attention over runs of tokens."""

import torch
import triton
import triton.language as tl

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag, check_scale, int_sizes
from attncourse.kernels._parts.grids import counted_in_grids, in_grids
from attncourse.kernels._parts.tiles import (
    LOG2E,
    check_beside,
    check_no_grad,
    check_tensors,
    finite,
    hide,
    join_tile,
    load_tile,
    nonzero,
    padded,
    pass_infinity,
    store_tile,
    tiling,
)

KINDS = ("mean", "max", "learned", "adaptive")


@in_grids(pooling_vector=(-3, -2))
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    pool: int,
    kind: str = "mean",
    pooling_vector: torch.Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(q k̄ᵀ · scale + log size) v̄ over ⌈Tk / pool⌉ runs of tokens.

    k̄ and v̄ hold one row per run, so a query has Tk / pool scores, a tile of which lives on chip
    at a time. Causal: a program walks over the tiles of runs before its queries, then over the
    tokens of their own runs, in the same online softmax.

    Contract: `attncourse.kernels`; knobs: `reference.pooled.attention`.
    Gradients: none.
    Memory: the output, and k̄ and v̄ (B, H, Tk / pool, D + Dv) in the dtype of q; "adaptive": one
        number per key and what sorting them takes.
    """
    where = "pooled.attention"
    check_tensors(where, q, k, v)
    causal = check_flag(where, "causal", causal)
    pool = _check_knobs(where, pool, kind, pooling_vector, causal)
    B, H, Tq, D = q.shape
    Tk, Dv = v.shape[2:]
    if pooling_vector is not None:
        pooling_vector = _each_head(where, pooling_vector, q)
    check_no_grad(where, q, k, v, pooling_vector)
    pool = min(pool, max(1, Tk))  # more changes nothing, and 32 bits hold it
    scale = check_scale(where, scale, D)
    BLOCK_Q, BLOCK_K, options = tiling(max(D, Dv), q.element_size())
    out = q.new_empty(B, H, Tq, Dv)
    with torch.cuda.device_of(q):
        starts = _cuts(k, pool) if kind == "adaptive" else None
        pooled_k, pooled_v = _pool(k, v, starts, pooling_vector, pool, kind)
        _pooled_fwd_kernel[(triton.cdiv(Tq, BLOCK_Q), H, B)](
            q, k, v, pooled_k, pooled_v, starts, out,
            q.stride(), k.stride(), v.stride(), pooled_k.stride(), pooled_v.stride(),
            _strides(starts), out.stride(),
            Tq, Tk, pooled_k.shape[2], pool, scale,
            D, Dv, padded(D), padded(Dv), BLOCK_Q, BLOCK_K, causal, **options,
        )  # fmt: skip
    return out


@triton.jit
def _run(starts_ptr, runs, strides, n_runs, pool, Tk):
    """The first token of each run, and how many it has; none beyond the last run."""
    if starts_ptr is None:
        first = runs * pool
        size = tl.minimum(Tk - first, pool)
    else:
        in_runs = runs < n_runs
        first = tl.load(starts_ptr + runs * strides[-1], mask=in_runs, other=0)
        size = tl.load(starts_ptr + (runs + 1) * strides[-1], mask=in_runs, other=0) - first
    return first, tl.where(runs < n_runs, size, 0)


@triton.jit
def _pooled_likeness_kernel(
    k_ptr, cosines_ptr,
    k_strides, cosines_strides,
    Tk,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: the cosines of BLOCK keys with the keys before them."""
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    cosines_ptr += batch * cosines_strides[0] + head * cosines_strides[1]
    pairs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    cols = tl.arange(0, BLOCK_D)
    before = load_tile(k_ptr, pairs, cols, k_strides, Tk - 1, D).to(tl.float32)
    k = load_tile(k_ptr + k_strides[2], pairs, cols, k_strides, Tk - 1, D).to(tl.float32)
    lengths = tl.sqrt(tl.sum(k * k, 1)), tl.sqrt(tl.sum(before * before, 1))  # [BLOCK] each
    cosines = tl.sum(k * before, 1) / (nonzero(lengths[0]) * nonzero(lengths[1]))  # [BLOCK]
    tl.store(cosines_ptr + pairs * cosines_strides[2], cosines, mask=pairs < Tk - 1)


@triton.jit
def _larger(a, b):
    """The larger of both, or NaN if one is: a GPU's own maximum would be the other."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _pooled_tokens_kernel(
    k_ptr, v_ptr, vector_ptr, starts_ptr, pooled_k_ptr, pooled_v_ptr,
    k_strides, v_strides, vector_strides, starts_strides, pooled_k_strides, pooled_v_strides,
    Tk, n_runs, pool,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK runs of one head, of each run one token at a time."""
    runs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    pooled_k_ptr += batch * pooled_k_strides[0] + head * pooled_k_strides[1]
    pooled_v_ptr += batch * pooled_v_strides[0] + head * pooled_v_strides[1]
    if starts_ptr is not None:
        starts_ptr += batch * starts_strides[0] + head * starts_strides[1]
    first, size = _run(starts_ptr, runs, starts_strides, n_runs, pool, Tk)
    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    start = float("-inf") if KIND == "max" else 0.0
    pooled_k = tl.full([BLOCK, BLOCK_D], start, tl.float32)
    pooled_v = tl.full([BLOCK, BLOCK_DV], start, tl.float32)
    running_max = tl.full([BLOCK], float("-inf"), tl.float32)
    running_sum = tl.zeros([BLOCK], tl.float32)
    if KIND == "learned":
        here = vector_ptr + batch * vector_strides[0] + head * vector_strides[1]
        vector = tl.load(here + cols * vector_strides[2], mask=cols < D, other=0.0).to(tl.float32)

    for step in range(0, tl.max(size, 0)):
        inside = step < size
        tokens = tl.where(inside, first + step, Tk)  # beyond the end nothing is loaded
        k = load_tile(k_ptr, tokens, cols, k_strides, Tk, D).to(tl.float32)
        v = load_tile(v_ptr, tokens, v_cols, v_strides, Tk, Dv).to(tl.float32)
        if KIND == "max":
            pooled_k = tl.where(inside[:, None], _larger(pooled_k, k), pooled_k)
            v = pass_infinity(v)  # or another token would hide -inf
            pooled_v = tl.where(inside[:, None], _larger(pooled_v, v), pooled_v)
        elif KIND == "learned":  # an online softmax within each run
            scores = tl.sum(k * vector[None, :], 1) * LOG2E  # [BLOCK]
            scores = tl.where(inside, scores, float("-inf"))
            new_max = tl.maximum(running_max, scores)
            pivot = finite(new_max)
            weights, rescale = tl.exp2(scores - pivot), tl.exp2(running_max - pivot)
            running_sum = running_sum * rescale + weights
            pooled_k = pooled_k * rescale[:, None] + weights[:, None] * k
            pooled_v = pooled_v * rescale[:, None] + weights[:, None] * v
            running_max = new_max
        else:
            pooled_k += k
            pooled_v += v
            running_sum += inside.to(tl.float32)

    if KIND != "max":
        running_sum = nonzero(running_sum)
        pooled_k /= running_sum[:, None]
        pooled_v /= running_sum[:, None]
    store_tile(pooled_k_ptr, pooled_k, runs, cols, pooled_k_strides, n_runs, D)
    store_tile(pooled_v_ptr, pooled_v, runs, v_cols, pooled_v_strides, n_runs, Dv)


@triton.jit
def _seen(start, Tq, Tk, n_runs, pool, BLOCK_Q: tl.constexpr, CAUSAL: tl.constexpr):
    """How many pooled runs all queries of start ... see, and how many any of them sees.

    Then the tokens that they see one by one: the first, and one past the last.
    """
    n_all, n_any, first_key, last_key = n_runs, n_runs, 0, 0
    if CAUSAL:
        last_key = max(min(start + BLOCK_Q, Tq) + Tk - Tq, 0)
        n_all = max(start + Tk - Tq, 0) // pool
        n_any = max(last_key - 1, 0) // pool
        first_key = n_all * pool
    return n_all, n_any, first_key, last_key


@triton.jit
def _pooled_fwd_kernel(
    q_ptr, k_ptr, v_ptr, pooled_k_ptr, pooled_v_ptr, starts_ptr, out_ptr,
    q_strides, k_strides, v_strides, pooled_k_strides, pooled_v_strides, starts_strides,
    out_strides,
    Tq, Tk, n_runs, pool, scale,
    D: tl.constexpr, Dv: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_Q queries of one head."""
    start = tl.program_id(0) * BLOCK_Q
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * q_strides[0] + head * q_strides[1]
    k_ptr += batch * k_strides[0] + head * k_strides[1]
    v_ptr += batch * v_strides[0] + head * v_strides[1]
    pooled_k_ptr += batch * pooled_k_strides[0] + head * pooled_k_strides[1]
    pooled_v_ptr += batch * pooled_v_strides[0] + head * pooled_v_strides[1]
    out_ptr += batch * out_strides[0] + head * out_strides[1]
    if starts_ptr is not None:
        starts_ptr += batch * starts_strides[0] + head * starts_strides[1]

    queries = start + tl.arange(0, BLOCK_Q)
    positions = queries + (Tk - Tq)  # where the queries sit among the keys
    cols, v_cols = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    q = load_tile(q_ptr, queries, cols, q_strides, Tq, D)  # [BLOCK_Q, BLOCK_D]
    q = pass_infinity(q)
    acc = tl.zeros([BLOCK_Q, BLOCK_DV], tl.float32)
    running_max = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    running_sum = tl.zeros([BLOCK_Q], tl.float32)

    n_all, n_any, first_key, last_key = _seen(start, Tq, Tk, n_runs, pool, BLOCK_Q, CAUSAL)
    bounds = 0, n_all // BLOCK_K, (n_any + BLOCK_K - 1) // BLOCK_K
    for stretch in tl.static_range(2):  # runs that all see, runs that some see
        for tile in range(bounds[stretch], bounds[stretch + 1]):
            runs = tile * BLOCK_K + tl.arange(0, BLOCK_K)
            _, size = _run(starts_ptr, runs, starts_strides, n_runs, pool, Tk)  # [BLOCK_K]
            k = load_tile(pooled_k_ptr, runs, cols, pooled_k_strides, n_any, D)
            v = load_tile(pooled_v_ptr, runs, v_cols, pooled_v_strides, n_any, Dv)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # [BLOCK_Q, BLOCK_K]
            log_size = tl.log2(tl.maximum(size, 1).to(tl.float32))  # to base 2, as the scores
            scores = scores * (scale * LOG2E) + log_size[None, :]
            if stretch == 1:
                visible = (runs < n_any)[None, :]
                if CAUSAL:
                    visible &= runs[None, :] < (positions // pool)[:, None]
                scores, v = hide(scores, v, visible)
            acc, running_max, running_sum = join_tile(acc, running_max, running_sum, scores, v)

    for tile in range(0, (last_key - first_key + BLOCK_K - 1) // BLOCK_K):  # none if not causal
        keys = first_key + tile * BLOCK_K + tl.arange(0, BLOCK_K)
        k = load_tile(k_ptr, keys, cols, k_strides, last_key, D)  # [BLOCK_K, BLOCK_D]
        v = load_tile(v_ptr, keys, v_cols, v_strides, last_key, Dv)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2E)
        own = (keys // pool)[None, :] == (positions // pool)[:, None]  # [BLOCK_Q, BLOCK_K]
        scores, v = hide(scores, v, own & (keys[None, :] <= positions[:, None]))
        acc, running_max, running_sum = join_tile(acc, running_max, running_sum, scores, v)

    out = acc / nonzero(running_sum)[:, None]  # [BLOCK_Q, BLOCK_DV]
    store_tile(out_ptr, out, queries, v_cols, out_strides, Tq, Dv)


def _cuts(k: torch.Tensor, pool: int) -> torch.Tensor:
    """Return where the runs start, and Tk, int32 (B, H, runs + 1). Sorting is torch's."""
    B, H, Tk, D = k.shape
    n_runs = triton.cdiv(Tk, pool)
    cosines = k.new_empty(B, H, max(0, Tk - 1), dtype=torch.float32)
    BLOCK, _, _ = tiling(D, k.element_size())
    _pooled_likeness_kernel[(triton.cdiv(cosines.shape[2], BLOCK), H, B)](
        k, cosines, k.stride(), cosines.stride(), Tk, D, padded(D), BLOCK
    )
    loosest = cosines.argsort(stable=True)[..., : max(0, n_runs - 1)]
    starts = torch.zeros(B, H, n_runs + 1, dtype=torch.int32, device=k.device)
    starts[..., 1:n_runs] = loosest.sort()[0] + 1
    starts[..., n_runs] = Tk
    return starts


def _pool(k, v, starts, vector, pool, kind) -> tuple[torch.Tensor, torch.Tensor]:
    """Return k̄ (B, H, runs, D) and v̄ (B, H, runs, Dv)."""
    B, H, Tk, D = k.shape
    Dv = v.shape[-1]
    n_runs = triton.cdiv(Tk, pool)
    pooled_k, pooled_v = k.new_empty(B, H, n_runs, D), v.new_empty(B, H, n_runs, Dv)
    _pooled_tokens_kernel[(triton.cdiv(n_runs, _runs_of(max(D, Dv))), H, B)](
        k, v, vector, starts, pooled_k, pooled_v,
        k.stride(), v.stride(), _strides(vector), _strides(starts),
        pooled_k.stride(), pooled_v.stride(),
        Tk, n_runs, pool,
        D, Dv, padded(D), padded(Dv), _runs_of(max(D, Dv)), "mean" if starts is not None else kind,
    )  # fmt: skip
    return pooled_k, pooled_v


def _runs_of(width: int) -> int:
    """Return BLOCK, the runs that one program pools."""
    return 32 if width <= 64 else 16


def _strides(tensor: torch.Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if tensor is None else tensor.stride()


def _each_head(where: str, vector: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    check_beside(where, q, pooling_vector=vector)
    shape = (*q.shape[:2], q.shape[3])
    try:
        return vector.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"{where}: pooling_vector must broadcast to {shape}, got {tuple(vector.shape)}"
        ) from None


def _check_knobs(where: str, pool: int, kind: str, pooling_vector, causal: bool) -> int:
    pool = check_count(where, "pool", pool, least=1)
    if kind not in KINDS:
        raise ValueError(f"{where}: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if (kind == "learned") != (pooling_vector is not None):
        needs = "needs" if kind == "learned" else "takes no"
        raise ValueError(f"{where}: kind {kind!r} {needs} pooling_vector")
    if causal and kind == "adaptive":
        raise ValueError(f"{where}: cannot be causal: adaptive cuts depend on later tokens")
    return pool


@int_sizes
@counted_in_grids()
def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    pool: int,
    kind: str = "mean",
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernels of `attention` do: see `attncourse.kernels`.

    Pooling is sums, not products. `torch_cost` is in it.
    """
    pool = check_count("pooled.cost", "pool", pool, least=1)
    knobs = {"pool": pool, "kind": kind, "causal": causal, "dtype_bytes": dtype_bytes}
    sorting = torch_cost(B, H, Tq, Tk, D, **knobs)
    pool = min(pool, max(1, Tk))
    n_runs = triton.cdiv(Tk, pool)
    BLOCK_Q, BLOCK_K, _ = tiling(D, dtype_bytes)
    tiles = loaded = started = 0
    for start in range(0, Tq, BLOCK_Q):
        _, n_any, first_key, last_key = _seen.fn(start, Tq, Tk, n_runs, pool, BLOCK_Q, causal)
        run_tiles = triton.cdiv(n_any, BLOCK_K)
        tiles += run_tiles + triton.cdiv(last_key - first_key, BLOCK_K)
        loaded += n_any + last_key - first_key
        started += 2 * n_any
    out, pooled = B * H * Tq * D * dtype_bytes, 2 * B * H * n_runs * D * dtype_bytes
    vectors = D * triton.cdiv(n_runs, _runs_of(D)) if kind == "learned" else 0
    read = (Tq + 2 * Tk + 2 * loaded) * D + vectors
    written = peak = 0
    if kind == "adaptive":
        read += 2 * max(0, Tk - 1) * D
        written = 4 * B * H * max(0, Tk - 1)
        peak = 4 * B * H * (n_runs + 1)
    return Cost(
        flops=4 * B * H * tiles * BLOCK_Q * BLOCK_K * padded(D),
        bytes_read=B * H * (read * dtype_bytes + 4 * (started + 2 * n_runs) * (kind == "adaptive"))
        + sorting.bytes_read,
        bytes_written=out + pooled + written + sorting.bytes_written,
        peak_bytes=out + max(pooled + peak, sorting.peak_bytes),
    )


@int_sizes
def torch_cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    pool: int,
    kind: str = "mean",
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count the part of `cost` that is torch's: sorting the cosines of kind "adaptive".

    Each is read once and each start written once; how often a sort passes over its data in between
    is the library's affair.
    """
    causal = check_flag("pooled.cost", "causal", causal)
    pool = _check_knobs("pooled.cost", pool, kind, () if kind == "learned" else None, causal)
    if kind != "adaptive":
        return Cost(0, 0, 0, 0)
    cosines, starts = B * H * max(0, Tk - 1), B * H * (triton.cdiv(Tk, pool) + 1)
    return Cost(
        flops=0,
        bytes_read=4 * cosines,
        bytes_written=4 * starts,
        peak_bytes=(4 + 4 + 8) * cosines,  # the cosines; sorted, and where each was
    )
