"""Chapter 07: linear attention and its feature map."""

from __future__ import annotations

import numpy as np

from attncourse import measure
from attncourse.claims.finders._growth import exponent
from attncourse.claims.finding import Found, finds
from attncourse.claims.ledger import Claim
from attncourse.cost import DEVICES
from attncourse.inputs import random_qkv
from attncourse.reference import full, linear, performer
from attncourse.units import format_difference

HEAD = "one head of 64"
NORMAL = "standard normal q, k and v"


def mean_square(array: np.ndarray) -> float:
    """Return the mean of the squares."""
    return float(np.square(array).mean())


def _flops(n: int) -> float:
    return linear.cost(1, 1, n, n, 64).flops


@finds("C014")
def _linear_in_n(claim: Claim) -> Found:
    work = exponent(_flops)
    softmax = exponent(lambda n: full.cost(1, 1, n, n, 64).flops)
    n = 1024
    held = measure.peak_bytes(linear.attention, *random_qkv(n))
    return Found(
        f"the work grows as n^{work:.2f}, softmax attention's as n^{softmax:.2f}; at n = {n:,} "
        f"{held / 1e6:.1f} MB are held, the matrix alone would take {4 * n * n / 1e6:.1f} MB",
        f"FLOPs of the references at n = 1,024 to 4,096, {HEAD}; measured peak, NumPy",
        agrees=abs(work - 1) < 0.05 and held < 4 * n * n,
    )


@finds("C015")
def _without_normaliser(claim: Claim) -> Found:
    q, k, _ = random_qkv(512)
    scores = linear.elu_plus_one(q) @ linear.elu_plus_one(k).swapaxes(-1, -2)
    sums = scores.sum(axis=-1)
    wanted = full.weights(q, k).sum(axis=-1)
    return Found(
        f"rows of φ(q) φ(k)ᵀ sum to {sums.min():,.0f} and more, those of a softmax to "
        f"{wanted.max():.0f}",
        f"elu + 1, n = 512, {HEAD}, {NORMAL}, seed 0",
        agrees=bool(np.allclose(sums, wanted, rtol=0.01)),
    )


@finds("C032")
def _running_state(claim: Claim) -> Found:
    q, k, v = random_qkv(96, width=16)
    state, outs = None, []
    for i in range(96):
        token = slice(i, i + 1)
        out, state = linear.step(state, q[..., token, :], k[..., token, :], v[..., token, :])
        outs.append(out)
    whole = linear.weights(q, k, causal=True) @ v
    off = float(np.abs(np.concatenate(outs, axis=-2) - whole).max())
    assert state is not None
    return Found(
        f"a state of {state.shape[-2]} × {state.shape[-1]} numbers at every token gives the whole "
        f"causal matrix's outputs, {format_difference(off, below=1e-5)} apart",
        "elu + 1, 96 tokens one by one, one head of 16, seed 0; the last column is the normaliser",
        agrees=off < 1e-4 and state.shape[-2:] == (16, 17),
    )


@finds("C078", "C238")
def _square_of_the_width(claim: Claim) -> Found:
    length = exponent(_flops)
    n = 16384
    width = exponent(lambda d: linear.cost(1, 1, n, n, d).flops, (128, 256, 512))
    by_heads = {h: linear.cost(1, h, n, n, 768 // h).flops for h in (1, 12)}
    return Found(
        f"the work grows as n^{length:.2f} and as d^{width:.1f} in the width of a head; 768 in 12 "
        f"heads take {by_heads[1] / by_heads[12]:.0f} times less than in one",
        "FLOPs of the reference, n = 1,024 to 4,096 at d = 64, d = 128 to 512 at n = 16,384",
        agrees=abs(length - 1) < 0.05 and abs(width - 2) < 0.25,
    )


@finds("C079")
def _width_of_the_values(claim: Claim) -> Found:
    _, k, v = (array[0, 0] for array in random_qkv(512))

    def moved_brackets(phi_k, v):
        return phi_k @ (phi_k.T @ v)

    few = measure.count_flops(moved_brackets, k, v)
    four_times = measure.count_flops(moved_brackets, np.tile(k, 4), v)
    return Found(
        f"{four_times / few:.0f} times the work for 4 times the features, where d'² would be 16",
        "φ(q) (φ(k)ᵀ v) with 64 and 256 features, values 64 wide, n = 512, products counted",
        agrees=four_times / few == 16,
    )


@finds("C083")
def _size_of_the_state(claim: Claim) -> Found:
    def state(n: int) -> int:
        _, k, v = random_qkv(n)
        return (linear.elu_plus_one(k).swapaxes(-1, -2) @ v).size

    grows = exponent(state, (256, 512, 1024))
    return Found(
        f"φ(k)ᵀ v has {state(256):,} numbers at every n: it grows as n^{abs(grows):.0f}",
        f"elu + 1, n = 256 to 1,024, {HEAD}",
        agrees=abs(grows - 1) < 0.05,
    )


def _variation(spread: float) -> float:
    q, k, _ = random_qkv(512)
    factor = np.float32(spread**0.5)
    difference = full.weights(q * factor, k * factor) - linear.weights(q * factor, k * factor)
    return float(np.abs(difference).sum(axis=-1).mean() / 2)


@finds("C088")
def _nearly_even(claim: Claim) -> Found:
    q, k, _ = random_qkv(512)
    softmax, even = (
        float(weights(q, k).max(axis=-1).mean()) * 512 for weights in (full.weights, linear.weights)
    )
    return Found(
        f"{_variation(1):.0%} of the attention lies on other keys; a row's largest weight is "
        f"{softmax:.0f} times the mean with softmax, {even:.1f} times with elu + 1",
        f"n = 512, {HEAD}, {NORMAL}, seed 0",
        agrees=_variation(1) < 0.5 and even > softmax / 2,
    )


@finds("C175")
def _typical_error(claim: Claim) -> Found:
    found = {spread: _variation(spread) for spread in (0.25, 0.5, 1, 2, 3)}
    words = ", ".join(f"{share:.0%} at {spread}" for spread, share in found.items())
    low, high = (float(end) / 100 for end in claim.printed.split("-"))
    return Found(
        f"{words}: the share of attention that lies on other keys than softmax's",
        f"elu + 1, n = 512, {HEAD}, q and k scaled so that the scores have this spread (1 is that "
        "of standard normal tokens), seed 0",
        agrees=low <= found[1] <= high,
    )


@finds("C176")
def _peaked(claim: Claim) -> Found:
    _, keys, _ = random_qkv(512)
    asked = 3 * keys
    softmax, even = (
        float(np.diagonal(weights(asked, keys), axis1=-2, axis2=-1).mean())
        for weights in (full.weights, linear.weights)
    )
    apart = [_variation(spread) for spread in (0.5, 1, 2, 3)]
    return Found(
        f"a query that is 3 times its own key puts {softmax:.1%} of its softmax there, "
        f"{even:.1%} with elu + 1; over spreads of 0.5 to 3 the difference rises from "
        f"{apart[0]:.0%} to {apart[-1]:.0%}",
        f"n = 512, {HEAD}, {NORMAL}, seed 0",
        agrees=softmax > 10 * even and apart == sorted(apart),
    )


@finds("C253", "C429")
def _nmd(claim: Claim) -> Found:
    n, m = 16384, 256
    length = exponent(lambda size: performer.cost(1, 1, size, size, 64, n_features=m).flops)
    features = exponent(
        lambda size: performer.cost(1, 1, n, n, 64, n_features=size).flops, (64, 128, 256)
    )
    width = exponent(lambda d: performer.cost(1, 1, n, n, d, n_features=m).flops, (256, 512, 1024))
    matrix = exponent(lambda size: full.cost(1, 1, size, size, 64).peak_bytes)
    softmax = exponent(lambda size: full.cost(1, 1, size, size, 64).flops)
    grows = (length, features, width)
    ok = all(abs(power - 1) < 0.25 for power in grows)
    return Found(
        f"the work grows as n^{length:.2f}, m^{features:.1f} and d^{width:.1f}; softmax's as "
        f"n^{softmax:.1f}, its memory as n^{matrix:.1f}",
        "FLOPs of the references, n = 1,024 to 4,096 with m = 256 and d = 64; m and d at "
        "n = 16,384; what depends on the chunk is counted too",
        agrees=ok and abs(matrix - 2) < 0.1 and abs(softmax - 2) < 0.05,
    )


@finds("C440")
def _exponentials(claim: Claim) -> Found:
    operations = 1 / (2 * 768)
    # results of special functions a clock and SM, SMs, GHz
    units = {"A100 40 GB": (16, 108, 1.41), "H100 80 GB": (16, 132, 1.83)}
    shares = {}
    for name, (each, sms, ghz) in units.items():
        exponentials = 1 / (each * sms * ghz * 1e9)
        shares[name] = [
            exponentials / (4 * width / DEVICES[name].flops_per_second) for width in (64, 768)
        ]
    words = "; ".join(
        f"{narrow:.1f} of the products' time on an {name.split()[0]} with heads of 64, {wide:.0%} "
        "with one head of 768"
        for name, (narrow, wide) in shares.items()
    )
    return Found(
        f"{operations:.2%} of the multiply-adds at d = 768, but {words}",
        "16 exponentials a clock and SM (CUDA C++ Programming Guide, arithmetic instructions), "
        "108 SMs at 1.41 GHz and 132 at 1.83 GHz; products in float16 by the data sheets",
        agrees=all(share < 0.01 for pair in shares.values() for share in pair),
    )
