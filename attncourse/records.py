"""What a record of `attncourse bench` says: rates, shares of the limit, crossovers, tables.

A record is the JSON that `attncourse bench` writes to results/. Nothing here measures or estimates:
what was not measured is missing from every table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from attncourse.cost import DEVICES, NUMBER_BYTES, Cost, Device, format_bytes
from attncourse.measure import format_seconds

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
        (row["mechanism"], *_setting(row)): row["predicted"]["flops"]
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


def report(record: Mapping[str, Any]) -> str:
    """Return a record's tables in Markdown: times, rates, memory, crossovers, printed speedups."""
    device, flops = device_of(record), forward_flops(record)
    parts = [_head(record, device)]
    for setting in settings_of(record):
        found = rows(record, **setting)
        parts.append(f"### {setting_words(setting)}")
        parts.append(_times(found))
        if setting["mode"] != "decode" or device is not None:
            parts.append(_rates(found, device, flops))
        if setting["mode"] != "decode":
            crossed = crossovers(record, **setting)
            parts.append(
                _table(("mechanism", "faster than standard", "faster than flash"), crossed)
            )
        parts.append(_not_measured(found))
    if printed := chapter_e(record):
        parts.append("### Chapter E's speedups over standard attention, in its own setting")
        body = [
            (f"{n}", stem, f"{said:g}×", f"{found:.1f}×", "yes" if found >= said else "no")
            for n, stem, said, found in printed
        ]
        parts.append(_table(("n", "mechanism", "printed", "measured", "reached"), body))
    return "\n\n".join(part for part in parts if part)


def setting_words(setting: Mapping[str, Any]) -> str:
    """Say a setting in words: "forward, causal, 16 heads of 64"."""
    causal = "causal" if setting["causal"] else "not causal"
    batch = f"batch {setting['batch']}, " if setting["batch"] != 1 else ""
    heads = "head" if setting["heads"] == 1 else "heads"
    return f"{setting['mode']}, {causal}, {batch}{setting['heads']} {heads} of {setting['width']}"


def _per_second(rate: float, unit: str) -> str:
    """Say a rate in words: "375 TFLOP/s"."""
    for prefix, factor in (("T", 1e12), ("G", 1e9)):
        if rate >= 0.9995 * factor:
            return f"{rate / factor:.3g} {prefix}{unit}/s"
    return f"{rate / 1e6:.3g} M{unit}/s"


def _head(record: Mapping[str, Any], device: Device | None) -> str:
    machine = record["machine"]
    name = machine.get("gpu") if record["settings"]["device"] == "gpu" else machine["cpu"]
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items() if v)
    driver = f", driver {machine['driver']}" if machine.get("driver") else ""
    lines_ = [
        f"{name}{driver}; {versions}; {record['settings']['dtype']}; {record['date'][:10]}, commit "
        f"{record['commit'][:12]}"
        + ("" if record["complete"] else "; not complete: the same command goes on with it")
    ]
    if device is not None:
        lines_.append(
            f"Shares are of {device.name}: {_per_second(device.peak(), 'FLOP')} and "
            f"{_per_second(device.bytes_per_second, 'B')} ({device.source})."
        )
    return "\n\n".join(lines_)


def _times(found: list[Row]) -> str:
    def cell(row: Row) -> str:
        timing = row["seconds"]
        spread = (timing["high"] - timing["low"]) / timing["median"] if timing["median"] else 0
        return f"{format_seconds(timing['median'])} ±{spread / 2:.0%}"

    return _by_length(found, cell, "time (half the distance of the quartiles)")


def _rates(found: list[Row], device: Device | None, flops: Mapping[tuple, float]) -> str:
    def cell(row: Row) -> str:
        rate = rates(row, device, flops.get((row["mechanism"], *_setting(row))))
        share = f", {rate['share']:.0%}" if "share" in rate else ""
        memory = _memory(row)
        text = f"{_per_second(rate['flops'], 'FLOP')}, {_per_second(rate['bytes'], 'B')}{share}"
        return f"{text}, {memory}" if memory else text

    return _by_length(found, cell, "rates, share of the limit, extra memory")


def _memory(row: Row) -> str:
    if "peak_bytes" not in row:
        return ""
    predicted = (row.get("predicted") or {}).get("peak_bytes")
    words = format_bytes(row["peak_bytes"])
    return f"{words} ({row['peak_bytes'] / predicted:.2f} of predicted)" if predicted else words


def _by_length(found: list[Row], cell: Callable[[Row], str], title: str) -> str:
    lengths = sorted({row["n"] for row in found})
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for row in found:
        line = cells.setdefault((row["mechanism"], row["implementation"]), {})
        if "seconds" in row:
            line[row["n"]] = cell(row)
    head = ("mechanism", "implementation", *(f"n = {n}" for n in lengths))
    body = [(*name, *(line.get(n, "–") for n in lengths)) for name, line in cells.items() if line]
    return f"{title}\n\n{_table(head, body)}" if body else ""


def _not_measured(found: list[Row]) -> str:
    reasons: dict[str, dict[str, None]] = {}
    for row in found:
        for kind in ("absent", "skipped", "failed", "differs"):
            if kind in row:
                name = f"{row['mechanism']}, {row['implementation']}"
                where = "" if kind == "absent" else f" at n = {row['n']}"
                reasons.setdefault(f"{kind}: {row[kind]}", {})[name + where] = None
    return "\n".join(f"- {'; '.join(names)}: {reason}" for reason, names in reasons.items())


def _setting(row: Row) -> tuple:
    return tuple(row[key] for key in ("n", "batch", "heads", "width", "causal"))


def _table(head: Iterable[str], body: Iterable[Iterable[Any]]) -> str:
    def lines_() -> Iterator[str]:
        names = list(head)
        yield "| " + " | ".join(names) + " |"
        yield "| --- " * len(names) + "|"
        for row in body:
            yield "| " + " | ".join(str(cell) for cell in row) + " |"

    return "\n".join(lines_())
