"""What a notebook asks for: a sweep here and now, and how fast a kernel is on a GPU."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterable
from typing import Any

import numpy as np

from attncourse import measure
from attncourse.bench import measuring, peers, records, store
from attncourse.bench.jobs import Job, inputs_of, own_job, sweep
from attncourse.bench.settings import Point, Setting
from attncourse.catalogue import MECHANISMS
from attncourse.cost import Device
from attncourse.units import format_bytes, format_seconds

# What chapters show of a run on a GPU.
SHOWN = {"batch": 1, "heads": 16, "width": 64, "causal": False, "mode": "forward"}


def here(
    lengths: Iterable[int],
    *,
    stems: Iterable[str] | None = None,
    always: Iterable[str] = (),
    heads: int = 1,
    batch: int = 1,
    width: int = 64,
    dtype: str = "float32",
    causal: bool = False,
    repeats: int = 3,
    limit: float = 0.5,
    limit_from: int = 0,
    device: str | None = None,
    expect_seconds: float | None = None,
    show_progress: bool | None = None,
) -> dict[str, Any]:
    """Measure our own implementations now, and how far each is from full attention.

    The shortest length comes first. A mechanism of which one call at the next length should take
    over `limit` seconds, judging from the lengths before, is skipped there and says so. Ctrl-C ends
    it with what is measured.

    Args:
        lengths: Sequence lengths n.
        stems: Which mechanisms; all that run here if not given.
        always: Mechanisms that are measured at each length, whatever `limit` says.
        heads: H.
        batch: B.
        width: D.
        dtype: A NumPy floating type; on a GPU "float16", "bfloat16" or "float32".
        causal: Whether later keys are hidden.
        repeats: Timed calls of each.
        limit: Seconds that one call may take.
        limit_from: Shorter lengths are measured whatever `limit` says.
        device: "cpu" or "gpu"; the GPU if there is one, if not given.
        expect_seconds: About how long all of it takes, if that is known: told beforehand.
        show_progress: Whether to write how far it is; if not given, where a person waits.

    Returns:
        A record as `attncourse bench` writes it. Each measurement has `error` too: the root mean
        square of the difference from full attention's output, over that of the output itself. Full
        attention in float64 is the measure, masked if `causal`.
    """
    device = device or ("gpu" if measuring.has_cuda() else "cpu")
    setting = Setting(device, tuple(lengths), heads, (width,), repeats, (causal,), dtype=dtype)
    record = store.header(setting)
    chosen = [MECHANISMS[stem] for stem in (MECHANISMS if stems is None else stems)]
    points = [Point(n, width, heads, batch, causal=causal) for n in sorted(setting.lengths)]
    jobs = [
        job
        for point in points
        for mechanism in chosen
        if (job := own_job(mechanism, point, setting))
    ]
    seconds: dict[tuple, float] = {}
    exact: dict[int, np.ndarray] = {}
    with contextlib.suppress(KeyboardInterrupt):
        waited = {"expect_seconds": expect_seconds, "show": show_progress}
        for job in measure.progress(jobs, "measuring", **waited):
            n = job.point.n
            unlimited = job.mechanism in always or n < limit_from
            expected = 0.0 if unlimited else measuring.expected_seconds(job, seconds)
            measured = measuring.measure_job(job, setting, expected, limit)
            if "seconds" in measured:
                seconds[job.key] = measured["seconds"]["median"]
                if n not in exact:
                    exact = {n: _exact(job.point, setting)}  # one length's at a time
                measured["error"] = _error(job, exact[n])
            record["measurements"].append(measured)
        record["complete"] = True
    return record


def _exact(point: Point, setting: Setting) -> np.ndarray:
    """Return full attention's output in float64 for the inputs of a point."""
    from attncourse.reference import chunked

    q, k, v = (_as_float64(x) for x in inputs_of(point, setting, torch=setting.device == "gpu"))
    return chunked.attention(q, k, v, chunk=128, causal=point.causal)


def _error(job: Job, exact: np.ndarray) -> float:
    function, args, kwargs = job.prepare()
    difference = _as_float64(function(*args, **kwargs)) - exact
    return float(np.sqrt(np.mean(difference**2) / np.mean(exact**2)))


def _as_float64(array: Any) -> np.ndarray:
    return np.asarray(array.cpu().double() if hasattr(array, "cpu") else array, np.float64)


def show_gpu(stem: str, lengths: Iterable[int] = (1024, 4096, 16384)) -> None:
    """Print a kernel's time and memory on a GPU beside what its `cost` predicts.

    Measured now, without peers that compile for seconds; without a GPU, the latest record.

    Args:
        stem: A mechanism of the catalogue.
        lengths: What to measure if there is a GPU.
    """
    if measuring.has_cuda():
        record = _measured_now(stem, lengths)
        origin = "measured now"
    else:
        record = store.latest("gpu", mechanisms=[stem], **SHOWN)
        if record is None:
            print(
                "There is no GPU here, and no run on one is recorded yet\n"
                f"that has {stem} {records.setting_words(SHOWN)}.\n"
                "`attncourse bench --gpu`, where there is one, records it in results/."
            )
            return
        origin = f"recorded on {record['date'][:10]}, commit {record['commit'][:12]}"
    device = records.device_of(record)
    rows = [row for row in records.rows(record, **SHOWN) if row["mechanism"] in (stem, "full")]
    rows.sort(key=lambda row: row["n"])
    print(f"{record['machine']['gpu']}, {origin}")
    print(f"{SHOWN['heads']} heads, width {SHOWN['width']}, {record['settings']['dtype']}")
    print(*_lines(rows, device), *_reasons(rows), sep="\n")
    said = [
        f"least: what its FLOPs or bytes take {_at_peak(device)}. ±: half the distance of the "
        "quartiles. cost, peak: bytes beside the inputs, predicted and measured.",
        records.fused_words(record, **SHOWN),
    ]
    if any("mode" not in measured for measured in record["measurements"]):
        said.append(
            "This record does not hide the launch: at short n that is most of a kernel's time."
        )
    print(*(textwrap.fill(words, 80) for words in said if words), sep="\n")


def _measured_now(stem: str, lengths: Iterable[int]) -> dict[str, Any]:
    slow = tuple(peer.name for peer in peers.of(MECHANISMS[stem], "gpu") if peer.slow)
    setting = Setting(
        "gpu", tuple(lengths), SHOWN["heads"], (SHOWN["width"],), 10, dtype="float16", without=slow
    )
    record = store.header(setting)
    jobs = [job for job in sweep(setting) if job.mechanism in (stem, "full")]
    record["measurements"] = [
        measuring.measure_job(job, setting) for job in measure.progress(jobs, "measuring")
    ]
    return record


def _at_peak(device: Device | None) -> str:
    return f"at the peaks of an {device.name}" if device else "(the peaks of this GPU are unknown)"


def _lines(rows: list[records.Row], device: Device | None) -> list[str]:
    """Return a table of predictions and measurements that fits a narrow page."""
    table = [("n", "", "least", "median", "±", "cost", "peak")]
    for row in rows:
        least = cost = median = spread = peak = "–"
        if row.get("predicted"):
            cost = format_bytes(row["predicted"]["peak_bytes"])
            least = format_seconds(records.least_seconds(row, device)) if device else "–"
        if "seconds" in row:
            timing = measure.Timing(**row["seconds"])
            median = format_seconds(timing.median)
            spread = f"{(timing.high - timing.low) / 2 / timing.median:.0%}"
            peak = format_bytes(row["peak_bytes"])
        name = f"{row['mechanism']}, {row['implementation']}"
        if row.get("predicted") or "seconds" in row:
            table.append((f"{row['n']}", name, least, median, spread, cost, peak))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        " ".join(
            cell.ljust(width) if place == 1 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    ]


def _reasons(rows: list[records.Row]) -> list[str]:
    """Return why something was not measured, each reason once."""
    lengths: dict[str, list[int]] = {}
    for row in rows:
        if "seconds" not in row:
            words = f"{row['mechanism']}, {row['implementation']}: {measuring.in_words(row)}"
            lengths.setdefault(words, []).append(row["n"])
    return [
        textwrap.fill(f"{words} (n = {', '.join(map(str, at))})", 80)
        for words, at in lengths.items()
    ]
