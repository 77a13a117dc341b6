"""Where the tensors of a call lie, without importing torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


def device_of(where: str, *values: Any) -> Any:
    """Return the device of the tensors in some values, None if there are none.

    Args:
        where: The function that asks.
        *values: Tensors in tuples, lists and dicts are found.

    Raises:
        NotImplementedError: They lie on more than one GPU.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    return one_of(where, (x.device for x in leaves(values) if isinstance(x, torch.Tensor)))


def one_of(where: str, devices: Iterable[Any]) -> Any:
    """Return the device to watch among some: a GPU before the CPU; None if there are none.

    Args:
        where: The function that asks.
        devices: Devices of tensors, as torch names them.

    Raises:
        NotImplementedError: There is more than one GPU among them.
    """
    found = {str(device): device for device in devices if device.type in ("cpu", "cuda")}
    gpus = sorted(name for name, device in found.items() if device.type == "cuda")
    if len(gpus) > 1:
        raise NotImplementedError(f"{where}: tensors must lie on one GPU, got {' and '.join(gpus)}")
    return found[gpus[0]] if gpus else found.get("cpu")


@contextmanager
def devices_used() -> Iterator[set]:
    """Collect the devices of all tensors that torch works on in a block, whoever holds them.

    Tensors reach a call in many ways: in a closure, a module, an object, or made by the call. Each
    of them passes through torch's dispatcher when it is used.
    """
    devices: set = set()
    torch = sys.modules.get("torch")
    if torch is None:
        yield devices
        return
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watching(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls):
            """Skip torch's compiler where it was used: else it would be loaded, for seconds."""
            return "torch._dynamo" in sys.modules

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            result = func(*args, **kwargs)
            for leaf in leaves((args, kwargs, result)):
                if isinstance(leaf, torch.Tensor):
                    devices.add(leaf.device)
            return result

    with Watching():
        yield devices


def cuda_in_use() -> Any:
    """Return `torch.cuda` if this process uses a GPU, else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def leaves(value: Any) -> Iterator[Any]:
    """Yield what lies in tuples, lists and dicts, however deep."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        yield value
        return
    for part in value:
        yield from leaves(part)
