"""What can be chosen: each mechanism with its bytes, its seconds, its quality, its code."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from attncourse.bench.records import BACKWARD_FLOPS
from attncourse.catalogue import MECHANISMS
from attncourse.choosing.evidence import Measured, Quality, nearest, quality
from attncourse.choosing.implementations import Implementation, implementation
from attncourse.cost import NUMBER_BYTES, Cost, Device
from attncourse.model.attention import Attention

TILES = 1024  # a multiple of all tiles of these, whose cost walks over them:
WALKING = ("longformer", "sparse_transformer", "block_topk")
FAR = 64 * TILES  # from a few of these on, no cost is walked
EXACT = ("full", "flash")  # softmax attention itself: nothing to lose
TILED = "full attention, tiled"
OFFERED: dict[str, tuple[str, dict[str, int], str]] = {
    TILED: ("flash", {}, "full"),  # first: it wins a tie
    "full attention, scores stored": ("full", {}, "full"),
    "window 16": ("window", {"window": 16}, "window 16"),
    "window 64": ("window", {"window": 64}, "window 64"),
    "window 256": ("window", {"window": 256}, "window 256"),
    "window 16 + 4 global": (
        "longformer",
        {"window": 16, "global_tokens": 4},
        "window 16 + 4 global",
    ),
    "16 near + every 16th": ("sparse_transformer", {"stride": 16}, "16 near + every 16th"),
    "top-k 32": ("topk", {"keep": 32}, "top-k 32"),
    "4 blocks of 16": (
        "block_topk",
        {"block": 16, "keep": 4, "choose_every": 1},
        "4 blocks of 16",
    ),
    "LSH, 4 rounds": ("lsh", {"n_buckets": 16, "n_rounds": 4, "chunk": 32}, "LSH, 4 rounds"),
    "pooled 4": ("pooled", {"pool": 4}, "pooled 4"),
    "linear": ("linear", {}, "linear"),
    "Performer 256": ("performer", {"n_features": 256}, "Performer 256"),
    "int8 keys and values": ("quantised_cache", {"group": 64}, "int8"),
    "half the key/value heads": ("grouped", {}, "2 key/value heads"),
}
"""By name: the mechanism, its knobs, and its name in the frontier's record."""


@dataclass(frozen=True)
class Setting:
    """What attention has to do.

    Attributes:
        length: Tokens of a text.
        batch: Texts.
        heads: Heads of queries.
        width: D.
        layers: Layers that do it.
        device: Where.
        dtype: Of the numbers.
        phase: "prompt", "decoding" or "training".
        causal: Whether no token sees later ones.
        own_code: Whether code may be one's own; else maintained code sets the cost.
    """

    length: int
    batch: int
    heads: int
    width: int
    layers: int
    device: Device
    dtype: str
    phase: str
    causal: bool
    own_code: bool = False


@dataclass(frozen=True)
class Candidate:
    """One mechanism in one setting.

    Attributes:
        name: In `OFFERED`.
        stem: Its name in the catalogue.
        knobs: Its keyword arguments.
        n_bytes: What attention holds in this phase, all layers together.
        least: The least seconds that the device can need, by `cost`. That counts what tiles read
            again, which a cache may serve; where a measured point beats it, so much less.
        seconds: What is expected: `least`, as many times as the nearest measured point is slower
            than its own least; without one, the median of the others.
        measured: That point, or None.
        quality: What is lost, or None where it was not measured.
        implementation: Maintained code, or None.
        out: Why it is struck out, or "".
    """

    name: str
    stem: str
    knobs: Mapping[str, int]
    n_bytes: int
    least: float
    seconds: float
    measured: Measured | None
    quality: Quality | None
    implementation: Implementation | None
    out: str = ""

    @property
    def exact(self) -> bool:
        """Whether it is softmax attention over all keys."""
        return self.stem in EXACT


def weigh(setting: Setting, *, tuned: bool, folder: Path | None) -> list[Candidate]:
    """Return everything on offer, with its figures in a setting; nothing is struck out yet.

    Args:
        setting: What has to be done.
        tuned: Whether the model may learn on with what it gets.
        folder: results/, or None.
    """
    gpu = "float16" in setting.device.peaks
    points: dict[str, Measured | None] = {}
    least, slowdowns = {}, {}
    for name, (stem, knobs, _) in offered(setting.heads).items():
        least[name] = step(stem, knobs, setting).seconds(setting.device, setting.dtype)
        points[name] = point = nearest(
            folder, setting.device, stem, setting.phase, n=setting.length,
            batch=setting.batch, heads=setting.heads, width=setting.width,
            causal=setting.causal, dtype=setting.dtype,
        )  # fmt: skip
        if point is not None:
            slowdowns[name] = point.seconds / _least_of(stem, point, setting)
            if slowdowns[name] < 1:  # no least, then
                least[name] *= slowdowns[name]
                slowdowns[name] = 1.0
    usual = sorted(slowdowns.values())[len(slowdowns) // 2] if slowdowns else 1.0
    return [
        Candidate(
            name,
            stem,
            knobs,
            held(stem, knobs, setting),
            setting.layers * least[name],
            setting.layers * least[name] * slowdowns.get(name, usual),
            points[name],
            quality(folder, recorded, tuned=tuned),
            implementation(stem, gpu=gpu),
        )
        for name, (stem, knobs, recorded) in offered(setting.heads).items()
    ]


def offered(heads: int) -> dict[str, tuple[str, dict[str, int], str]]:
    """Return `OFFERED` for so many heads: an odd number cannot be halved."""
    found = dict(OFFERED)
    stem, knobs, recorded = found.pop("half the key/value heads")
    if heads % 2 == 0:
        found["half the key/value heads"] = (stem, knobs | {"groups": heads // 2}, recorded)
    return found


def step(stem: str, knobs: Mapping[str, int], setting: Setting) -> Cost:
    """Return what one layer takes: for the prompt, for one more token, or for both passes.

    In decoding what is kept is read once, but for mechanisms that choose: all keys, or the keys'
    means, and the values of the chosen. Maintained code for int8 writes what it has rounded back
    and reads that, see `implementations.py`. In training those that make their weights again take
    7 products for 2, the others 6, and move about three times as much (see claim C034).
    """
    n, D, each = setting.length, setting.width, NUMBER_BYTES[setting.dtype]
    if setting.phase == "decoding":
        attend = Attention.of(stem, **knobs)
        kept = attend.kept(n, heads=setting.heads, width=D, dtype_bytes=each)
        tokens = _tokens_read(stem, attend.knobs, n)
        read = kept if tokens is None else round(2 * setting.heads * tokens * D * each)
        seen = {"grouped": n, "quantised_cache": n}.get(stem, read / (2 * setting.heads * D * each))
        flops = round(4 * setting.heads * seen * D)
        if stem == "quantised_cache" and not setting.own_code:
            read += 4 * setting.heads * n * D * each
        return _times(Cost(flops, read, 2 * setting.heads * D * each, kept), setting.batch)
    forward = _reading(stem, knobs, setting)
    if setting.phase == "prompt":
        return forward
    again = 1 + BACKWARD_FLOPS if _recomputes(stem) else 3
    moved = (3 * forward.bytes_read, 3 * forward.bytes_written)
    return Cost(round(again * forward.flops), *moved, forward.peak_bytes)


def held(stem: str, knobs: Mapping[str, int], setting: Setting) -> int:
    """Return the bytes that attention holds, all layers together.

    - prompt: q, k and v of one layer, and the peak of its `cost`, output included;
    - decoding: what each layer keeps of the texts, `Attention.kept`;
    - training: q, k, v and out of each layer and what its backward pass needs: the softmax sums
      where the weights are made again, else all weights; and the peak of one layer.
    """
    n, each = setting.length, NUMBER_BYTES[setting.dtype]
    rows = setting.batch * setting.heads * n
    if setting.phase == "decoding":
        return setting.layers * step(stem, knobs, setting).peak_bytes
    forward = _reading(stem, knobs, setting)
    inputs = 3 * rows * setting.width * each
    if setting.phase == "prompt":
        return inputs + forward.peak_bytes
    weights = forward.flops // (4 * setting.width)
    saved = 4 * rows if _recomputes(stem) else each * weights
    output = rows * setting.width * each
    return setting.layers * (inputs + output + saved) + forward.peak_bytes


def _recomputes(stem: str) -> bool:
    """Whether its backward pass makes the weights again, so that none is kept."""
    return "backward" in MECHANISMS[stem].has


def _reading(stem: str, knobs: Mapping[str, int], setting: Setting) -> Cost:
    """Return the cost of one layer that reads the whole text, by the catalogue's reference."""
    s = setting
    each = NUMBER_BYTES[s.dtype]
    return _cost(stem, tuple(knobs.items()), s.batch, s.heads, s.length, s.width, s.causal, each)


@functools.lru_cache(maxsize=4096)
def _cost(
    stem: str, knobs: tuple, batch: int, heads: int, n: int, width: int, causal: bool, each: int
) -> Cost:
    """Return the reference's cost; of a long text, where it walks over tiles, without the walk.

    In steps of whole tiles it is a parabola of the length: three shorter texts give that exactly.
    Only the peak may turn once more beyond them, where another array becomes the largest; it is
    within a few per cent at widths from 64 on.
    """
    size = FAR if n >= 7 * FAR else TILES
    if n >= 7 * size and stem != "full" and (size == FAR or stem in WALKING):
        short = [n % size + size * i for i in (4, 5, 6)]
        costs = [_cost(stem, knobs, batch, heads, one, width, causal, each) for one in short]
        return Cost(*map(_parabola(n // size - 3), *map(dataclasses.astuple, costs)))
    cost = MECHANISMS[stem].reference.cost
    taken = inspect.signature(cost).parameters
    given = {k: v for k, v in Attention.of(stem, **dict(knobs)).knobs.items() if k in taken}
    return cost(batch, heads, n, n, width, **given, causal=causal, dtype_bytes=each)


def _parabola(x: int) -> Callable[[int, int, int], int]:
    """Return the function that goes on with a parabola's values at 1, 2 and 3, at x."""

    def at(one: int, two: int, three: int) -> int:
        return one + (x - 1) * (two - one) + (x - 1) * (x - 2) // 2 * (three - 2 * two + one)

    return at


def _tokens_read(stem: str, knobs: Mapping[str, int], n: int) -> float | None:
    """Return how many tokens' keys and values a new token reads; None for all that is kept."""
    if stem == "topk":
        return (n + min(knobs["keep"], n)) / 2
    if stem == "block_topk":
        return min(n, n / knobs["block"] / 2 + knobs["keep"] * knobs["block"])
    if stem == "sparse_transformer":
        return min(n, knobs["stride"] + n / knobs["stride"])
    return None


def _least_of(stem: str, point: Measured, setting: Setting) -> float:
    """Return the least seconds for a measured point, of one layer."""
    at = point.setting
    own = Setting(
        at["n"], at["batch"], at["heads"], at["width"], 1,
        setting.device, at["dtype"], setting.phase, at["causal"], own_code=True,
    )  # fmt: skip
    known = MECHANISMS[stem].values
    knobs = {name: value for name, value in at["knobs"].items() if name in known}
    return max(step(stem, knobs, own).seconds(setting.device, at["dtype"]), math.ulp(0.0))


def _times(cost: Cost, batch: int) -> Cost:
    values = (cost.flops, cost.bytes_read, cost.bytes_written, cost.peak_bytes)
    return Cost(*(batch * value for value in values))
