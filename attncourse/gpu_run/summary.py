"""What a run has found so far, from whatever its folder holds."""

from __future__ import annotations

import collections
import json
from pathlib import Path

from attncourse.gpu_run import lines
from attncourse.units import format_seconds


def of(out: Path) -> str:
    """Say in Markdown how each part ended and what it found; a part that was killed, too."""
    parts: dict[str, dict] = {}
    for line in lines.read(out / "run.jsonl"):
        parts.setdefault(line["part"], {}).update(line)
    if not parts:
        return f"gpu-run: {out} holds no run"
    text = ["# A run on a GPU", ""]
    for part, line in parts.items():
        took = f" after {line['seconds']:.0f} s" if "seconds" in line else ""
        text.append(f"- {part}: {line.get('ended', 'begun, and not ended')}{took}")
    for section in (_tests, _bench, _tiles, _chapters):
        if found := section(out):
            text += ["", *found]
    return "\n".join(text)


def _tests(out: Path) -> list[str]:
    outcomes, begun = {}, []
    for line in lines.read(out / "tests.jsonl"):
        if "outcome" in line:
            outcomes[line["test"]] = line
        elif "begins" in line:
            begun.append(line["test"])
    if not begun and not outcomes:
        return []
    counts = collections.Counter(line["outcome"] for line in outcomes.values())
    open_ = [test for test in begun if test not in outcomes]
    words = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    found = [f"Tests: {words or 'none ended'}; {len(open_)} begun and not ended"]
    for test, line in outcomes.items():
        if line["outcome"] in ("failed", "not collected"):
            found.append(f"- {line['outcome']}: {test}: {(line['why'].splitlines() or [''])[-1]}")
    return found + [f"- not ended: {test}" for test in open_]


def _bench(out: Path) -> list[str]:
    found = []
    for path in sorted(out.glob("bench-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        rows = record["measurements"]
        kinds = collections.Counter(
            next(k for k in ("seconds", "absent", "skipped", "failed") if k in row) for row in rows
        )
        words = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        whole = "complete" if record["complete"] else "not complete"
        found.append(f"Bench: {path.name}, {whole}: {words}".replace("seconds", "measured"))
        for row in rows:
            if "failed" in row or "differs" in row:
                why = row.get("failed") or row["differs"]
                where = f"n = {row['n']}, width {row['width']}, {row['mode']}"
                found.append(f"- {row['mechanism']}, {row['implementation']}, {where}: {why}")
    return found


def _tiles(out: Path) -> list[str]:
    found = []
    for path in sorted(out.glob("tiles-gpu-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found.append(f"Tiles: {path.name}, {len(record['tiles'])} timed")
        for what, count in collections.Counter(
            f"{row[0]}: {row[-1]}" for row in record["left_out"]
        ).items():
            found.append(f"- left out {count} times: {what}")
        for *setting, seconds in record["launched"]:
            rows = [row for row in record["tiles"] if row[:4] == setting]
            best = min(rows, key=lambda row: row[-1], default=None)
            if best is not None:
                what, width, causal, n = setting
                tile = "({}, {}, {} warps, {} stages)".format(*best[4:8])
                found.append(
                    f"- {what}, width {width}{', causal' * causal}, n = {n}: "
                    f"{format_seconds(seconds)} now, {format_seconds(best[-1])} with {tile}"
                )
    return found


def _chapters(out: Path) -> list[str]:
    chapters: dict[str, list[dict]] = {}
    planned = [name for line in lines.read(out / "run.jsonl") for name in line.get("chapters", ())]
    for line in lines.read(out / "chapters.jsonl"):
        chapters.setdefault(line["chapter"], []).append(line)
    found = []
    for name, its in chapters.items():
        failed = [line for line in its if "failed" in line]
        if failed:
            last = (failed[0]["failed"].strip().splitlines() or [""])[-1]
            found.append(f"- {name}: cell {failed[0]['cell']} failed: {last}")
        elif its[-1].get("ends"):
            pictures = sum(len(line.get("pictures", ())) for line in its)
            found.append(f"- {name}: {its[-1]['seconds']:.0f} s, {pictures} pictures kept")
        else:
            found.append(f"- {name}: {sum('cell' in line for line in its)} cells, not ended")
    if waiting := [name for name in dict.fromkeys(planned) if name not in chapters]:
        found.append(f"- had no turn: {', '.join(waiting)}")
    return ["Chapters:", *found] if found else []
