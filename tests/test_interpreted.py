"""Triton's interpreter is made faster here, and must compute and say what it would without that."""

import os
import runpy
import subprocess
import sys

import pytest

pytest.importorskip("triton")

PROBE = """
import torch
import triton
import triton.language as tl

@triton.jit
def inner(x, n: tl.constexpr):
    return x * n

@triton.jit
def kernel(a_ptr, out_ptr, by, WHAT: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(a_ptr + i)
    if WHAT == "add":
        a = a + by
    elif WHAT == "sub":
        a = a - by
    elif WHAT == "mul":
        a = inner(a, 3) * by
    elif WHAT == "rank":
        a = tl.sum(a[:, None] * a[None, :].to(tl.float32), 0).to(a.dtype)
    elif WHAT == "shape":
        a = a[:, None] + tl.zeros((3, N), tl.int32)
    tl.store(out_ptr + i, a)

@triton.jit
def describe(NAMES: tl.constexpr):
    x = tl.zeros((4, 8), tl.float16)
    for value in (x, x[:, None, :], tl.sum(x, 0), tl.sum(tl.sum(x, 0), 0), x > 0, x.to(tl.int64)):
        kind = f"{value.type} {value.type.is_block()} {value.dtype}"
        NAMES.append(f"{kind} {value.shape} {value.numel}")

says = []
describe[(1,)](says)
for what in ("add", "sub", "mul", "rank", "shape"):
    for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.float32):
        for start, by in ((100, 20), (100, 100), (-100, 100), (2**30 - 1, 2**30), (0, -1)):
            if dtype.is_floating_point or torch.iinfo(dtype).min <= start <= torch.iinfo(dtype).max:
                a = torch.arange(8).to(dtype) + torch.tensor(start).to(dtype)
                out = torch.zeros_like(a)
                try:
                    kernel[(1,)](a, out, by, WHAT=what, N=8)
                    says.append((what, str(dtype), start, by, out.tolist()))
                except Exception as error:
                    says.append((what, str(dtype), start, by, repr(error)))
"""


def test_it_computes_and_refuses_what_plain_triton_does(tmp_path):
    from attncourse import kernels

    if not kernels.INTERPRETED:
        pytest.skip("kernels run on a GPU here")
    probe = tmp_path / "probe.py"
    probe.write_text(PROBE, encoding="utf-8")
    plain = subprocess.run(
        [sys.executable, "-c", f"import runpy; print(runpy.run_path({str(probe)!r})['says'])"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert plain.returncode == 0, plain.stderr
    said = runpy.run_path(str(probe))["says"]
    assert str(said) == plain.stdout.strip()
    assert "fp16" in said[0]
    assert any("power of 2" in str(line) for line in said)


def test_debugging_still_finds_an_overflow(tmp_path):
    from triton.runtime import interpreter

    from attncourse import kernels

    if not kernels.INTERPRETED:
        pytest.skip("kernels run on a GPU here")
    options = interpreter.interpreter_semantic.builder.options
    object.__setattr__(options, "debug", True)
    try:
        probe = tmp_path / "probe.py"
        probe.write_text(PROBE, encoding="utf-8")
        said = str(runpy.run_path(str(probe))["says"])
    finally:
        object.__setattr__(options, "debug", False)
    assert "int32 overflow detected for operation add" in said
