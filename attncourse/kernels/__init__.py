"""Triton twins of the reference modules: the same names, the same signatures, torch tensors.

Where no CUDA device is available the kernels run in Triton's interpreter, program by program on
the CPU. Triton decides that when it is first imported, so this package must come before it.

A query that is not finite and a NaN in a key spoil the rows that they do in the references. A value
must be finite: else 0 · NaN spoils rows of its tile that may not attend to it, unless k and v go
through `_parts.tiles.nan_to_keys` first, after which the rule is the references'.
"""

import importlib.util
import os

if importlib.util.find_spec("triton") is None:
    raise ImportError(
        "attncourse.kernels needs Triton, and Triton is made for Linux only. On macOS and Windows "
        "use attncourse.reference, or run the course in a Linux container or WSL; on Linux: "
        "pip install triton",
        name="triton",
    )

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import triton  # after the line above: this import reads the variable

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""True where kernels run in Triton's interpreter instead of on a GPU."""

if INTERPRETED and isinstance(triton.language.sum, triton.JITFunction):
    raise ImportError(
        "attncourse.kernels: triton was imported before TRITON_INTERPRET=1 was set, so that its "
        "interpreter is switched off in this process. Import attncourse.kernels first, or set "
        "TRITON_INTERPRET=1 before Python starts, then restart the kernel"
    )
