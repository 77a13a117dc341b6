"""torch and Triton for exercise notebooks, and stand-ins where Triton is missing.

With the stand-ins a cell that defines a kernel runs; its check says "not verified here".
"""

try:
    import attncourse.kernels  # noqa: F401, I001  before Triton: it switches the interpreter on
    import torch
    import triton
    import triton.language as tl
except ImportError:
    from types import SimpleNamespace

    torch = None
    triton = SimpleNamespace(jit=lambda function: function)
    tl = SimpleNamespace(constexpr=int)

__all__ = ["tl", "torch", "triton"]
