"""Chapter 01: what full attention computes, holds and moves, and what fits into which GPU."""

from __future__ import annotations

import numpy as np

from attncourse import measure
from attncourse.claims.finders._growth import exponent, law
from attncourse.claims.finding import Found, finds
from attncourse.claims.ledger import Claim
from attncourse.cost import DEVICES
from attncourse.inputs import random_qkv
from attncourse.reference import flash, full

A100 = DEVICES["A100 40 GB"]
LENGTHS = "n = 1,024, 2,048, 4,096"


def _flops(n: int, width: int = 64) -> int:
    return full.cost(1, 1, n, n, width).flops


def _held(n: int) -> int:
    return full.cost(1, 1, n, n, 64).peak_bytes


@finds("C001", "C023")
def memory_growth(claim: Claim) -> Found:
    """Fit how the bytes held grow with n."""
    return law({"bytes held in n": (2, exponent(_held))}, f"full.cost, {LENGTHS}, one head of 64")


@finds("C003")
def numbers_of_a_head(claim: Claim) -> Found:
    """Count the weights of a real call."""
    n, heads = 256, 3
    q, k, _ = random_qkv(n, heads=heads)
    each = full.weights(q, k).size // heads
    return Found(f"{each:,} numbers = {n}²", f"full.weights, n = {n}, {heads} heads", each == n * n)


@finds("C004")
def heads_of_models(claim: Claim) -> Found:
    """Compare with the heads of released models."""
    heads = {"BERT-base": 12, "LLaMA 7B": 32, "LLaMA 65B": 64, "GPT-3": 96, "Llama 3 405B": 128}
    low, high = map(int, claim.printed.split("-"))
    outside = [model for model, count in heads.items() if not low <= count <= high]
    return Found(
        ", ".join(f"{count} in {model}" for model, count in heads.items())
        + f"; outside the printed range: {' and '.join(outside)}",
        "Devlin et al. 2019, section 3; Touvron et al. 2023 (LLaMA), table 2; Brown et al. 2020, "
        "table 2.1; Llama 3: arXiv:2407.21783, table 3",
        not outside,
    )


@finds("C005")
def squares_of_training(claim: Claim) -> Found:
    """Count the squares that autograd keeps, and those that NumPy holds at most."""
    n = 512
    kept = saved_squares(_standard)
    q, k, v = random_qkv(n)
    forward = round(measure.peak_bytes(full.attention, q, k, v) / (n * n * 4))
    backward = round(measure.peak_bytes(full.backward, v, q, k, v) / (n * n * 4))
    return Found(
        f"{kept} kept between the passes; {forward} held at most in the forward pass, "
        f"{backward} in the backward pass, "
        "which makes the weights again",
        f"kept: torch's autograd; held: full.attention and full.backward, NumPy, n = {n}",
        kept == forward == 1 < backward,
    )


@finds("C183")
def squares_of_a_fused_kernel(claim: Claim) -> Found:
    """Count the squares that autograd keeps for the fused kernel, beside standard attention."""
    import torch

    standard = saved_squares(_standard)
    fused = saved_squares(torch.nn.functional.scaled_dot_product_attention)
    n = 1024
    tiled = flash.cost(1, 1, n, n, 64, block_q=128, block_k=128).peak_bytes / (n * n * 4)
    return Found(
        f"{fused} squares kept by the fused kernel, {standard} by standard attention; "
        f"tiles hold {tiled:.2f} of a square at once",
        f"torch's autograd on this machine's CPU; flash.cost, n = {n:,}, tiles of 128",
        fused > 0,
    )


def saved_squares(attention, n: int = 256) -> int:
    """Return how many (n, n) tensors autograd keeps for the backward pass."""
    import torch

    tensors = [torch.from_numpy(a).requires_grad_() for a in random_qkv(n)]
    kept = set()

    def keep(tensor):
        if tensor.shape[-2:] == (n, n):
            kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attention(*tensors)
    return len(kept)


def _standard(q, k, v):
    import torch

    return torch.softmax(q @ k.mT / 8, dim=-1) @ v


@finds("C021")
def efficiency_with_units(claim: Claim) -> Found:
    """Give the two usable versions of a ratio that has no unit."""
    n = 4096
    standard = full.cost(1, 1, n, n, 64)
    tiled = flash.cost(1, 1, n, n, 64, block_q=128, block_k=128)
    least = n * 64 * 4
    return Found(
        f"{standard.intensity:.1f} FLOPs per byte moved for standard attention, "
        f"{tiled.intensity:.0f} in tiles; or {standard.peak_bytes / least:.0f} and "
        f"{tiled.peak_bytes / least:.1f} times the bytes of the output held at once",
        f"full.cost and flash.cost, n = {n:,}, D = 64, float32, tiles of 128",
        # The text's ratio would have to be the same whether bytes moved or held are meant.
        standard.intensity == standard.flops / standard.peak_bytes,
    )


@finds("C053", "C100", "C300")
def time_and_memory(claim: Claim) -> Found:
    """Fit the exponents of FLOPs and memory."""
    return law(
        {
            "FLOPs in n": (2, exponent(_flops)),
            "FLOPs in d": (1, exponent(lambda d: _flops(1024, d), (32, 64, 128))),
            "bytes held in n": (2, exponent(_held)),
        },
        f"full.cost, {LENGTHS}; d = 32, 64, 128",
    )


@finds("C182")
def three_steps(claim: Claim) -> Found:
    """Count the operations of each step on real arrays."""
    lengths = (64, 128, 256)

    def product(n: int, d: int = 64) -> int:
        q, k, _ = random_qkv(n, width=d)
        return measure.count_flops(np.matmul, q, k.mT)

    def exponentials(n: int) -> int:
        q, k, _ = random_qkv(n)
        return full.weights(q, k).size

    def values(n: int, d: int = 64) -> int:
        q, k, v = random_qkv(n, width=d)
        return measure.count_flops(np.matmul, full.weights(q, k), v)

    return law(
        {
            "Q Kᵀ in n": (2, exponent(product, lengths)),
            "Q Kᵀ in d": (1, exponent(lambda d: product(128, d), (32, 64, 128))),
            "exponentials in n": (2, exponent(exponentials, lengths)),
            "A V in n": (2, exponent(values, lengths)),
            "A V in d": (1, exponent(lambda d: values(128, d), (32, 64, 128))),
        },
        "products counted while they run, n = 64, 128, 256; d = 32, 64, 128",
    )


@finds("C195")
def lengths_of_models(claim: Claim) -> Found:
    """Compare with the papers."""
    bert, gpt2 = 512, 1024
    return Found(
        f"{bert} tokens in BERT, {gpt2:,} in GPT-2",
        "Devlin et al. 2019, appendix A.2; Radford et al. 2019, section 2.3",
        claim.printed == f"{bert}/{gpt2}",
    )


@finds("C136")
def peak_of_an_a100(claim: Claim) -> Found:
    """Take the data sheet's figure."""
    return Found(A100.peak("float16") / 1e12, f"{A100.source}: dense products on tensor cores")


@finds("C262")
def bandwidth_of_an_a100(claim: Claim) -> Found:
    """Take the data sheet's figure."""
    return Found(A100.bytes_per_second / 1e12, f"{A100.source}, {A100.memory_bytes // 10**9} GB")


@finds("C142")
def tensor_core_sizes(claim: Claim) -> Found:
    """Turn the bytes that the vendor asks for into numbers of two bytes."""
    aligned, best = 16 // 2, 128 // 2
    return Found(
        f"{aligned} numbers of float16 (16 bytes), and {best} (128 bytes) are best on an A100",
        "NVIDIA, Matrix Multiplication Background User's Guide, requirements of tensor cores",
        claim.printed == f"{aligned}/{best}",
    )


@finds("C145")
def intensity(claim: Claim) -> Found:
    """Count FLOPs per byte in three ways, and compare with the ridge of the roofline."""
    n, width = 4096, int(claim.parameters["d"])
    ridge = A100.flops_per_second / A100.bytes_per_second
    pairs, rest = n * n, 4 * n * width
    ways = {
        "six passes over the square in float16": 4 * width / (6 * 2),
        "four passes and q, k, v, out in float16": 4 * width * pairs / (2 * (4 * pairs + rest)),
        "the same in float32": full.cost(1, 1, n, n, width).intensity,
    }
    return Found(
        "; ".join(f"{value:.1f} FLOPs per byte with {way}" for way, value in ways.items())
        + f"; the ridge is at {ridge:.0f}",
        f"n = {n:,}, D = {width}, {A100.name} in float16",
        max(ways.values()) < ridge,
    )


@finds("C187", "C194", "C286")
def share_of_a_card(claim: Claim) -> Found:
    """Compare the bill of all heads and layers with the memory of the card that is named."""
    n, name = (4096, "V100 16 GB") if claim.id == "C187" else (8192, A100.name)
    need, room = n * n * 4 * 12 * 12, DEVICES[name].memory_bytes
    return Found(
        f"{need / 1e9:.2f} GB, {need / room:.1%} of the {room / 1e9:.0f} GB",
        f"n = {n:,}, float32, 12 heads, 12 layers, {name}",
        need > (0.9 if claim.id == "C187" else 1) * room,
    )


@finds("C056")
def cards_that_hold_it(claim: Claim) -> Found:
    """List the cards of the course that have the memory."""
    need = 12 * 4096**2 * 4 * 32
    fits = [device.name for device in DEVICES.values() if device.memory_bytes >= need]
    return Found(
        f"{need / 1e9:.1f} GB: {len(fits)} of {len(DEVICES)} cards hold it, {', '.join(fits)}",
        "n = 4,096, 12 heads, float32, 32 texts, one layer; the cards are those of the course",
        len(fits) < len(DEVICES) / 2,
    )


@finds("C127", "C128")
def batch_on_an_a100(claim: Claim) -> Found:
    """Divide the card's memory by what one text takes, in one layer and in all."""
    mb = float(claim.parameters["mb"])
    one, all_layers = (int(40e3 / (mb * layers)) for layers in (1, 12))
    # "several hundred" are 200 at least, and no thousands
    low, high = (32, np.inf) if claim.id == "C127" else (200, 1000)
    return Found(
        f"{one:,} texts if one layer counts, {all_layers} if all 12 do",
        f"40 GB, {mb} MB a text and layer, as printed",
        low <= all_layers <= one < high,
    )


@finds("C234")
def width_of_a_head(claim: Claim) -> Found:
    """Divide the model's width by its heads."""
    return Found(768 // 12, "BERT-base: width 768, 12 heads (Devlin et al. 2019, section 3)")


@finds("C307")
def bytes_of_the_inputs(claim: Claim) -> Found:
    """Ask real arrays for their bytes."""
    n, width = 256, 768
    held = sum(array.nbytes for array in random_qkv(n, width=width))
    each = held / (3 * n * width)
    mb = each * 3 * claim.parameters["n"] * claim.parameters["d"] / 1e6
    return Found(
        f"{each:.0f} · 3nd bytes, {mb:.1f} MB at n = {claim.parameters['n']:,}",
        f"q, k and v of random_qkv({n}, width={width}), float32",
        held == 3 * n * width,
    )


@finds("C480")
def two_units(claim: Claim) -> Found:
    """Write the same bytes in both units."""
    sizes = (4096**2 * 4, 12 * 4096**2 * 2)
    words = [f"{size / 2**20:.0f} MiB = {size / 1e6:.1f} MB" for size in sizes]
    return Found(
        " and ".join(words),
        "n = 4,096: one head in float32, 12 heads in float16",
        all(f"{size / 2**20:.0f}" == f"{size / 1e6:.0f}" for size in sizes),
    )


@finds("C134")
def linear_gain(claim: Claim) -> Found:
    """Divide the FLOPs of both references, 12 heads of 64."""
    from attncourse.reference import linear

    n = int(claim.parameters["n"])
    gain = full.cost(1, 12, n, n, 64).flops / linear.cost(1, 12, n, n, 64).flops
    return Found(
        gain, f"full.cost over linear.cost, n = {n:,}, 12 heads of 64, normaliser included"
    )
