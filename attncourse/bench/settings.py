"""What one run measures: a setting of the whole, and the points it goes through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attncourse.bench import records
from attncourse.catalogue import Mechanism


@dataclass(frozen=True)
class Setting:
    """What one run measures.

    Attributes:
        device: "cpu" or "gpu".
        lengths: Sequence lengths n.
        heads: H; the batch is 1.
        widths: D.
        repeats: Timed calls of each, at most.
        causal: Causal or not, or both.
        modes: Among `records.MODES`.
        dtype: float32 on the CPU; float16 on a GPU, as models run there.
        without: Names of peers to leave out.
    """

    device: str
    lengths: tuple[int, ...]
    heads: int
    widths: tuple[int, ...]
    repeats: int
    causal: tuple[bool, ...] = (False,)
    modes: tuple[str, ...] = ("forward",)
    dtype: str = "float32"
    without: tuple[str, ...] = ()


DEFAULTS = {
    "cpu": Setting("cpu", (512, 1024, 2048, 4096, 8192, 16384), 1, (64,), 50),
    "gpu": Setting(
        "gpu",
        tuple(2**power for power in range(9, 18)),
        16,
        (64, 128),
        20,
        (False, True),
        records.MODES,
        "float16",
    ),
}
QUICK_LENGTHS, QUICK_REPEATS = (256, 512), 2


@dataclass(frozen=True)
class Point:
    """One setting of one measurement.

    Attributes:
        n: The sequence length; in decoding, of the cache.
        width: D.
        heads: H.
        batch: B.
        groups: G, heads of k and v; H if not given.
        causal: Whether later keys are hidden.
        mode: Among `records.MODES`.
        knobs: Values other than the catalogue's, by mechanism.
    """

    n: int
    width: int
    heads: int
    batch: int = 1
    groups: int | None = None
    causal: bool = False
    mode: str = "forward"
    knobs: Mapping[str, Mapping[str, int]] = field(default_factory=dict, hash=False)

    def values(self, mechanism: Mechanism) -> dict[str, int]:
        """The mechanism's knobs here."""
        return mechanism.values | dict(self.knobs.get(mechanism.stem, {}))
