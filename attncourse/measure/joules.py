"""The energy of a call on a GPU, from NVIDIA's meters."""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from attncourse.measure.hardware import output_of
from attncourse.measure.tensors import cuda_in_use, device_of, devices_used, one_of


def energy(
    function: Callable[..., Any], *args: Any, at_least: float = 1.0, **kwargs: Any
) -> float | None:
    """Return the joules that one call takes on the GPU, idle power included, if the GPU tells.

    The call is repeated for a second, because the meter is slow. It is NVML's counter of energy if
    pynvml is installed, else the power that nvidia-smi reports, times the time.

    Args:
        function: What to run.
        *args: Its arguments.
        at_least: Seconds to repeat for.
        **kwargs: Its keyword arguments.

    Returns:
        Joules of one call, or None if it uses no CUDA tensors or there is no meter.
    """
    where = "measure.energy"
    call = functools.partial(function, *args, **kwargs)
    device = device_of(where, args, kwargs)
    if device is None and cuda_in_use():
        with devices_used() as devices:
            call()
        device = one_of(where, devices)
    if device is None or device.type != "cuda":
        return None
    cuda = sys.modules["torch"].cuda
    # NVML counts GPUs that torch may not see, so it is asked for this one by name.
    gpu = f"GPU-{cuda.get_device_properties(device).uuid}"
    read = _energy_meter(gpu)
    call()
    cuda.synchronize(device)
    start, calls, watts = time.perf_counter(), 0, []
    first = read() if read else None
    while (elapsed := time.perf_counter() - start) < at_least or not calls:
        call()
        calls += 1
        cuda.synchronize(device)
        if read is None and elapsed > len(watts) * at_least / 5:
            watts.append(_watts(gpu))
    if read:
        return (read() - first) / calls
    watts = [value for value in watts[1:] if value is not None]  # the first was still idle
    elapsed = time.perf_counter() - start
    return statistics.mean(watts) * elapsed / calls if watts else None


def _energy_meter(gpu: str) -> Callable[[], float] | None:
    """Return a function that reads joules since the driver was loaded, or None."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(gpu)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # not installed, no driver, or a GPU without the counter
        return None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3  # NVML's are mJ


def _watts(gpu: str) -> float | None:
    query = ("--query-gpu=power.draw", "--format=csv,noheader,nounits")
    text = output_of("nvidia-smi", f"--id={gpu}", *query)
    try:
        return float(text)
    except ValueError:  # "[N/A]", or no such program
        return None
