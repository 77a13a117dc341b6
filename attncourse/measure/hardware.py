"""The machine in words that a recorded measurement can carry."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path


class Machine(dict):
    """The facts of `machine()`; `str` gives them as one sentence."""

    def __str__(self) -> str:
        memory = f"{self['memory_bytes'] / 2**30:.0f} GiB" if self["memory_bytes"] else "unknown"
        versions = ", ".join(
            f"{name} {version}" for name, version in self["versions"].items() if version
        )
        return (
            f"{self['cpu']}, {self['cores']} cores, {memory} memory; "
            f"{self['gpu'] or 'no GPU'}; {self['system']}; {versions}"
        )


def machine() -> Machine:
    """Describe this machine in words that a recorded measurement can carry.

    Returns:
        cpu, cores (those this process may use), memory_bytes (None if unknown), gpu (None if
        there is none), driver (None without one), system, and versions of python, numpy, torch
        and triton (None if absent).
    """
    return Machine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        memory_bytes=_memory_bytes(),
        gpu=_gpu_name(),
        driver=output_of(
            "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"
        ).partition("\n")[0]
        or None,
        system=f"{platform.system()} {platform.machine()}",
        versions={"python": platform.python_version()}
        | {name: _version(name) for name in ("numpy", "torch", "triton")},
    )


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        return output_of("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _gpu_name() -> str | None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return names.splitlines()[0] if names else None


def output_of(*command: str) -> str:
    """Return what a program prints, or nothing where there is no such program."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
