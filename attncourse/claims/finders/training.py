"""Chapter 11: checkpoints, reversible layers and half precision, counted in torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from attncourse.claims.finders._growth import exponent
from attncourse.claims.finding import Found, finds
from attncourse.claims.ledger import Claim

LAYERS = 12


def _kept(run: Callable, tokens: int, width: int) -> int:
    """Return the numbers in (tokens, width) tensors that a forward pass keeps, each once.

    Args:
        run: Called with an input; its output keeps alive what the backward pass reads.
        tokens: n, other than `width`, so that weights are not counted.
        width: d.
    """
    import torch

    seen = {}

    def pack(tensor):
        if tensor.shape == (tokens, width):
            seen[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    x = torch.randn(tokens, width, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run(x)
    kept = sum(seen.values())
    del out
    return kept


def _layers(count: int, width: int) -> list:
    from torch import nn

    return [nn.Sequential(nn.Linear(width, width, bias=False), nn.Tanh()) for _ in range(count)]


def _checkpointed(count: int, every: int | None, tokens: int = 96, width: int = 32) -> int:
    from attncourse.training import checkpointing

    layers = _layers(count, width)
    return _kept(lambda x: checkpointing.forward(layers, x, every=every), tokens, width)


@finds("C006")
def _smaller_with_checkpoints(claim: Claim) -> Found:
    from attncourse.training import checkpointing_cost

    every = checkpointing_cost.best_every(LAYERS)
    plain, saving = (_checkpointed(LAYERS, k) // (96 * 32) for k in (None, every))
    held = checkpointing_cost.predict(LAYERS, every, 96, 32).held
    return Found(
        f"{saving} tensors of n × d wait for the backward pass with a checkpoint every {every} "
        f"layers, {held} at most while it runs, {plain} without",
        f"tensors that torch keeps for the backward pass, {LAYERS} layers tanh(x W); the "
        "most at once is predicted",
        agrees=held > plain,
    )


@finds("C028")
def _input_of_a_layer(claim: Claim) -> Found:
    length = exponent(lambda n: _checkpointed(LAYERS, 1, tokens=n), (96, 192, 384))
    width = exponent(lambda d: _checkpointed(LAYERS, 1, width=d), (16, 32, 64))
    n, d = int(claim.parameters["n"]), int(claim.parameters["d"])
    each = _checkpointed(LAYERS, 1) / LAYERS / (96 * 32)
    return Found(
        f"a layer's checkpoint is {each:.0f} tensor of n × d: it grows as n^{length:.1f} and "
        f"d^{width:.1f}, {n * d * 4 / 1e6:.1f} MB at n = {n:,} and d = {d}",
        f"tensors that torch keeps for the backward pass, {LAYERS} layers with a checkpoint each; "
        "float32",
        agrees=abs(width) < 0.05,
    )


def _blocks(count: int, width: int) -> list:
    from attncourse.training import reversible

    halves = _layers(2 * count, width)
    return [reversible.Block(f, g) for f, g in zip(halves[::2], halves[1::2], strict=True)]


def _reversible(count: int, plain: bool, tokens: int = 96, width: int = 32) -> int:
    from attncourse.training import reversible

    blocks = _blocks(count, width)

    def run(x):
        if not plain:
            return reversible.forward(blocks, x, x + 1)
        x1, x2 = x, x + 1
        for block in blocks:
            x1, x2 = block(x1, x2)
        return x1, x2

    return _kept(run, tokens, width)


@finds("C291")
def _one_layer_kept(claim: Claim) -> Found:
    counts = (6, 12, 24)
    plain = exponent(lambda count: _reversible(count, True), counts)
    saving = exponent(lambda count: _reversible(count, False), counts)
    tensors = [_reversible(LAYERS, way) // (96 * 32) for way in (True, False)]
    return Found(
        f"what is kept grows as L^{plain:.1f} in plain layers and as L^{saving:.1f} in reversible "
        f"ones; at L = {LAYERS} it is {tensors[0]} and {tensors[1]} tensors of n × d",
        "tensors that torch keeps for the backward pass, two halves, F and G each tanh(x W)",
        agrees=abs(plain - 1) < 0.1 and abs(saving) < 0.1,
    )


@finds("C294")
def _reconstruction(claim: Claim) -> Found:
    import torch

    from attncourse.training import reversible

    errors = {
        name: reversible.reconstruction_error(getattr(torch, name), n_blocks=LAYERS)
        for name in ("float64", "float32", "float16")
    }
    words = ", ".join(f"{error:.0e} in {name}" for name, error in errors.items())
    return Found(
        f"inputs computed back differ by up to {words}",
        f"{LAYERS} blocks, F and G each tanh(x W), n = d = 64, torch on the CPU, seed 0",
        agrees=max(errors.values()) == 0,
    )


def _forward_passes(reverse: bool) -> float:
    """Return how often a layer runs forward in a step that recomputes, on average."""
    import torch

    from attncourse.training import checkpointing, reversible

    runs = []
    layers, x = _layers(LAYERS, 32), torch.randn(96, 32, requires_grad=True)
    for layer in layers:
        layer.register_forward_hook(lambda *_: runs.append(1))
    if reverse:
        blocks = [reversible.Block(f, g) for f, g in zip(layers[::2], layers[1::2], strict=True)]
        out = sum(reversible.forward(blocks, x, x + 1))
    else:
        out = checkpointing.forward(layers, x, every=3)
    out.sum().backward()
    return len(runs) / LAYERS


@finds("C298", "C365")
def _one_pass_more(claim: Claim) -> Found:
    reverse = claim.id == "C365"
    what = "reversible" if reverse else "with a checkpoint every 3 of them"
    passes = _forward_passes(reverse)
    more = (passes + 2) / (1 + 2) - 1
    return Found(
        float(f"{100 * more:.3g}"),
        f"{passes:.0f} forward passes instead of 1, counted in torch, {LAYERS} layers {what}; a "
        "backward pass has the products of 2 forward passes; no clock",
    )


@finds("C029", "C030", "C296", "C479")
def _products_of_a_step(claim: Claim) -> Found:
    forward, backward = (float(claim.parameters[name]) for name in ("fwd", "bwd"))
    return Found(
        (2 * forward + backward) / (forward + backward),
        f"products of a training step with the forward pass made twice, over those with it made "
        f"once; a backward pass has those of {backward / forward:g} forward passes",
    )


@finds("C034")
def _products_of_flash(claim: Claim) -> Found:
    names = ("fwd", "bwd_std", "bwd_flash")
    forward, standard, flash = (int(claim.parameters[name]) for name in names)
    return Found(
        (forward + flash) / (forward + standard),
        f"matrix products of a training step: {forward} forward; {standard} backward in standard "
        f"attention, {flash} in flash attention, which makes the scores again",
        agrees=flash > standard,
    )


@finds("C020")
def _half(claim: Claim) -> Found:
    from attncourse.training import mixed_precision

    ratio = np.dtype(np.float32).itemsize / np.dtype(np.float16).itemsize
    each = [mixed_precision.state_bytes(1, mixed=mixed) for mixed in (False, True)]
    return Found(
        f"activations take {1 / ratio:.0%} of the bytes; weights, gradients and Adam's moments "
        f"{each[0]} bytes a parameter in float32, and {each[1]} in mixed precision",
        "float16 against float32; mixed: 16-bit weights and gradients, float32 masters and moments",
        agrees=ratio >= 1.5,
    )
