"""Wheels of what a bare machine lacks: packed where there is a network, installed where not.

They are installed into a folder of the run's own. The machine's environment stays as it is, and of
what it has its own version is taken.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

from attncourse import house

JUPYTER = ("nbclient", "nbformat", "ipykernel", "ipywidgets", "matplotlib", "seaborn")
PACKED = (*JUPYTER, "hypothesis")  # which the conformance tests need
THERE = ("numpy",)  # is on the machine, and is large
# What a Linux of 2019 or later can load; each name covers only its own wheels.
PLATFORMS = tuple(
    f"manylinux{version}_x86_64" for version in ("_2_28", "_2_27", "_2_24", "_2_17", "2014", "1")
)


def pack(folder: Path, python: str) -> str:
    """Download the wheels that a machine with torch, triton, numpy and pytest lacks.

    Args:
        folder: Where they go; made if need be.
        python: The machine's version of Python, such as "3.12".

    Returns:
        How many there are, and their size.

    Raises:
        subprocess.CalledProcessError: pip found no such wheels, or no network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        *("download", "--quiet", "--dest", str(folder), "--only-binary=:all:"),
        *("--implementation", "cp", "--python-version", python),
        *(word for platform in PLATFORMS for word in ("--platform", platform)),
        *("--constraint", str(house.material() / "constraints.txt")),
    ]
    _pip(*command, *PACKED)
    for name in THERE:
        for wheel in folder.glob(f"{name}-*.whl"):
            wheel.unlink()
    wheels = list(folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels)
    return f"{folder}: {len(wheels)} wheels for Python {python}, {size / 2**20:.0f} MiB"


def install(folder: Path, into: Path) -> str:
    """Install of a folder's wheels what is not here, for this process and those that it starts.

    Args:
        folder: As `pack` leaves it.
        into: A folder of the run's.

    Returns:
        What was done, or why nothing was.
    """
    if not folder.is_dir():
        return (
            f"there is no folder of wheels {folder}, which `attncourse gpu-run --pack {folder}` "
            "makes where there is a network"
        )
    names = sorted({wheel.name.split("-")[0] for wheel in folder.glob("*.whl")})
    lacking = [name for name in names if not _is_here(name)]
    if not lacking:
        return f"{folder} holds nothing that is lacking here"
    try:
        _pip(
            *("install", "--quiet", "--no-index", "--find-links", str(folder), "--no-deps"),
            *("--no-compile", "--upgrade", "--target", str(into), *lacking),
        )
    except subprocess.CalledProcessError as error:
        return f"the wheels of {folder} do not fit here: {error.stderr.strip()[-300:]}"
    sys.path.append(str(into))
    importlib.invalidate_caches()
    before = filter(None, [os.environ.get("PYTHONPATH")])
    os.environ["PYTHONPATH"] = os.pathsep.join([*before, str(into)])
    return f"{len(lacking)} packages of {folder} are installed in {into}"


def _is_here(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, text=True, stderr=subprocess.PIPE)
