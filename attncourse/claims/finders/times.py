"""Chapter 01: the printed milliseconds of an A100, and the ratios between them."""

from __future__ import annotations

from typing import Any

from attncourse.bench import SHOWN, latest
from attncourse.bench.records import times
from attncourse.claims.finding import Found, finds
from attncourse.claims.ledger import Claim, get
from attncourse.cost import DEVICES, implied
from attncourse.reference import full, window

A100 = DEVICES["A100 40 GB"]
PRINTED = ("C196", "C197", "C198", "C199", "C200", "C201")  # chapter E's six times


def _careless_ms(n: int) -> float:
    """Return the least time of a careless program: float32, no tensor cores, six passes."""
    computing = 4 * n * n * 768 / A100.peak("float32")
    moving = 6 * 12 * n * n * 4 / A100.bytes_per_second
    return 1e3 * (computing + moving)


@finds(*PRINTED)
def careless_time(claim: Claim) -> Found:
    """Give what even a careless program needs at least."""
    return Found(
        _careless_ms(int(claim.parameters["n"])),
        f"at least, n = {claim.parameters['n']:,}, 12 heads of 64, A100: 4n²·768 FLOPs in float32 "
        "without tensor cores, then six passes over 12 squares at 1,555 GB/s",
    )


@finds("C203")
def eightfold_length(claim: Claim) -> Found:
    """Put the law beside the quotient of the printed times."""
    short, long = (float(get(id).printed) for id in ("C196", "C199"))
    asked = full.cost(1, 1, 4096, 4096, 64).flops / full.cost(1, 1, 512, 512, 64).flops
    return Found(
        f"{asked:.0f}-fold; the printed {long:.0f} and {short:.0f} ms give {long / short:.2f}",
        "FLOPs of full.cost, n = 512 and 4,096",
        abs(asked - float(claim.printed)) < 1,
    )


@finds(
    *("C224", "C236", "C250", "C251", "C260", "C261", "C345"),
    *(f"C{number}" for number in (*range(278, 283), *range(317, 331))),
)
def quotient(claim: Claim) -> Found:
    """Divide two times that chapter E prints."""
    long, short = (float(claim.parameters[name]) for name in "ab")
    return Found(
        long / short,
        f"the quotient of the printed {long:,g} and {short:,g} ms; nothing is measured",
    )


@finds("C331")
def fourfold_length(claim: Claim) -> Found:
    """Divide the printed times of four methods at 16,384 and at 4,096 tokens."""
    pairs = {
        "Longformer": ("C321", "C326"),
        "BigBird": ("C322", "C327"),
        "Linformer": ("C323", "C328"),
        "Performer": ("C324", "C329"),
    }
    spans = {name: [float(get(id).parameters["b"]) for id in pair] for name, pair in pairs.items()}
    words = ", ".join(
        f"{long / short:.2f} times for {name} ({long:g} over {short:g} ms)"
        for name, (short, long) in spans.items()
    )
    linear = [abs(long / short - float(claim.printed)) < 0.1 for short, long in spans.values()]
    return Found(words, "chapter E's printed times at n = 16,384 and 4,096", all(linear))


@finds("C204")
def implied_throughput(claim: Claim) -> Found:
    """Turn the printed time into what the card would have done."""
    verdict = implied(0.098, 4096, 64, heads=12, device=A100, dtype="float16")
    share = verdict.flops_per_second / A100.peak("float16")
    return Found(
        f"{verdict.flops_per_second / 1e12:.2f} TFLOP/s, {share:.2%} of the quoted peak; a "
        f"careless program in float32 needs {_careless_ms(4096):.1f} ms",
        "98 ms, n = 4,096, 12 heads of 64, A100" + _measured_on_a_gpu(4096),
        share > 0.01,
    )


def _measured_on_a_gpu(n: int) -> str:
    """Return what a record of a GPU says of standard attention, as an addition to a setting."""
    shown: dict[str, Any] = dict(SHOWN)
    record = latest("gpu", mechanisms=["full"], **shown)
    measured = times(record, "full", **shown).get(n)
    if record is None or measured is None:
        return ""
    gpu, date = record["machine"]["gpu"], record["date"][:10]
    how = f"{shown['heads']} heads in {record['settings']['dtype']}"
    return f"; measured: {measured * 1e3:.2f} ms with {how}, {gpu}, {date}"


@finds("C205", "C206", "C207", "C208", "C209")
def step_of_the_law(claim: Claim) -> Found:
    """Put the law, and what this course measured, beside the quotient of two printed times."""
    long, short = int(claim.parameters["a"]), int(claim.parameters["b"])
    law = full.cost(1, 1, long, long, 64).flops / full.cost(1, 1, short, short, 64).flops
    record = latest("cpu", mechanisms=["full"], heads=1, width=64, causal=False, mode="forward")
    measured = times(record, "full", heads=1, width=64, causal=False, mode="forward")
    words, setting = f"{law:.0f} by the law of n²", f"full.cost, n = {short:,} and {long:,}"
    ratios = [law]
    if record and {short, long} <= set(measured):
        ratios.append(measured[long] / measured[short])
        words += f", {ratios[-1]:.1f} measured"
        setting += (
            f"; measured: NumPy, float32, one head of 64, {record['machine']['cpu']}, "
            f"{record['date'][:10]}"
        )
    near = [abs(ratio - float(claim.printed)) < 0.25 * ratio for ratio in ratios]
    return Found(words, setting, all(near))


@finds("C137")
def least_time(claim: Claim) -> Found:
    """Give the least that an A100 needs for the FLOPs of both products."""
    n = 8192
    cost = full.cost(1, 12, n, n, 64)
    return Found(
        1e3 * cost.flops / A100.peak("float16"),
        f"at least, n = {n:,}, 12 heads of 64: {cost.flops / 1e9:.0f} GFLOP at the A100's 312 "
        "TFLOP/s, nothing moved" + _measured_on_a_gpu(n),
    )


@finds("C138")
def least_time_of_variants(claim: Claim) -> Found:
    """Give the least that an A100 needs to move q, k, v and out of one layer once."""
    n = 8192
    moved = 4 * n * 768 * 2
    local = window.cost(1, 12, n, n, 64, window=128, dtype_bytes=2)
    return Found(
        1e6 * moved / A100.bytes_per_second,
        f"at least, n = {n:,}: q, k, v and out of width 768 in float16 moved once at 1,555 GB/s; "
        f"the window of 128 a side computes for {1e6 * local.flops / A100.peak('float16'):.0f} µs",
    )
