"""Chapter 07: the Performer, and the error table of chapter E."""

from __future__ import annotations

import functools

import numpy as np

from attncourse.claims import printed_features
from attncourse.claims.finders._growth import exponent
from attncourse.claims.finders.linear import HEAD, NORMAL, mean_square
from attncourse.claims.finding import Found, finds
from attncourse.claims.ledger import Claim, get
from attncourse.inputs import random_qkv
from attncourse.reference import full, linear, performer

SEEDS = 6
COUNTS = (32, 64, 128, 256, 512, 1024)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine between two arrays, each taken as one long vector."""
    return float((a * b).sum() / np.sqrt(np.square(a).sum() * np.square(b).sum()))


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
