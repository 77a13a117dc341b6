"""Which kernel a library picks, from sizes, types and hardware: torch's rule, in few lines.

`torch.nn.functional.scaled_dot_product_attention` goes through a list of kernels and takes the
first that can compute the call; each has a list of things that it cannot. xFormers does the same
(`xformers/ops/fmha/dispatch.py`). The lists here are torch's own, of `sdp_utils.cpp` and
`sdp_utils_cpp.cpp` in autumn 2026, without nested tensors, and without dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from attncourse.inputs import check_count, check_flag

WHERE = "choosing.kernels_for"
HALF = ("float16", "bfloat16")
CPU_TYPES = (*HALF, "float32", "float64")
TORCH_NAMES = {0: "math", 1: "flash", 2: "efficient", 3: "cudnn"}  # torch.nn.attention.SDPBackend


@dataclass(frozen=True)
class Kernel:
    """A kernel that was considered.

    Attributes:
        name: "cudnn", "flash", "efficient" or "math".
        cannot: Why it cannot compute this call, each a reason; none if it can.
    """

    name: str
    cannot: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {'; '.join(self.cannot) or 'can'}"


def kernels_for(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Any = None,
    causal: bool = False,
    gqa: bool = False,
    device: str = "cpu",
    capability: tuple[int, int] = (9, 0),
) -> list[Kernel]:
    """Return the kernels in the order in which torch tries them: the first that can is taken.

    Args:
        q: (B, H, Tq, D), of NumPy or torch; only shape, dtype and strides are read.
        k: (B, Hk, Tk, D).
        v: (B, Hk, Tk, Dv).
        mask: (Tq, Tk) or (B, H, Tq, Tk), each axis may be 1; or None.
        causal: torch's `is_causal`.
        gqa: torch's `enable_gqa`: several heads of q share one of k and v.
        device: "cpu" or "cuda": where the arrays are taken to lie.
        capability: Of the GPU, such as (9, 0) for an H100.

    Raises:
        TypeError: `causal` or `gqa` is neither True nor False, or q, k, v or a mask no array.
        ValueError: Another device, fewer than two axes, or dtypes that differ.
    """
    causal, gqa = check_flag(WHERE, "causal", causal), check_flag(WHERE, "gqa", gqa)
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not hasattr(x, "shape") or not hasattr(x, "dtype"):
            raise TypeError(f"{WHERE}: {name} must be an array, got {type(x).__name__}")
        if len(x.shape) < 2:
            raise ValueError(
                f"{WHERE}: {name} must have at least 2 axes (tokens, width), "
                f"got shape {tuple(x.shape)}"
            )
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"{WHERE}: q, k and v must have one dtype, got {q.dtype}, {k.dtype}, {v.dtype}"
        )
    if mask is not None and not hasattr(mask, "shape"):
        raise TypeError(f"{WHERE}: mask must be an array or None, got {type(mask).__name__}")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"{WHERE}: device must be 'cpu' or 'cuda', got {device!r}")
    call = _Call(q, k, v, mask, causal, gqa, capability)
    considered: tuple[tuple[str, Callable[[_Call], Iterator[str]]], ...]
    if device == "cpu":
        considered = (("flash", _cpu_flash),)
    else:
        considered = (("flash", _flash), ("efficient", _efficient))
        if capability[0] in (9, 10):  # elsewhere torch does not put cuDNN first
            considered = (("cudnn", _cudnn), *considered)
    found = [Kernel(name, tuple(reasons(call))) for name, reasons in considered]
    return [*found, Kernel("math", ())]


def torch_picks(q: Any, k: Any, v: Any, **keywords: Any) -> str:
    """Return which kernel torch takes for a call: its name as in `kernels_for`.

    torch's fused attention asks this function itself, at each call; its name begins with an
    underscore, for it is not meant for others.

    Args:
        q: A tensor, as k and v.
        k: A tensor.
        v: A tensor.
        **keywords: Those of torch's function: attn_mask, is_causal, enable_gqa.
    """
    import torch

    return TORCH_NAMES.get(torch._fused_sdp_choice(q, k, v, **keywords), "none")


def splits_for(programs: int, key_tiles: int, multiprocessors: int = 132) -> int:
    """Return into how many parts FlashAttention-3 splits the keys: few queries, many processors.

    As few as keep 85 % as many multiprocessors at work as the best number would; one if there is
    work for 80 % of them, or if there are at most 4 tiles of keys (`hopper/heuristics.h`, without
    its case for caches beyond L2).

    Args:
        programs: Tiles of queries, of all heads and texts.
        key_tiles: Tiles of keys that each walks over.
        multiprocessors: Of the GPU; an H100 has 132.
    """
    programs = check_count("choosing.splits_for", "programs", programs, least=1)
    key_tiles = check_count("choosing.splits_for", "key_tiles", key_tiles)
    if programs >= 0.8 * multiprocessors or key_tiles <= 4:
        return 1
    counts = range(1, min(multiprocessors, key_tiles) + 1)
    at_work = [_at_work(programs * count, multiprocessors) for count in counts]
    return next(c for c, share in zip(counts, at_work, strict=True) if share >= 0.85 * max(at_work))


def _at_work(programs: int, multiprocessors: int) -> float:
    """Return the share of multiprocessors that work, over all waves of programs."""
    waves = -(-programs // multiprocessors)
    return programs / (waves * multiprocessors)


class _Call:
    """What the kernels look at."""

    def __init__(self, q, k, v, mask, causal, gqa, capability) -> None:
        self.q, self.k, self.v, self.mask = q, k, v, mask
        self.causal, self.gqa, self.capability = causal, gqa, capability
        self.dtype = str(q.dtype).removeprefix("torch.")
        self.widths = [x.shape[-1] for x in (q, k, v)]
        self.four = all(len(x.shape) == 4 for x in (q, k, v))


def _fused(call: _Call) -> Iterator[str]:
    """What no fused kernel can."""
    q, k, v = (tuple(x.shape) for x in (call.q, call.k, call.v))
    if not call.four:
        yield "wants 4 axes"
        return
    if not q[0] == k[0] == v[0]:
        yield "batches differ"
    shared = call.gqa and k[1] > 0 and q[1] % k[1] == 0
    if k[1] != v[1] or not (q[1] == k[1] or shared):
        yield "heads differ"
    if 0 in (q[2], k[2]):
        yield "no query or no key"
    if any(_last_stride(x) != 1 for x in (call.q, call.k, call.v)):
        yield "numbers of a row do not lie side by side"


def _mask_shape(call: _Call) -> Iterator[str]:
    if call.mask is None or not call.four:
        return
    sizes = (*call.q.shape[:3], call.k.shape[2])
    shape = tuple(call.mask.shape)
    wanted = sizes[-len(shape) :]
    fits = len(shape) in (2, 4) and all(is_ in (1, n) for is_, n in zip(shape, wanted, strict=True))
    if not fits:
        yield "the mask's shape does not fit"
    if getattr(call.mask, "requires_grad", False):
        yield "the mask wants a gradient"


def _cpu_flash(call: _Call) -> Iterator[str]:
    yield from _fused(call)
    yield from _mask_shape(call)
    if len(set(call.widths)) > 1:
        yield "widths of q, k and v differ"
    if call.dtype not in CPU_TYPES:
        yield f"no {call.dtype}"


def _flash(call: _Call) -> Iterator[str]:
    yield from _fused(call)
    if call.mask is not None:
        yield "takes no mask"
    if len(set(call.widths)) > 1 or call.widths[0] > 256:
        yield "wants one width, at most 256"
    if call.capability < (8, 0):
        yield "wants a GPU of 2020 or later (8.0)"
    if call.causal and call.q.shape[-2] != call.k.shape[-2]:
        yield "causal only with as many queries as keys"
    if call.dtype not in HALF:
        yield f"no {call.dtype}"


def _efficient(call: _Call) -> Iterator[str]:
    yield from _fused(call)
    step = 8 if call.dtype in HALF else 4 if call.capability >= (8, 0) else 1
    if call.widths[0] != call.widths[1] or any(width % step for width in call.widths):
        yield f"wants widths that are multiples of {step}"
    if call.dtype not in (*HALF, "float32") or (
        call.dtype == "bfloat16" and call.capability < (8, 0)
    ):
        yield f"no {call.dtype}"


def _cudnn(call: _Call) -> Iterator[str]:
    yield from _fused(call)
    yield from _mask_shape(call)
    if any(width % 8 or width > 128 for width in (call.widths[0], call.widths[2])):
        yield "wants widths that are multiples of 8, at most 128"
    if call.dtype not in HALF:
        yield f"no {call.dtype}"
    if call.k.shape[-2] == 1:
        yield "wants more than one key"


def _last_stride(x: Any) -> int:
    """Return how many numbers lie between neighbours of a row, of a NumPy array or a tensor."""
    if callable(getattr(x, "stride", None)):
        return x.stride(-1)
    return x.strides[-1] // x.itemsize
