"""What a record of `attncourse bench` says: rates, shares of the limit, crossovers.

A record is the JSON that `attncourse bench` writes to results/. Nothing here measures or estimates:
what was not measured is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attncourse.cost import DEVICES, NUMBER_BYTES, Cost, Device

OURS = ("NumPy", "Triton")
MODES = ("forward", "backward", "decode")
# A backward pass makes five products where the forward pass makes two.
BACKWARD_FLOPS = 2.5
# Chapter E's setting, one text and 12 heads of 64, and the speedups over standard attention that it
# prints: claims C321 to C330.
CHAPTER_E: dict[str, Any] = {"batch": 1, "heads": 12, "width": 64}
CHAPTER_E_SPEEDUPS = {
    4096: {"longformer": 5.4, "bigbird": 6.5, "linformer": 4.9, "performer": 8.2, "flash": 3.9},
    16384: {"window": 21, "bigbird": 25, "linformer": 19, "performer": 31, "flash": 6.8},
}

Row = dict[str, Any]


def rows(record: Mapping[str, Any], **wanted: Any) -> list[Row]:
    """Return the measurements of a record, each with its whole setting.

    Args:
        record: As read from results/; those of older versions name only n.
        **wanted: Values that a row must have, such as width=64 or causal=False.
    """
    settings = record["settings"]
    default = {
        "batch": 1,
        "heads": settings.get("heads"),
        "width": settings.get("width"),
        "causal": False,
        "mode": "forward",
        "dtype": settings.get("dtype"),
    }
    whole = ({**default, **measured} for measured in record["measurements"])
    return [row for row in whole if all(row.get(key) == value for key, value in wanted.items())]


def settings_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each (batch, heads, width, causal, mode) of a record, in its order."""
    found: dict[tuple, dict[str, Any]] = {}
    for row in rows(record):
        setting = {key: row[key] for key in ("batch", "heads", "width", "causal", "mode")}
        found.setdefault(tuple(setting.values()), setting)
    return list(found.values())


def device_of(record: Mapping[str, Any]) -> Device | None:
    """Return the device whose limits hold for a record, or None: a GPU's are listed, or not.

    A CPU's were measured when the run began.
    """
    if record.get("settings", {}).get("device") == "cpu":
        return Device(**record["limits"]) if "limits" in record else None
    gpu = record["machine"].get("gpu") or ""
    fitting = [
        device
        for device in DEVICES.values()
        if all(word in gpu.replace("-", " ") for word in device.name.replace(" GB", "GB").split())
    ]
    return fitting[-1] if fitting else None


def work(row: Row, forward_flops: float | None = None) -> tuple[float, float]:
    """Return the FLOPs of a row's work, and the bytes that have to move at least.

    Exact attention's FLOPs are 4·B·H·n²·D, half if causal; a sparse or approximate mechanism's are
    those of our kernel's own `cost`. The bytes are q, k, v and out, each once; in decoding k and v.

    Args:
        row: From `rows`.
        forward_flops: What our kernel executes for the same setting, if the row is a mechanism's.
    """
    n, D, B, H = (row[key] for key in ("n", "width", "batch", "heads"))
    each = NUMBER_BYTES[row["dtype"]]
    if row["mode"] == "decode":
        return 4 * B * H * n * D, 2 * B * row.get("groups", H) * n * D * each
    exact = 4 * B * H * n * n * D / (2 if row["causal"] else 1)
    flops = exact if row["mechanism"] in ("full", "flash") else forward_flops or exact
    moved = 4 * B * H * n * D * each
    if row["mode"] == "backward":
        return BACKWARD_FLOPS * flops, 2 * moved
    return flops, moved


def rates(row: Row, device: Device | None, forward_flops: float | None = None) -> dict[str, float]:
    """Return flops and bytes a second, and the share of what the device allows (if given)."""
    flops, moved = work(row, forward_flops)
    seconds = row["seconds"]["median"]
    found = {"flops": flops / seconds, "bytes": moved / seconds}
    if device is not None:
        dtype = row["dtype"] if row["dtype"] in device.peaks else None
        least = max(flops / device.peak(dtype), moved / device.bytes_per_second)
        found["share"] = least / seconds
    return found


def least_seconds(row: Row, device: Device) -> float:
    """Return the least time that a device needs for what a row's `cost` predicts."""
    predicted = Cost(**row["predicted"])
    return predicted.seconds(device, row["dtype"] if row["dtype"] in device.peaks else None)


def forward_flops(record: Mapping[str, Any]) -> dict[tuple, float]:
    """Return the FLOPs of our kernels' forward passes, by mechanism and setting."""
    return {
        (row["mechanism"], *setting_key(row)): row["predicted"]["flops"]
        for row in rows(record, mode="forward")
        if row["implementation"] in OURS and row.get("predicted")
    }


def crossover(ours: Mapping[int, float], theirs: Mapping[int, float]) -> int | None:
    """Return the length from which `ours` is faster at every longer one measured, or None.

    Args:
        ours: n -> seconds.
        theirs: n -> seconds; only lengths that both have count.
    """
    found = None
    for n in sorted(set(ours) & set(theirs), reverse=True):
        if ours[n] >= theirs[n]:
            break
        found = n
    return found


def crossover_words(ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    """Say from which length `ours` is faster: "never here" included."""
    both = set(ours) & set(theirs)
    if not both:
        return "not measured"
    found = crossover(ours, theirs)
    if found is None:
        return "never here"
    return "at every length here" if found == min(both) else f"from n = {found}"


def crossovers(record: Mapping[str, Any], **setting: Any) -> list[tuple[str, str, str]]:
    """Return (mechanism, against standard, against flash) for our implementations in a setting."""
    times = {
        stem: line
        for (stem, implementation), line in lines(record, **setting).items()
        if implementation in OURS
    }
    standard, flash = times.get("full", {}), times.get("flash", {})
    return [
        (
            stem,
            crossover_words(line, standard),
            "–" if stem == "flash" else crossover_words(line, flash),
        )
        for stem, line in times.items()
        if stem != "full"
    ]


def lines(
    record: Mapping[str, Any],
    of: Callable[[Row], float] = lambda row: row["seconds"]["median"],
    **setting: Any,
) -> dict[tuple[str, str], dict[int, float]]:
    """Return (mechanism, implementation) -> {n: value} for what was measured in a setting."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows(record, **setting):
        if "seconds" in row:
            found.setdefault((row["mechanism"], row["implementation"]), {})[row["n"]] = of(row)
    return found


def times(record: Mapping[str, Any] | None, stem: str, **setting: Any) -> dict[int, float]:
    """Return n -> median seconds of our implementation in a setting, shortest first.

    Args:
        record: As read from results/; where there is none, nothing is timed.
        stem: The mechanism's.
        **setting: As in `rows`.
    """
    found = lines(record, **setting) if record else {}
    ours = (found.get((stem, implementation)) for implementation in OURS)
    return dict(sorted(next(filter(None, ours), {}).items()))


def speedups(
    record: Mapping[str, Any] | None, over: str, of: str, **setting: Any
) -> dict[int, float]:
    """Return n -> how many times faster `of` is than `over`, where both are timed; see `times`."""
    slow, fast = (times(record, stem, **setting) for stem in (over, of))
    return {n: slow[n] / fast[n] for n in slow if n in fast}


def speedup_words(gains: Mapping[int, float]) -> str:
    """Say the first and the last of some speedups: "2.1× at n = 512, 8.4× at n = 16384"."""
    ends = dict.fromkeys([min(gains), max(gains)]) if gains else ()
    return ", ".join(f"{gains[n]:.1f}× at n = {n}" for n in ends) or "no such run is recorded"


def fused_words(record: Mapping[str, Any], **setting: Any) -> str:
    """Say how SDPA compares with our standard attention, over which speedups are told; or ""."""
    found = lines(record, **setting)
    fused = found.get(("full", "SDPA"), {})
    unfused = times(record, "full", **setting)
    gains = {n: unfused[n] / fused[n] for n in sorted(set(unfused) & set(fused))}
    if not gains:
        return ""
    return (
        "Standard attention here is unfused: its scores go through memory. Over it torch's SDPA, "
        f"which is fused, gains {speedup_words(gains)}."
    )


def chapter_e(record: Mapping[str, Any]) -> list[tuple[int, str, float, float]]:
    """Return (n, mechanism, printed, measured speedup over standard attention) where measured."""
    ours = {
        key: line
        for key, line in lines(record, mode="forward", causal=False, **CHAPTER_E).items()
        if key[1] in OURS
    }
    times = {stem: line for (stem, _), line in ours.items()}
    return [
        (n, stem, printed, times["full"][n] / times[stem][n])
        for n, speedups in CHAPTER_E_SPEEDUPS.items()
        for stem, printed in speedups.items()
        if n in times.get("full", {}) and n in times.get(stem, {})
    ]


def setting_words(setting: Mapping[str, Any]) -> str:
    """Say a setting in words: "forward, causal, 16 heads of 64"."""
    causal = "causal" if setting["causal"] else "not causal"
    batch = f"batch {setting['batch']}, " if setting["batch"] != 1 else ""
    heads = "head" if setting["heads"] == 1 else "heads"
    return f"{setting['mode']}, {causal}, {batch}{setting['heads']} {heads} of {setting['width']}"


def setting_key(row: Row) -> tuple:
    """Return what tells the setting of a row from that of others, its mode aside."""
    return tuple(row[key] for key in ("n", "batch", "heads", "width", "causal"))
