"""What was measured: times in the records of results/, and quality on the frontier's."""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attncourse import house
from attncourse.bench import records
from attncourse.cost import Device

ABILITIES = ("copying", "recall", "near duplicates", "needle")
LEFT = 0.8  # of what full attention can do; with less, an ability is lost
DENSE = "SDPA with a dense mask"  # a pattern by n² bytes is no implementation of it
MODES = {"prompt": "forward", "decoding": "decode", "training": "backward"}


@dataclass(frozen=True)
class Measured:
    """A time in a record, for the setting that is nearest to the one asked for.

    Attributes:
        file: The record's name in results/.
        implementation: Whose code ran.
        setting: n, batch, heads, width, causal, dtype and knobs of the point.
        seconds: The median, in training of both passes.
    """

    file: str
    implementation: str
    setting: Mapping[str, Any]
    seconds: float

    def __str__(self) -> str:
        at, knobs = self.setting, self.setting["knobs"]
        words = [f"n = {at['n']:,}", f"{at['heads']} heads of {at['width']}", str(at["dtype"])]
        words += ["causal"] * at["causal"]
        plain = {name: x for name, x in knobs.items() if name not in ("seed", "block_q", "block_k")}
        words += [f"{name} {value}" for name, value in plain.items()]
        return f"{self.implementation}, {', '.join(words)} (results/{self.file})"


@dataclass(frozen=True)
class Quality:
    """What the course's model lost with a mechanism in place of all attention, at 512 tokens.

    Attributes:
        name: Its name in results/frontier.json.
        loss: Nats a token above full attention.
        left: Of each ability, the share of full attention's that is left.
        tuned: Whether both had learned on for some steps.
    """

    name: str
    loss: float
    left: Mapping[str, float]
    tuned: bool

    @property
    def lost(self) -> tuple[str, ...]:
        """The abilities of which too little is left."""
        return tuple(name for name, share in self.left.items() if share < LEFT)


def folder_of_results() -> Path | None:
    """Return the first folder of records that there is, the learner's own before the released."""
    return next((folder for folder in house.results() if folder.is_dir()), None)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Read a record, and name its file if it is not as the block needs it.

    Raises:
        ValueError: It is no JSON, or lacks something, or holds what cannot be.
    """
    try:
        yield json.loads(path.read_text(encoding="utf-8"))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"choosing: {path} is no whole record ({what}): measure it again, or remove it"
        ) from error


@functools.cache
def timed(folder: Path | None, device: Device) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Return (file, row) for all times in the records of a folder on this device."""
    found = []
    for path in sorted(folder.glob("bench-*.json")) if folder else ():
        with _reading(path) as record:
            on = records.device_of(record)
            if on is not None and on.name == device.name:
                rows = [row for row in records.rows(record) if "seconds" in row]
                for row in rows:
                    _check(row)
                found += [(path.name, row) for row in rows]
    return tuple((file, row) for file, row in found if row["implementation"] != DENSE)


def _check(row: dict[str, Any]) -> None:
    """Raise what `_reading` tells if a time lacks what `nearest` asks for."""
    for key in ("mechanism", "implementation", "mode", "dtype", "causal", "knobs"):
        row[key]
    numbers = {key: row[key] for key in ("n", "batch", "heads", "width")}
    for name, value in (numbers | {"median": row["seconds"]["median"]}).items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0, got {value}")


def nearest(
    folder: Path | None, device: Device, stem: str, phase: str, **wanted: Any
) -> Measured | None:
    """Return the time of a mechanism at the nearest setting, the fastest implementation's.

    The same dtype; then, in this order, causal or not as wanted, the nearest width and the nearest
    length. For "flash", torch's fused attention counts too.

    Args:
        folder: results/, or None.
        device: Where.
        stem: The mechanism's.
        phase: Among `MODES`.
        **wanted: n, batch, heads, width, causal and dtype.
    """

    def fits(row: dict[str, Any]) -> bool:
        if row["mode"] != MODES[phase] or row["dtype"] != wanted["dtype"]:
            return False
        if stem == "flash" and row["mechanism"] == "full":
            return row["implementation"].startswith("SDPA")
        ours = row["implementation"] in records.OURS
        return row["mechanism"] == stem and (stem != "full" or ours)

    def far(row: dict[str, Any]) -> tuple:
        pairs = [(row[key], wanted[key]) for key in ("width", "n")]
        pairs.append((row["batch"] * row["heads"], wanted["batch"] * wanted["heads"]))
        ratios = [abs(math.log(is_ / should)) for is_, should in pairs]
        return (row["causal"] != wanted["causal"], *ratios, row["seconds"]["median"])

    rows = [(file, row) for file, row in timed(folder, device) if fits(row)]
    if not rows:
        return None
    file, row = min(rows, key=lambda pair: far(pair[1]))
    seconds = row["seconds"]["median"]
    if phase == "training":  # the backward pass alone is recorded
        same = ("mechanism", "implementation", "n", "batch", "heads", "width", "causal", "dtype")
        forward = [
            one["seconds"]["median"]
            for _, one in timed(folder, device)
            if one["mode"] == "forward" and all(one[key] == row[key] for key in same)
        ]
        if not forward:
            return None
        seconds += forward[0]
    kept = ("n", "batch", "heads", "width", "causal", "dtype", "knobs")
    return Measured(file, row["implementation"], {key: row[key] for key in kept}, seconds)


@functools.cache
def _frontier(folder: Path | None) -> dict[str, dict[bool, dict[str, float]]]:
    """Return by name the figures without tuning, under False, and with it, under True."""
    path = folder / "frontier.json" if folder else None
    if path is None or not path.exists():
        return {}
    with _reading(path) as record:
        found = {
            name: {tuned: _figures(entry, tuned) for tuned in (False, True)}
            for name, entry in record["mechanisms"].items()
        }
        for figures in found.get("full", {}).values():
            for ability in ABILITIES:
                if not figures[ability] > 0:
                    raise ValueError(f"full attention's {ability} must be above 0")
    return found


def quality(folder: Path | None, name: str, *, tuned: bool) -> Quality | None:
    """Return what is lost with a mechanism of the frontier's record, or None if it has none.

    Args:
        folder: results/, or None.
        name: Its name in the record.
        tuned: After the tuning of the record, the mean over its seeds; full attention's likewise.
    """
    entries = _frontier(folder)
    if not {name, "full"} <= set(entries):
        return None
    one, full = (entries[key][tuned] for key in (name, "full"))
    left = {ability: one[ability] / full[ability] for ability in ABILITIES}
    return Quality(name, one["loss"] - full["loss"], left, tuned)


def _figures(entry: dict[str, Any], tuned: bool) -> dict[str, float]:
    runs = list(entry["after"].values()) if tuned else [entry["before"]]
    if not runs:
        raise ValueError("a mechanism without runs")
    names = ("loss", "first", "second", *ABILITIES[1:])
    found = {name: float(np.mean([run[name] for run in runs])) for name in names}
    return found | {"copying": found["first"] - found["second"]}
