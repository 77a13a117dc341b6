"""Chapter 07: linear attention, the Performer, and the error table of chapter E."""

from __future__ import annotations

import functools

import numpy as np

from attncourse import measure
from attncourse.claims import printed_features
from attncourse.claims.finders._growth import exponent
from attncourse.claims.finding import Found, finds
from attncourse.claims.ledger import Claim, get
from attncourse.cost import DEVICES
from attncourse.inputs import random_qkv
from attncourse.reference import full, linear, performer

SEEDS = 6
HEAD = "one head of 64"
COUNTS = (32, 64, 128, 256, 512, 1024)
NORMAL = "standard normal q, k and v"


def mean_square(array: np.ndarray) -> float:
    """Return the mean of the squares."""
    return float(np.square(array).mean())


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine between two arrays, each taken as one long vector."""
    return float((a * b).sum() / np.sqrt(np.square(a).sum() * np.square(b).sum()))


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


@functools.cache
def _waves() -> tuple[float, float]:
    """Return error over output with cosines and sines, and the share of normalisers below 0."""
    q, k, v = random_qkv(512)
    exact = full.attention(q, k, v)
    out = performer.attention(
        q, k, v, n_features=256, features="trigonometric", orthogonal=False, seed=1
    )
    w = performer.draw_features(256, 64, orthogonal=False, seed=1)
    phi_q, phi_k = (performer.feature_map(x, w, features="trigonometric")[0, 0] for x in (q, k))
    below = float((phi_q @ phi_k.sum(axis=0) <= 0).mean())
    return mean_square(out - exact) / mean_square(exact), below


@finds("C016", "C086")
def _fourier_features(claim: Claim) -> Found:
    error, below = _waves()
    _, k, _ = random_qkv(512)
    positive = performer.feature_map(k, performer.draw_features(256, 64, seed=1))
    return Found(
        f"with cosines and sines the squared error is {error:,.0f} times the squared output, and "
        f"{below:.0%} of the normalisers are not above 0; the smallest positive feature is "
        f"{positive.min():.0e}",
        f"n = 512, {HEAD}, 256 independent directions, {NORMAL}, seed 0; the Performer's own "
        "features are positive: Choromanski et al. 2021, arXiv:2009.14794, section 2.3",
        agrees=error < 1 and below == 0,
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
        f"causal matrix's outputs, {off:.0e} apart at most",
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


@functools.cache
def _draws(
    m: int, draws: int = 400, features: str = "positive"
) -> tuple[float, float, float, float]:
    """Return kernel over exact, squared bias, its noise, and mean squared error."""
    q, k, v = (array[0, 0].astype(float) for array in random_qkv(64, width=16))
    exact, kernel = full.attention(q, k, v), np.exp(q @ k.T / 4)
    kernels, outs, squares, errors = 0.0, 0.0, 0.0, 0.0
    for seed in range(draws):
        w = performer.draw_features(m, 16, orthogonal=False, seed=seed)
        phi_q, phi_k = (performer.feature_map(x, w, features=features) for x in (q, k))
        estimate = phi_q @ phi_k.T
        out = estimate @ v / estimate.sum(axis=1, keepdims=True)
        kernels, outs = kernels + estimate, outs + out
        squares, errors = squares + np.square(out), errors + mean_square(out - exact)
    mean = outs / draws
    noise = float((squares / draws - np.square(mean)).mean()) / draws
    ratio = float(np.median(kernels / draws / kernel))
    return ratio, mean_square(mean - exact), noise, errors / draws


@finds("C087")
def _unbiased_kernel(claim: Claim) -> Found:
    waves, *_ = _draws(256, features="trigonometric")
    positive, *_ = _draws(256)
    return Found(
        f"the mean estimate of exp(q·k/√d) over its exact value, in the median of all pairs: "
        f"{waves:.2f} with the cosines and sines of the sentence, {positive:.2f} with positive "
        "features",
        f"m = 256, 400 independent draws, n = 64, d = 16, {NORMAL}, seed 0",
        agrees=abs(waves - 1) < 0.05 and abs(positive - 1) < 0.05,
    )


@finds("C252", "C439")
def _biased_quotient(claim: Claim) -> Found:
    found = {m: _draws(m) for m in (16, 256)}
    biased = all(bias > 5 * noise for _, bias, noise, _ in found.values())
    words = ", ".join(
        f"{bias:.4f} at m = {m}, {bias / error:.0%} of the squared error"
        for m, (_, bias, _, error) in found.items()
    )
    noise = max(noise for _, _, noise, _ in found.values())
    return Found(
        f"the squared bias of the attention is {words}; chance would leave {noise:.4f}",
        f"positive features, 400 independent draws, n = 64, d = 16, {NORMAL}, seed 0",
        agrees=not biased,
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


def _error(scale: float, m: int, orthogonal: bool, n: int = 512, seeds: int = SEEDS) -> float:
    """Return the mean squared error over the mean squared output, with right positive features."""
    errors = []
    for seed in range(seeds):
        q, k, v = (array * np.float32(scale) for array in random_qkv(n, seed=seed))
        exact = full.attention(q, k, v)
        out = performer.attention(q, k, v, n_features=m, orthogonal=orthogonal, seed=seed)
        errors.append(mean_square(out - exact) / mean_square(exact))
    return float(np.mean(errors))


@finds("C254")
def _orthogonal(claim: Claim) -> Found:
    found = {
        scale: _error(scale, 256, True, seeds=4) / _error(scale, 512, False, seeds=4)
        for scale in (0.25, 0.5)
    }
    words = " and ".join(f"{ratio:.1f} at inputs × {scale}" for scale, ratio in found.items())
    return Found(
        f"256 orthogonal directions have {words} times the squared error of 512 independent ones",
        f"positive features, n = 512, {HEAD}, 4 seeds of data and directions",
        agrees=all(ratio <= 1 for ratio in found.values()),
    )


@functools.cache
def _table() -> dict[str, np.ndarray]:
    """Run chapter E's code for its table: arrays (seeds, counts), or (seeds,)."""
    names = ("mse", "cosine", "own", "power", "mean of v", "cosine of mean")
    rows: dict[str, list] = {name: [] for name in names}
    for seed in range(SEEDS):
        q, k, v = random_qkv(512, seed=seed)
        exact, limit = full.attention(q, k, v), printed_features.limit(q, k, v)
        outs = [printed_features.attention(q, k, v, n_features=m, seed=seed) for m in COUNTS]
        rows["mse"].append([mean_square(out - exact) for out in outs])
        rows["cosine"].append([cosine(out, exact) for out in outs])
        rows["own"].append([mean_square(out - limit) for out in outs])
        rows["power"].append(mean_square(exact))
        flat = np.broadcast_to(v.mean(axis=-2, keepdims=True), exact.shape)
        rows["mean of v"].append(mean_square(flat - exact))
        rows["cosine of mean"].append(cosine(flat, exact))
    return {name: np.array(values) for name, values in rows.items()}


TABLE = f"the printed feature map, n = 512, {HEAD}, {NORMAL}, {SEEDS} seeds"


@finds(*(f"C{number}" for number in range(416, 428)))
def _printed_table(claim: Claim) -> Found:
    at = COUNTS.index(int(claim.parameters["m"]))
    column = "mse" if claim.unit == "MSE" else "cosine"
    lazy = _table()["mean of v" if column == "mse" else "cosine of mean"].mean()
    return Found(
        float(f"{_table()[column][:, at].mean():.3g}"),
        f"{TABLE}; the mean of v, for every query, has {lazy:.3g}",
    )


@finds("C436")
def _cosine_at_256(claim: Claim) -> Found:
    found = _table()["cosine"][:, COUNTS.index(256)].mean()
    lazy = _table()["cosine of mean"].mean()
    return Found(
        float(f"{100 * found:.3g}"), f"m = 256, {TABLE}; the mean of v has {100 * lazy:.3g} %"
    )


def _slope(errors: np.ndarray) -> float:
    return float(np.polyfit(np.log(COUNTS), np.log(errors), 1)[0])


def _printed(first: int) -> np.ndarray:
    """Return a column of the printed table: 416 for the errors, 417 for the cosines."""
    return np.array([float(get(f"C{number}").printed) for number in range(first, 428, 2)])


@finds("C414")
def _printed_map(claim: Claim) -> Found:
    to_softmax = _slope(_table()["mse"].mean(axis=0))
    to_own = _slope(_table()["own"].mean(axis=0))
    return Found(
        f"its squared error against softmax falls as m^{to_softmax:+.2f}, against the attention "
        f"softmax(q·k/d + |k|²/2d) v as m^{to_own:+.2f}",
        f"m = 32 to 1,024, {TABLE}",
        agrees=to_softmax < -0.5,
    )


@finds("C437")
def _rate(claim: Claim) -> Found:
    table = _slope(_printed(416))
    found = _slope(_table()["mse"].mean(axis=0))
    ends = (64, 1024)
    errors = [_error(0.25, m, orthogonal=False, seeds=3) for m in ends]
    right = float(np.diff(np.log(errors))[0] / np.diff(np.log(ends))[0])
    return Found(
        f"the printed MSEs fall as m^{table:.2f}, those of the printed code as m^{found:+.2f}; "
        f"with right features and inputs × 0.25 it is m^{right:.1f}",
        f"m = 32 to 1,024, {TABLE}; right features at m = 64 and 1,024 with 3 seeds",
        agrees=abs(table + 0.5) < 0.25 and abs(found + 0.5) < 0.25,
    )


@finds("C428")
def _implied_power(claim: Claim) -> Found:
    pairs = zip(_printed(416), _printed(417), strict=True)
    implied = [printed_features.implied_power(*pair) for pair in pairs]
    power = _table()["power"].mean()
    return Found(
        f"the pairs imply outputs of mean square {min(implied):.3f} to {max(implied):.3f}; that "
        f"of the outputs is {power:.4f}, so the first MSE is {_printed(416)[0] / power:.1f} "
        "times the whole output",
        f"cosine² = P / (P + MSE) for each printed pair; softmax attention, {TABLE}",
        agrees=bool(min(implied) < 2 * power and max(implied) > power / 2),
    )


@finds("C415")
def _shared_seed(claim: Claim) -> Found:
    q, k, v = random_qkv(512, seed=42)
    exact = full.attention(q, k, v)
    numbers = np.random.default_rng(42).standard_normal(64 * 256).astype(np.float32)
    same = bool(np.array_equal(numbers[: 512 * 64], q.ravel()[: len(numbers)]))
    projections = {
        "the same numbers": numbers.reshape(64, 256).T / 8,
        "other numbers": printed_features.draw_features(256, 64, seed=42).astype(np.float32),
    }
    errors = {}
    for name, w in projections.items():
        map_ = functools.partial(printed_features.feature_map, directions=w)
        out = linear.attention(q, k, v, feature_map=map_)
        errors[name] = mean_square(out - exact)
    words = ", ".join(f"{error:.4f} with {name}" for name, error in errors.items())
    how = "the very first numbers of q" if same else "other numbers than q's"
    return Found(
        f"the projection is made of {how}; its MSE is {words}",
        f"printed map, m = 256, n = 512, {HEAD}, one generator with seed 42 for both",
        agrees=not same,
    )


@finds("C438")
def _features_needed(claim: Claim) -> Found:
    lengths = (128, 512, 2048)
    errors = {n: _error(0.25, 64, orthogonal=True, n=n, seeds=3) for n in lengths}
    grows = exponent(errors.__getitem__, lengths)
    words = ", ".join(f"{error:.2g} at n = {n:,}" for n, error in errors.items())
    return Found(
        f"with 64 features the squared error over the squared output is {words}: it grows as "
        f"n^{abs(grows):.1f}",
        f"positive features, {HEAD}, inputs × 0.25, 3 seeds",
        agrees=grows > 0.25,
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
