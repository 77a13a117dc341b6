"""Other people's implementations of a mechanism, to measure beside ours.

Each peer computes what our reference computes, or, for random features and random hashes, an
estimate of the same quality. It takes torch tensors (B, H, T, D). A module that projects its input
is given q, k and v in place of its projections, so that only the attention is compared. A peer
whose package is missing is listed as absent. Of a mechanism's peers the strongest stands first.
"""

from __future__ import annotations

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
        prepare: Takes the mechanism, its knobs, q, k, v and whether it is causal; returns a
            function of q, k, v and its keywords. What may be prepared once (masks, projections,
            compiled code) is prepared here. Raises NotImplementedError for what it cannot do.
        n_squared_bytes: Bytes per pair of tokens that it holds, such as those of a dense mask.
        devices: Where it runs.
        slow: Whether it takes seconds to prepare.
        estimate: Whether its result is another random estimate than ours.
        backward: Whether it has a backward pass to measure.
    """

    name: str
    package: str
    fits: Callable[[Mechanism], bool]
    prepare: Callable[..., Call]
    n_squared_bytes: int = 0
    devices: tuple[str, ...] = ("cpu", "gpu")
    slow: bool = False
    estimate: bool = False
    backward: bool = False

    @property
    def absent(self) -> bool:
        """Whether its package is not installed."""
        return importlib.util.find_spec(self.package) is None


def of(mechanism: Mechanism, device: str = "cpu") -> list[Peer]:
    """Return the peers of a mechanism on a device, those whose package is missing included."""
    return [peer for peer in PEERS if device in peer.devices and peer.fits(mechanism)]


def _sdpa(mechanism: Mechanism, knobs, q, k, v, causal) -> Call:
    from torch.nn.functional import scaled_dot_product_attention

    return scaled_dot_product_attention, {"is_causal": causal}


def _sdpa_backend(backend: str) -> Callable[..., Call]:
    """Let one of torch's backends do it, not the one that torch would pick."""

    def prepare(mechanism: Mechanism, knobs, q, k, v, causal) -> Call:
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.nn.functional import scaled_dot_product_attention

        def attention(q, k, v):
            with sdpa_kernel(getattr(SDPBackend, backend)):
                return scaled_dot_product_attention(q, k, v, is_causal=causal)

        return attention, {}

    return prepare


def _sdpa_masked(mechanism: Mechanism, knobs, q, k, v, causal) -> Call:
    from torch.nn.functional import scaled_dot_product_attention

    return scaled_dot_product_attention, {"attn_mask": _dense_mask(mechanism, knobs, q, k, causal)}


def _sdpa_biased(mechanism: Mechanism, knobs, q, k, v, causal) -> Call:
    """Give torch T5's bias of all pairs, as T5's own code does."""
    import numpy as np
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from attncourse import masks
    from attncourse.reference import relative

    Tq, Tk = q.shape[-2], k.shape[-2]
    table = mechanism.keywords(Tq, Tk, q.shape[-1], v.shape[-1], "float32", **knobs)["table"]
    where = masks.positions(Tq, Tk), np.arange(Tk)
    bias = relative.t5_bias(*where, table, max_distance=knobs["max_distance"], causal=causal)
    if causal:
        bias[:, ~masks.causal(Tq, Tk)] = -np.inf
    return scaled_dot_product_attention, {"attn_mask": torch.from_numpy(bias).to(q)}


def _sdpa_grouped(mechanism: Mechanism, knobs, q, k, v, causal) -> Call:
    from torch.nn.functional import scaled_dot_product_attention

    if causal and q.shape[-2] == 1:  # the newest token sees all; torch would align it at the start
        causal = False
    return scaled_dot_product_attention, {"enable_gqa": True, "is_causal": causal}


def _flex(mechanism: Mechanism, knobs, q, k, v, causal) -> Call:
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if mechanism.family in ("dense", "exact tiled"):
        blocks = None
        if causal:
            sizes = q.shape[-2], k.shape[-2]
            blocks = create_block_mask(_earlier, None, None, *sizes, device=q.device)
    else:
        sizes = q.shape[-2], k.shape[-2]
        visible = _visible(mechanism, knobs, q, k, causal)
        blocks = create_block_mask(visible, None, None, *sizes, device=q.device)
    torch.compiler.reset()  # after some lengths it would give up, and run with all n² scores
    function = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    function(q, k, v, block_mask=blocks)  # compiling is not part of a call
    return function, {"block_mask": blocks}


def _earlier(batch, head, i, j):
    return i >= j


def _visible(mechanism: Mechanism, knobs, q, k, causal) -> Callable:
    """Return the pattern as FlexAttention asks for it: as a formula, or by a look into the mask."""
    if mechanism.stem == "window" and knobs["dilation"] == 1:
        ahead, window = k.shape[-2] - q.shape[-2], knobs["window"]

        def visible(batch, head, i, j):
            near = (j - i - ahead).abs() <= window
            return near & (j <= i + ahead) if causal else near

        return visible
    mask = _dense_mask(mechanism, knobs, q, k, causal)
    return lambda batch, head, i, j: mask[i, j]


def _varlen(mechanism: Mechanism, knobs, q, k, v, causal) -> Call:
    """FlashAttention-2's own local attention, as torch ships it for packed sequences."""
    import torch
    from torch.nn.attention.varlen import varlen_attn

    if knobs["dilation"] != 1:
        raise NotImplementedError("knows no dilation")
    B, _, n, _ = q.shape
    starts = torch.arange(0, (B + 1) * n, n, dtype=torch.int32, device=q.device)
    window = (knobs["window"], 0 if causal else knobs["window"])

    def attention(q, k, v):
        packed = (x.transpose(1, 2).reshape(B * n, *x.shape[1::2]) for x in (q, k, v))
        out = varlen_attn(*packed, starts, starts, n, n, window_size=window)
        return out.unflatten(0, (B, n)).transpose(1, 2)

    return attention, {}


def _local_attention(mechanism: Mechanism, knobs, q, k, v, causal) -> Call:
    from local_attention import LocalAttention

    radius = knobs["window"]
    if knobs["dilation"] != 1:
        raise NotImplementedError("knows no dilation")
    if q.shape[-2] % radius:
        raise NotImplementedError(f"needs a multiple of {radius} tokens, as it sees its padding")
    module = LocalAttention(  # its window is one side of ours
        window_size=radius,
        causal=causal,
        look_backward=1,
        look_forward=0 if causal else 1,
        exact_windowsize=True,
        use_rotary_pos_emb=False,
    )
    return module.to(q.device), {}


def _longformer(mechanism: Mechanism, knobs, q, k, v, causal) -> Call:
    import torch
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    B, H, n, D = q.shape
    if causal or knobs["dilation"] != 1:
        raise NotImplementedError("is neither causal nor dilated")
    if n % (2 * knobs["window"]):
        raise NotImplementedError(f"needs a multiple of {2 * knobs['window']} tokens")
    config = LongformerConfig(
        hidden_size=H * D, num_attention_heads=H, attention_window=[2 * knobs["window"]],
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    module = LongformerSelfAttention(config, layer_id=0).eval()
    for name, tensor in {"query": q, "key": k, "value": v}.items():
        setattr(module, name, _Given(_rows(tensor).transpose(0, 1)))  # it puts tokens first
        n_seen = knobs["global_tokens"] if name == "query" else n
        setattr(module, f"{name}_global", _Given(_rows(tensor)[:, :n_seen].transpose(0, 1)))
    is_global = torch.zeros(B, n, dtype=torch.bool, device=q.device)
    is_global[:, : knobs["global_tokens"]] = True
    given = {
        "hidden_states": _rows(q),
        "attention_mask": is_global * 10000.0,
        "is_index_masked": torch.zeros_like(is_global),
        "is_index_global_attn": is_global,
        "is_global_attn": bool(knobs["global_tokens"]),
    }
    return _module_call(module, given, H), {}


def _bigbird(mechanism: Mechanism, knobs, q, k, v, causal) -> Call:
    import torch
    from transformers import BigBirdConfig
    from transformers.models.big_bird.modeling_big_bird import (
        BigBirdBlockSparseAttention,
        BigBirdModel,
    )

    B, H, n, D = q.shape
    block = knobs["block"]
    if causal or n % block:
        raise NotImplementedError(f"is not causal and needs a multiple of {block} tokens")
    if n < (least := block * (5 + 2 * knobs["random_blocks"])):
        raise NotImplementedError(f"needs at least {least} tokens to draw its blocks from")
    config = BigBirdConfig(
        hidden_size=H * D, num_attention_heads=H, block_size=block,
        num_random_blocks=knobs["random_blocks"],
    )  # fmt: skip
    module = BigBirdBlockSparseAttention(config, seed=0).train()  # else it draws no blocks
    for name, tensor in {"query": q, "key": k, "value": v}.items():
        setattr(module, name, _Given(_rows(tensor)))
    masks = BigBirdModel.create_masks_for_block_sparse_attn(
        torch.ones(B, n, device=q.device), block
    )
    named = dict(
        zip(("from_blocked_mask", "band_mask", "from_mask", "to_mask"), masks, strict=True)
    )
    named = {name: mask.to(q.dtype) for name, mask in named.items()}
    given = {"hidden_states": _rows(q), "to_blocked_mask": named["from_blocked_mask"], **named}
    return _module_call(module, given, H), {}


def _reformer(mechanism: Mechanism, knobs, q, k, v, causal) -> Call:
    from transformers import ReformerConfig
    from transformers.models.reformer.modeling_reformer import LSHSelfAttention

    _, H, n, D = q.shape
    if n <= knobs["chunk"] or n % knobs["chunk"]:
        raise NotImplementedError(f"needs a multiple of {knobs['chunk']} tokens, and more")
    config = ReformerConfig(
        hidden_size=H * D, num_attention_heads=H, attention_head_size=D, is_decoder=causal,
        num_buckets=knobs["n_buckets"], num_hashes=knobs["n_rounds"],
        lsh_attn_chunk_length=knobs["chunk"], lsh_attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    module = LSHSelfAttention(config).eval().to(q.device, q.dtype)
    module.query_key, module.value = _Given(_rows(q)), _Given(_rows(v))
    return _module_call(module, {"hidden_states": _rows(q)}, H), {}


def _linformer(mechanism: Mechanism, knobs, q, k, v, causal) -> Call:
    import torch
    from linformer import LinformerSelfAttention

    _, H, n, D = q.shape
    module = LinformerSelfAttention(H * D, n, k=knobs["rank"], heads=H).to(q.device, q.dtype)
    keys, values = _projections(mechanism, knobs, q, k, v)
    if len(keys) != knobs["rank"]:
        raise NotImplementedError(f"needs more than {knobs['rank']} tokens")
    module.proj_k = torch.nn.Parameter(keys.T.contiguous())
    module.proj_v = torch.nn.Parameter(values.T.contiguous())
    module.to_q, module.to_k, module.to_v = (_Given(_rows(x)) for x in (q, k, v))
    module.to_out = torch.nn.Identity()
    return _module_call(module, {"x": _rows(q)}, H), {}


def _performer(mechanism: Mechanism, knobs, q, k, v, causal) -> Call:
    from performer_pytorch import FastAttention

    module = FastAttention(dim_heads=q.shape[-1], nb_features=knobs["n_features"], causal=causal)
    return module.to(q.device), {}


def _fla_linear(mechanism: Mechanism, knobs, q, k, v, causal) -> Call:
    from fla.ops.linear_attn import chunk_linear_attn
    from torch.nn.functional import elu

    if not causal:
        raise NotImplementedError("is causal only")

    def attention(q, k, v):  # its layout is (B, T, H, D), and features are the caller's
        q, k, v = (x.transpose(1, 2).contiguous() for x in (elu(q) + 1, elu(k) + 1, v))
        out = chunk_linear_attn(q, k, v, normalize=True)
        return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)

    return attention, {}


def _projected_sdpa(mechanism: Mechanism, knobs, q, k, v, causal) -> Call:
    from torch.nn.functional import scaled_dot_product_attention

    key_projection, value_projection = _projections(mechanism, knobs, q, k, v)

    def projected(q, k, v):
        return scaled_dot_product_attention(q, key_projection @ k, value_projection @ v)

    return projected, {}


def _pooled_sdpa(mechanism: Mechanism, knobs, q, k, v, causal) -> Call:
    from torch.nn.functional import scaled_dot_product_attention

    if causal or k.shape[-2] % knobs["pool"]:
        raise NotImplementedError(f"is not causal and needs a multiple of {knobs['pool']} tokens")

    def pooled(q, k, v):
        k, v = (x.unflatten(-2, (-1, knobs["pool"])).mean(-2) for x in (k, v))
        return scaled_dot_product_attention(q, k, v)

    return pooled, {}


def _untried(mechanism: Mechanism, knobs, q, k, v, causal) -> Call:
    raise NotImplementedError("is installed, but nobody has tried it beside ours yet")


def _projections(mechanism: Mechanism, knobs, q, k, v):
    import torch

    sizes = q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1]
    given = mechanism.keywords(*sizes, "float32", **knobs)
    return [
        torch.as_tensor(given[name], dtype=q.dtype, device=q.device)
        for name in ("key_projection", "value_projection")
    ]


def _rows(tensor):
    """(B, H, T, D) as the (B, T, H·D) that a module's projection would give."""
    return tensor.transpose(1, 2).flatten(2).contiguous()


def _Given(tensor):
    """Return a module that stands for a projection and gives what it is given here."""
    import torch

    class Given(torch.nn.Module):
        def forward(self, hidden):
            return tensor.clone()  # the caller may change it in place

    return Given()


def _module_call(module, given: dict[str, Any], heads: int) -> Callable[..., Any]:
    import torch

    def attention(q, k, v):
        with torch.no_grad():
            out = module(**given)
        out = out if isinstance(out, torch.Tensor) else out[0]
        return out.unflatten(-1, (heads, -1)).transpose(1, 2)

    return attention


def _dense_mask(mechanism: Mechanism, knobs, q, k, causal):
    import torch

    mask = mechanism.reference.mask(q.shape[-2], k.shape[-2], **knobs, causal=causal)
    return torch.from_numpy(mask).to(q.device)


def _is(*stems: str) -> Callable[[Mechanism], bool]:
    return lambda mechanism: mechanism.stem in stems


def _is_pattern(mechanism: Mechanism) -> bool:
    return "mask" in mechanism.has and mechanism.family != "dense"


_GPU = ("gpu",)
PEERS = (
    Peer("SDPA", "torch", _is("full"), _sdpa, backward=True),
    Peer(
        "SDPA, cuDNN",
        "torch",
        _is("flash"),
        _sdpa_backend("CUDNN_ATTENTION"),
        devices=_GPU,
        backward=True,
    ),
    Peer("SDPA, flash", "torch", _is("flash"), _sdpa_backend("FLASH_ATTENTION"), backward=True),
    Peer(
        "SDPA, memory-efficient",
        "torch",
        _is("flash"),
        _sdpa_backend("EFFICIENT_ATTENTION"),
        devices=_GPU,
        backward=True,
    ),
    Peer(
        "memory-efficient-attention",
        "memory_efficient_attention_pytorch",
        _is("flash"),
        _untried,
        devices=_GPU,
    ),
    Peer("FlexAttention", "torch", _is("flash"), _flex, devices=_GPU, slow=True, backward=True),
    Peer(
        "SDPA with a dense mask",
        "torch",
        _is_pattern,
        _sdpa_masked,
        n_squared_bytes=5,
        slow=True,
        backward=True,
    ),
    Peer("FlexAttention", "torch", _is_pattern, _flex, n_squared_bytes=1, slow=True, backward=True),
    Peer("SDPA with all biases", "torch", _is("t5"), _sdpa_biased, n_squared_bytes=20, slow=True),
    Peer("FlashAttention-2, local", "torch", _is("window"), _varlen, devices=_GPU, backward=True),
    Peer("local-attention", "local_attention", _is("window"), _local_attention, backward=True),
    Peer("transformers", "transformers", _is("longformer"), _longformer, slow=True),
    Peer("transformers", "transformers", _is("bigbird"), _bigbird, slow=True, estimate=True),
    Peer("transformers", "transformers", _is("lsh"), _reformer, slow=True, estimate=True),
    Peer("reformer-pytorch", "reformer_pytorch", _is("lsh"), _untried, devices=_GPU),
    Peer(
        "flash-linear-attention",
        "fla",
        _is("linear"),
        _fla_linear,
        devices=_GPU,
        backward=True,
    ),
    Peer(
        "performer-pytorch",
        "performer_pytorch",
        _is("performer"),
        _performer,
        estimate=True,
        backward=True,
    ),
    Peer("torch.matmul and SDPA", "torch", _is("linformer"), _projected_sdpa, backward=True),
    Peer("linformer", "linformer", _is("linformer"), _linformer),
    Peer("torch's mean and SDPA", "torch", _is("pooled"), _pooled_sdpa, backward=True),
    Peer("SDPA", "torch", _is("grouped"), _sdpa_grouped, backward=True),
)
DECODING = (
    Peer("SDPA", "torch", _is("kv_cache"), _sdpa_grouped),
    Peer("xFormers", "xformers", _is("kv_cache", "paged"), _untried),
)
