"""Strided attention in Triton: the block-sparse kernels, with the residue classes put side by side.

In that order each class is a square of tiles on the diagonal, and attention to it is full: only
tiles that hold the end of one class and the beginning of the next need a mask.
"""

import functools

import torch

from attncourse.cost import Cost
from attncourse.inputs import check_count, check_flag
from attncourse.kernels import block_sparse
from attncourse.kernels._parts import plan as planning
from attncourse.kernels._parts.plan import Plan, plan_cost
from attncourse.kernels._parts.tiles import check_tensors, tiling


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    stride: int,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(q kᵀ · scale) v over the keys with (i - j) mod stride = 0.

    Args:
        q: (B, H, Tq, D) float32, float16 or bfloat16, any strides, D ≤ 256.
        k: (B, H, Tk, D).
        v: (B, H, Tk, Dv), Dv ≤ 256.
        stride: Distance between two neighbouring keys, in tokens.
        causal: No key after the query's own position i + Tk - Tq.
        scale: Factor of the scores; 1/√D if not given.

    Returns:
        (B, H, Tq, Dv) in the dtype of q; a query that sees no key gets zeros. Differentiable.

    Raises:
        TypeError: No tensors, a dtype without a kernel, or a knob that is no integer.
        ValueError: Shapes, dtypes or devices that do not fit, stride < 1.

    Memory:
        The output, (B, H, Tq) float32 and the lists.

    Paper:
        Child, Gray, Radford, Sutskever 2019, arXiv:1904.10509, section 4.3: one of its two
        factors.
    """
    where = "strided.attention"
    check_tensors(where, q, k, v)
    stride = check_count(where, "stride", stride, least=1)
    causal = check_flag(where, "causal", causal)
    blocks = tiling(max(q.shape[3], v.shape[3]), q.element_size())[:2]
    plan = _plan(q.shape[2], k.shape[2], stride, causal, *blocks)
    return block_sparse.run(where, q, k, v, (plan,), scale)


def cost(
    B: int,
    H: int,
    Tq: int,
    Tk: int,
    D: int,
    *,
    stride: int,
    causal: bool = False,
    dtype_bytes: int = 4,
) -> Cost:
    """Count what the kernels of `attention` do, with Dv = D: see `plan_cost`.

    Args:
        B: Batch.
        H: Heads.
        Tq: Queries.
        Tk: Keys.
        D: Width of q, k and v.
        stride: Distance between two neighbouring keys, in tokens.
        causal: No key after the query's own position.
        dtype_bytes: Bytes of one number of q, k, v and out.
    """
    stride = check_count("strided.cost", "stride", stride, least=1)
    causal = check_flag("strided.cost", "causal", causal)
    plan = _plan(Tq, Tk, stride, causal, *tiling(D, dtype_bytes)[:2])
    return plan_cost((plan,), B, H, D, dtype_bytes)


@functools.lru_cache(maxsize=16)
def _plan(n_queries, n_keys, stride, causal, *blocks: int) -> Plan:
    """Return the plan of these knobs; the last few are kept."""
    everything = n_queries + n_keys
    stride = min(stride, max(1, everything))  # beyond both ends it changes nothing

    def visible(ahead):
        shown = ahead % stride == 0
        return shown & (ahead <= 0) if causal else shown

    reach = everything, 0 if causal else everything
    return planning.band((n_queries, n_keys), stride, reach, visible, blocks)
