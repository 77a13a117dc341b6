"""A record as people read it: its tables in Markdown, and its pictures in docs/."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attncourse.bench import records, store
from attncourse.bench.settings import DEFAULTS
from attncourse.cost import Device
from attncourse.units import format_bytes, format_seconds


def report(folder: Path) -> int:
    """Draw the latest record of each device and write its tables; print them too.

    Args:
        folder: Where bench-<device>.md and bench-<device>-<setting>.png go.

    Returns:
        0, or 1 if nothing is recorded yet.
    """
    from attncourse import plots

    found = {device: store.latest(device) for device in DEFAULTS}
    for device, record in found.items():
        if record is None:
            print(f"no run on a {device} is recorded yet")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        text = f"# Measured: {device.upper()}\n\n{tables(record)}\n"
        (folder / f"bench-{device}.md").write_text(text, encoding="utf-8")
        (folder / f"bench-{device}.png").write_bytes(plots.png(plots.benchmark(record)))
        for setting in records.settings_of(record):
            if setting["mode"] != "decode" and len(records.settings_of(record)) > 1:
                causal = "-causal" if setting["causal"] else ""
                name = f"bench-{device}-{setting['mode']}{causal}-{setting['width']}"
                if setting["heads"] == records.CHAPTER_E["heads"]:
                    name += "-chapter-e"
                picture = plots.benchmark(record, setting)
                (folder / f"{name}.png").write_bytes(plots.png(picture))
        print(text)
    return 0 if any(found.values()) else 1


def tables(record: Mapping[str, Any]) -> str:
    """Return a record's tables in Markdown: times, rates, memory, crossovers, printed speedups."""
    device, flops = records.device_of(record), records.forward_flops(record)
    parts = [_head(record, device)]
    for setting in records.settings_of(record):
        found = records.rows(record, **setting)
        parts.append(f"### {records.setting_words(setting)}")
        parts.append(_times(found))
        if setting["mode"] != "decode" or device is not None:
            parts.append(_rates(found, device, flops))
        if setting["mode"] != "decode":
            crossed = records.crossovers(record, **setting)
            parts.append(
                _table(("mechanism", "faster than standard", "faster than flash"), crossed)
            )
            parts.append(records.fused_words(record, **setting))
        parts.append(_not_measured(found))
    if printed := records.chapter_e(record):
        parts.append("### Chapter E's speedups over standard attention, in its own setting")
        body = [
            (f"{n}", stem, f"{said:g}×", f"{found:.1f}×", "yes" if found >= said else "no")
            for n, stem, said, found in printed
        ]
        parts.append(_table(("n", "mechanism", "printed", "measured", "reached"), body))
        parts.append(records.fused_words(record, mode="forward", causal=False, **records.CHAPTER_E))
    return "\n\n".join(part for part in parts if part)


def _head(record: Mapping[str, Any], device: Device | None) -> str:
    machine = record["machine"]
    name = machine.get("gpu") if record["settings"]["device"] == "gpu" else machine["cpu"]
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items() if v)
    driver = f", driver {machine['driver']}" if machine.get("driver") else ""
    lines = [
        f"{name}{driver}; {versions}; {record['settings']['dtype']}; {record['date'][:10]}, commit "
        f"{record['commit'][:12]}"
        + ("" if record["complete"] else "; not complete: the same command goes on with it")
    ]
    if device is not None:
        lines.append(
            f"Shares are of {device.name}: {_per_second(device.peak(), 'FLOP')} and "
            f"{_per_second(device.bytes_per_second, 'B')} ({device.source})."
        )
    if caveats := record.get("caveats"):
        lines.append("\n".join(f"- {caveat}" for caveat in caveats))
    return "\n\n".join(lines)


def _times(found: list[records.Row]) -> str:
    def cell(row: records.Row) -> str:
        timing = row["seconds"]
        spread = (timing["high"] - timing["low"]) / timing["median"] if timing["median"] else 0
        return f"{format_seconds(timing['median'])} ±{spread / 2:.0%}"

    return _by_length(found, cell, "time (half the distance of the quartiles)")


def _rates(found: list[records.Row], device: Device | None, flops: Mapping[tuple, float]) -> str:
    def cell(row: records.Row) -> str:
        rate = records.rates(row, device, flops.get((row["mechanism"], *records.setting_key(row))))
        share = f", {rate['share']:.0%}" if "share" in rate else ""
        memory = _memory(row)
        text = f"{_per_second(rate['flops'], 'FLOP')}, {_per_second(rate['bytes'], 'B')}{share}"
        return f"{text}, {memory}" if memory else text

    return _by_length(found, cell, "rates, share of the limit, extra memory")


def _memory(row: records.Row) -> str:
    if "peak_bytes" not in row:
        return ""
    predicted = (row.get("predicted") or {}).get("peak_bytes")
    words = format_bytes(row["peak_bytes"])
    return f"{words} ({row['peak_bytes'] / predicted:.2f} of predicted)" if predicted else words


def _by_length(found: list[records.Row], cell: Callable[[records.Row], str], title: str) -> str:
    lengths = sorted({row["n"] for row in found})
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for row in found:
        line = cells.setdefault((row["mechanism"], row["implementation"]), {})
        if "seconds" in row:
            line[row["n"]] = cell(row)
    head = ("mechanism", "implementation", *(f"n = {n}" for n in lengths))
    body = [(*name, *(line.get(n, "–") for n in lengths)) for name, line in cells.items() if line]
    return f"{title}\n\n{_table(head, body)}" if body else ""


def _not_measured(found: list[records.Row]) -> str:
    reasons: dict[str, dict[str, None]] = {}
    for row in found:
        for kind in ("absent", "skipped", "failed", "differs"):
            if kind in row:
                name = f"{row['mechanism']}, {row['implementation']}"
                where = "" if kind == "absent" else f" at n = {row['n']}"
                reasons.setdefault(f"{kind}: {row[kind]}", {})[name + where] = None
    return "\n".join(f"- {'; '.join(names)}: {reason}" for reason, names in reasons.items())


def _table(head: Iterable[str], body: Iterable[Iterable[Any]]) -> str:
    def lines() -> Iterator[str]:
        names = list(head)
        yield "| " + " | ".join(names) + " |"
        yield "| --- " * len(names) + "|"
        for row in body:
            yield "| " + " | ".join(str(cell) for cell in row) + " |"

    return "\n".join(lines())


def _per_second(rate: float, unit: str) -> str:
    """Say a rate in words: "375 TFLOP/s"."""
    for prefix, factor in (("T", 1e12), ("G", 1e9)):
        if rate >= 0.9995 * factor:
            return f"{rate / factor:.3g} {prefix}{unit}/s"
    return f"{rate / 1e6:.3g} M{unit}/s"
