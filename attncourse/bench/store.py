"""Records as files: what begins one, how it is kept, and which is taken up again or shown."""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import attncourse
from attncourse import house, measure
from attncourse.bench import records
from attncourse.bench.settings import Setting
from attncourse.cost import this_cpu


def header(setting: Setting) -> dict[str, Any]:
    """Return a record without measurements: machine, code, date and setting."""
    settings = asdict(setting)
    if importlib.util.find_spec("torch") is not None:
        import torch

        settings["torch_threads"] = torch.get_num_threads()
    limits = {"limits": asdict(this_cpu())} if setting.device == "cpu" else {}
    return {
        "machine": dict(measure.machine()),
        "attncourse": attncourse.__version__,
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        # More than a fraction here means that others worked on the machine at the same time.
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "settings": settings,
        **limits,
        "complete": False,
        "measurements": [],
    }


def path_of(record: dict[str, Any], folder: Path) -> Path:
    """Return where a record lies in a folder: named after its device and date."""
    stamp = record["date"].replace(":", "").partition("+")[0]
    return folder / f"bench-{record['settings']['device']}-{stamp}.json"


def write(record: dict[str, Any], path: Path) -> Path:
    """Write a record in one step, so that there is never half a file."""
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return draft.replace(path)


def unfinished(setting: Setting, folder: Path) -> tuple[dict[str, Any] | None, Path | None]:
    """Return the newest record that this run would go on with: same code, machine and setting."""
    fresh = header(setting)
    same = ("machine", "attncourse", "commit", "settings")
    for path in sorted(folder.glob(f"bench-{setting.device}-*.json"), reverse=True):
        with contextlib.suppress(json.JSONDecodeError, KeyError):
            record = json.loads(path.read_text(encoding="utf-8"))
            plain = json.loads(json.dumps(fresh))  # as read: lists for tuples
            if not record["complete"] and all(record[key] == plain[key] for key in same):
                return record, path
    return None, None


def latest(
    device: str, folder: Path | None = None, *, mechanisms: Iterable[str] = (), **setting: Any
) -> dict[str, Any] | None:
    """Return the newest record in results/ that has what is asked for, or None.

    Ask for all that will be looked up: the newest may be of other heads or lengths than ours.

    Args:
        device: "cpu" or "gpu".
        folder: Where to look; if not given, the course's results/, and those here or above.
        mechanisms: Stems that must be timed, our implementation, in the setting.
        **setting: What these timings must have, such as heads=16; see `records.rows`.
    """
    folders = house.results() if folder is None else [folder]
    found = []
    for path in sorted(
        {file for place in folders for file in place.glob(f"bench-{device}-*.json")}
    ):
        with contextlib.suppress(json.JSONDecodeError):
            record = json.loads(path.read_text(encoding="utf-8"))
            if all(records.times(record, stem, **setting) for stem in mechanisms):
                found.append(record)
    return max(found, key=lambda record: record["date"], default=None)


def commit() -> str:
    """Return the commit of the package's own checkout, "+" if it has been changed, or "unknown"."""
    package = Path(attncourse.__file__).parent

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", *command], cwd=package, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # else it lies in another checkout
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
