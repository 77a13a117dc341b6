"""Asks torch and Triton what they can do here. `doctor` runs this as a process of its own.

It prints one JSON object: the GPU's name or null, the CUDA or HIP version that torch was built for
or null, what torch warns of when it looks for a GPU, and for each dtype the largest error of a
tiled matrix product in Triton's interpreter, relative to the largest entry, or the exception it
raised. The loop runs to a bound that is an argument, as the course's kernels do: that is what
breaks with Triton 3.6 and NumPy 2.4.
"""

from __future__ import annotations

import json
import os
import warnings

os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

import torch
import triton
import triton.language as tl


@triton.jit
def _product_kernel(a_ptr, b_ptr, out_ptr, n, BLOCK: tl.constexpr):
    rows = tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, n, BLOCK):
        inner = start + rows
        a = tl.load(a_ptr + rows[:, None] * n + inner[None, :])  # [BLOCK, BLOCK]
        b = tl.load(b_ptr + inner[:, None] * BLOCK + rows[None, :])  # [BLOCK, BLOCK]
        acc = tl.dot(a, b, acc)
    tl.store(out_ptr + rows[:, None] * BLOCK + rows[None, :], acc)


def error(dtype: torch.dtype, n: int = 64, block: int = 16) -> float | str:
    """Return the relative error of an (block, n) by (n, block) product, or what was raised."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(block, n, generator=generator).to(dtype)
    b = torch.randn(n, block, generator=generator).to(dtype)
    out = torch.full((block, block), float("nan"))
    try:
        _product_kernel[(1,)](a, b, out, n, BLOCK=block)
    except Exception as raised:  # whatever it is, it is the finding
        return f"{type(raised).__name__}: {str(raised).splitlines()[-1]}"
    expected = a.double() @ b.double()
    return float((out.double() - expected).abs().max() / expected.abs().max())


def main() -> None:
    """Print the findings."""
    gpu = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            device = torch.cuda.get_device_properties(0)
            gpu = f"{device.name}, {device.total_memory / 2**30:.0f} GiB"
    findings = {
        "gpu": gpu,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "warnings": [str(warning.message).strip() for warning in caught],
    }
    errors = {name: error(getattr(torch, name)) for name in ("float32", "float16", "bfloat16")}
    print(json.dumps(findings | {"errors": errors}))


if __name__ == "__main__":
    main()
