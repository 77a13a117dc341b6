"""Other people's implementations of a mechanism, to measure beside ours.

Each peer computes what our reference computes, or, for random features, an estimate of the same
quality. It takes torch tensors (B, H, T, D). A peer whose package is missing is listed as absent.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attncourse.catalogue import Mechanism

Call = tuple[Callable[..., Any], dict[str, Any]]


@dataclass(frozen=True)
class Peer:
    """One implementation of one mechanism by somebody else.

    Attributes:
        name: As the benchmark prints it.
        package: What has to be installed.
        fits: Whether it computes this mechanism.
        prepare: Takes the mechanism and q, k, v; returns a function of them and its keywords.
            What may be prepared once (masks, projections, compiled code) is prepared here. Raises
            NotImplementedError for sizes that it cannot do.
        n_squared_bytes: Bytes per pair of tokens that it holds, such as those of a dense mask.
    """

    name: str
    package: str
    fits: Callable[[Mechanism], bool]
    prepare: Callable[..., Call]
    n_squared_bytes: int = 0

    @property
    def absent(self) -> bool:
        """Whether its package is not installed."""
        return importlib.util.find_spec(self.package) is None


def of(mechanism: Mechanism) -> list[Peer]:
    """Return the peers of a mechanism, those whose package is missing included."""
    return [peer for peer in PEERS if peer.fits(mechanism)]


def _sdpa(mechanism: Mechanism, q, k, v) -> Call:
    from torch.nn.functional import scaled_dot_product_attention

    return scaled_dot_product_attention, {}


def _sdpa_masked(mechanism: Mechanism, q, k, v) -> Call:
    function, _ = _sdpa(mechanism, q, k, v)
    return function, {"attn_mask": _dense_mask(mechanism, q, k)}


def _flex(mechanism: Mechanism, q, k, v) -> Call:
    from torch.nn.attention.flex_attention import create_block_mask

    mask = _dense_mask(mechanism, q, k)

    def visible(batch, head, i, j):
        return mask[i, j]

    blocks = create_block_mask(visible, None, None, *mask.shape, device=q.device)
    function = _compiled_flex()
    function(q, k, v, block_mask=blocks)  # compiling is not part of a call
    return function, {"block_mask": blocks}


@functools.cache
def _compiled_flex():
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _local_attention(mechanism: Mechanism, q, k, v) -> Call:
    from local_attention import LocalAttention

    radius = mechanism.values["window"]
    if q.shape[-2] % radius:
        raise NotImplementedError(f"needs a multiple of {radius} tokens, as it sees its padding")
    module = LocalAttention(  # its window is one side of ours
        window_size=radius,
        look_backward=1,
        look_forward=1,
        exact_windowsize=True,
        use_rotary_pos_emb=False,
    )
    return module.to(q.device), {}


def _performer(mechanism: Mechanism, q, k, v) -> Call:
    from performer_pytorch import FastAttention

    features = mechanism.values["n_features"]
    return FastAttention(dim_heads=q.shape[-1], nb_features=features).to(q.device), {}


def _projected_sdpa(mechanism: Mechanism, q, k, v) -> Call:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    sizes = q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1]
    given = mechanism.keywords(*sizes, "float32", **mechanism.values)
    projections = [
        torch.as_tensor(given[name], dtype=q.dtype, device=q.device)
        for name in ("key_projection", "value_projection")
    ]

    def projected(q, k, v):
        key_projection, value_projection = projections
        return scaled_dot_product_attention(q, key_projection @ k, value_projection @ v)

    return projected, {}


def _dense_mask(mechanism: Mechanism, q, k):
    import torch

    mask = mechanism.reference.mask(q.shape[-2], k.shape[-2], **mechanism.values)
    return torch.from_numpy(mask).to(q.device)


def _is_pattern(mechanism: Mechanism) -> bool:
    return "mask" in mechanism.has and mechanism.family != "dense"


PEERS = (
    Peer("SDPA", "torch", lambda m: m.family in ("dense", "exact tiled"), _sdpa),
    Peer("SDPA with a dense mask", "torch", _is_pattern, _sdpa_masked, n_squared_bytes=5),
    Peer("FlexAttention", "torch", _is_pattern, _flex, n_squared_bytes=1),
    Peer("local-attention", "local_attention", lambda m: m.stem == "window", _local_attention),
    Peer("performer-pytorch", "performer_pytorch", lambda m: m.stem == "performer", _performer),
    Peer("torch.matmul and SDPA", "torch", lambda m: m.stem == "linformer", _projected_sdpa),
)
