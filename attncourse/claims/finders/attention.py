"""Chapters 02 and 03: shapes, masks, dropout, the softmax's range, scoring; positions and maps."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from attncourse import masks, measure
from attncourse.bench import latest
from attncourse.bench.records import speedups
from attncourse.claims.finding import Found, finds
from attncourse.claims.ledger import Claim
from attncourse.inputs import random_qkv, stream
from attncourse.reference import full, relative, scoring, t5
from attncourse.softmax import softmax


@finds("C039")
def shapes_of_cross_attention(claim: Claim) -> Found:
    """Ask real arrays for their shapes."""
    m, n, value_width = 2, 6, 48
    q, k, v = random_qkv(m, n, value_width=value_width)
    weights, out = full.weights(q, k).shape[2:], full.attention(q, k, v).shape[2:]
    return Found(
        f"weights {weights}, output {out}",
        f"full.weights and full.attention, m = {m}, n = {n}, d_v = {value_width}",
        weights == (m, n) and out == (m, value_width),
    )


@finds("C149")
def shapes_of_the_exercise(claim: Claim) -> Found:
    """Run the exercise's sizes through a released multi-head attention."""
    import torch

    layer = torch.nn.MultiheadAttention(128, 4, batch_first=True)
    memory = torch.zeros(1, 10, 128)
    with torch.no_grad():
        out, weights = layer(torch.zeros(1, 7, 128), memory, memory, average_attn_weights=False)
    shape = "x".join(map(str, weights.shape))
    return Found(
        f"weights {shape}, output {'x'.join(map(str, out.shape))}",
        "torch.nn.MultiheadAttention(128, 4), 7 queries, 10 keys",
        shape == claim.printed and tuple(out.shape) == (1, 7, 128),
    )


@finds("C040")
def attentions_of_a_decoder(claim: Claim) -> Found:
    """Count the attention modules of a released decoder block."""
    import torch

    block = torch.nn.TransformerDecoderLayer(32, 4)
    found = sum(isinstance(part, torch.nn.MultiheadAttention) for part in block.modules())
    return Found(found, "modules of torch.nn.TransformerDecoderLayer: the third part is an MLP")


@finds("C045")
def blocked_by_either(claim: Claim) -> Found:
    """Combine a causal mask with padding, and look at the weights."""
    n, real = 8, 6
    causal = masks.causal(n, n)
    padding = np.broadcast_to(np.arange(n) < real, (n, n))
    q, k, _ = random_qkv(n)
    weights = full.weights(q, k, mask=causal & padding)[0, 0]
    blocked = ~causal | ~padding
    empty = full.weights(q, k, mask=np.zeros((n, n), dtype=bool))
    with np.errstate(invalid="ignore"):
        naive = np.exp(np.float32(-np.inf) - np.float32(-np.inf))
    return Found(
        f"{np.sum(weights == 0)} of {n * n} weights are 0, all that either mask blocks and no "
        f"other; a row with all blocked is {naive} by exp(-inf - -inf), {empty.max():.0f} in ours",
        f"full.weights, n = {n}, causal, the last {n - real} keys are padding",
        bool(np.array_equal(weights == 0, blocked)),
    )


@finds("C046")
def dropout_rate(claim: Claim) -> Found:
    """Take a published rate, and measure what it does to the sums of the rows."""
    rate = 0.1
    spreads = {n: _spread_of_sums(n, rate) for n in (16, 512)}
    words = " and ".join(f"{spread:.3f} at n = {n}" for n, spread in spreads.items())
    return Found(
        f"{rate:g} in BERT; sums of rows then deviate from 1 by {words}",
        "Devlin et al. 2019, appendix A.2; deviations: weights of random_qkv, D = 64",
        rate == float(claim.printed),
    )


def _spread_of_sums(n: int, rate: float) -> float:
    q, k, _ = random_qkv(n, heads=4096 // n)
    weights = full.weights(q, k)
    kept = stream("dropout", 0).random(weights.shape) >= rate
    return float(np.std((weights * kept / (1 - rate)).sum(axis=-1)))


@finds("C047")
def norm_of_gpt(claim: Claim) -> Found:
    """Take the papers' words; only the first Transformer and BERT put the norm last."""
    places = {"GPT-2": "before", "GPT-3": "before", "Transformer": "after"}
    return Found(
        "; ".join(f"{model}: {place} each sub-block" for model, place in places.items()),
        "Radford et al. 2019, section 2.3; Brown et al. 2020, section 2.1; Vaswani et al. 2017, "
        "section 3.1",
        places["GPT-2"] == places["GPT-3"] == "before",
    )


@finds("C147")
def overflow(claim: Claim) -> Found:
    """Find where exp overflows, and what subtracting the maximum does there."""
    limits = {t: float(np.log(np.finfo(t).max)) for t in ("float16", "float32")}
    rows = {t: np.array([limit + 1, 0], t) for t, limit in limits.items()}
    with np.errstate(over="ignore", invalid="ignore"):
        plain = [np.isfinite(np.exp(row) / np.exp(row).sum()).all() for row in rows.values()]
    stable = [np.isfinite(softmax(row)).all() for row in rows.values()]
    words = ", ".join(f"{limit:.2f} in {dtype}" for dtype, limit in limits.items())
    return Found(
        f"exp overflows from a logit of {words}; one beyond, {sum(plain)} of {len(plain)} rows "
        f"are finite without subtracting, {sum(stable)} with it",
        "numpy.exp and softmax of this course, rows of two logits",
        not any(plain) and all(stable),
    )


HIDDEN = 16  # numbers inside of tanh for each pair, as in the catalogue
SHORT = (64, 256, 512)


@finds("C481")
def dot_against_additive(claim: Claim) -> Found:
    """Time additive attention against the dot product's, and count the FLOPs of both."""
    sizes = [(1, 1, n, n, 64) for n in SHORT]
    flops = [scoring.cost(*size, hidden=HIDDEN).flops / full.cost(*size).flops for size in sizes]
    slower = {n: additive / dot for n, (dot, additive) in _times_of_scores().items()}
    setting = (
        f"this machine's CPU, NumPy, one head of 64, {HIDDEN} hidden, float32; FLOPs of `cost`, "
        "in which tanh does not count"
    )
    wanted: dict[str, Any] = {"heads": 1, "width": 64, "causal": False, "mode": "forward"}
    record = latest("cpu", mechanisms=["full", "scoring"], **wanted)
    ratios = speedups(record, "scoring", "full", **wanted)
    recorded = {n: ratio for n, ratio in ratios.items() if n > SHORT[-1]}
    if record and recorded:
        where = f"{record['machine']['cpu']}, {record['date'][:10]}"
        setting += f"; beyond {SHORT[-1]} tokens recorded: {where}"
    words = ", ".join(f"{ratio:.0f} (n = {n:,})" for n, ratio in (slower | recorded).items())
    counts = ", ".join(f"{ratio:.2f} (n = {n})" for n, ratio in zip(SHORT, flops, strict=True))
    return Found(
        f"additive attention, as a multiple of the dot product's: in time {words}; "
        f"in FLOPs {counts}",
        setting,
        min(*slower.values(), *recorded.values()) > 1,
    )


@finds("C482")
def overhead_of_additive(claim: Claim) -> Found:
    """See what additive attention takes longer at three lengths: a constant would be the same."""
    longer = {n: additive - dot for n, (dot, additive) in _times_of_scores().items()}
    words = ", ".join(f"{1e3 * more:.1f} ms at n = {n}" for n, more in longer.items())
    tanh = [f"{HIDDEN * n * n:,}" for n in SHORT]
    return Found(
        f"it takes longer by {words}, and evaluates tanh {', '.join(tanh)} times",
        f"this machine's CPU, NumPy, one head of 64, {HIDDEN} hidden, float32",
        longer[SHORT[-1]] < 2 * longer[SHORT[0]],
    )


@functools.cache
def _times_of_scores() -> dict[int, tuple[float, float]]:
    """Return n -> seconds of dot-product and of additive attention, those of the faster calls."""
    query_weights, key_weights, vector = scoring.random_parameters(64, HIDDEN)
    drawn = {"query_weights": query_weights, "key_weights": key_weights, "vector": vector}
    quick: dict[str, Any] = {"repeats": 9, "at_most": 0.1}
    return {
        n: (
            measure.seconds(full.attention, *random_qkv(n), **quick).low,
            measure.seconds(scoring.attention, *random_qkv(n), **quick, **drawn).low,
        )
        for n in SHORT
    }


@finds("C044")
def t5_table(claim: Claim) -> Found:
    """Count T5's biases, and the buckets that distances reach."""
    n, buckets, heads, max_distance = 256, 32, 12, 128
    table = t5.random_table(buckets, heads)
    bias = relative.t5_bias(np.arange(n), np.arange(n), table, max_distance=max_distance)
    same = np.array_equal(bias[:, 1:, 1:], bias[:, :-1, :-1])
    bucket = relative.t5_bucket(np.arange(-n, n + 1), n_buckets=buckets, max_distance=max_distance)
    far = int(np.max(np.arange(-n, n + 1)[bucket != bucket[-1]])) + 1
    return Found(
        f"{table.size} numbers; {len(np.unique(bucket))} of {buckets} buckets are reached, and "
        f"all distances from {far} on share one; a bias depends on the distance alone: {same}",
        f"relative.t5_bias, {buckets} buckets, {heads} heads, max_distance {max_distance}, n = {n}",
        same,
    )


@finds("C048")
def symmetry_of_weights(claim: Claim) -> Found:
    """Make scores symmetric, and see whether the weights are."""
    q, _, _ = random_qkv(64)
    scores, weights = (np.matmul(q, q.mT) / 8)[0, 0], full.weights(q, q)[0, 0]
    apart = [float(np.abs(a - a.T).max()) for a in (scores, weights)]
    return Found(
        f"with K = Q the scores differ from their transpose by {apart[0]:.1g} at most, the "
        f"weights by {apart[1]:.2f}",
        "full.weights, random_qkv, n = 64, D = 64, one head",
        apart[1] < 1e-3,
    )


@finds("C179")
def bias_over_distance(claim: Claim) -> Found:
    """Look whether T5's free biases fall with the distance, beside ALiBi's."""
    distances = np.arange(128)
    table = t5.random_table(32, 1)
    biases = {
        "T5, table drawn at random": relative.t5_bias(distances[-1:], distances, table)[0, 0],
        "ALiBi": relative.alibi_bias(distances[-1:], distances, relative.alibi_slopes(1))[0, 0],
    }
    nearer = {name: np.diff(bias) for name, bias in biases.items()}
    rises = {name: int((step < 0).sum()) for name, step in nearer.items()}
    bucket = relative.t5_bucket(distances - distances[-1])
    widths = np.unique(bucket, return_counts=True)[1][:-1]  # the last bucket has no end
    return Found(
        "; ".join(f"{name}: a bias rises with the distance {n} times" for name, n in rises.items())
        + f"; what grows is the width of a bucket, {widths.min()} to {widths.max()} distances",
        "relative.t5_bias and alibi_bias, distances 0 to 127, one head",
        not rises["T5, table drawn at random"],
    )
