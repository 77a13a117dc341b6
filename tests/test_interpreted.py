"""Triton's interpreter is made faster here, and must compute and say what it would without that."""

import os
import runpy
import subprocess
import sys

import pytest

pytest.importorskip("triton")

PROBE = """
import runpy
import types
from pathlib import Path

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

@triton.jit
def of_shape(out_ptr, n, WHAT: tl.constexpr):
    if WHAT == "runtime":
        x = tl.make_tensor_descriptor(out_ptr, [8, 8], [8, 1], [n, 8]).load([0, 0])
    elif WHAT == "int":
        x = tl.full((1, 8), 3.0, tl.float32)
    elif WHAT == "bool":
        x = tl.full((True, 8), 3.0, tl.float32)
    tl.store(out_ptr + tl.arange(0, 8), tl.sum(x, 0))

# A module that sees a function of triton.language, and not the language.
path = Path(__file__).with_name("unseen.py")
path.write_text('''
import triton
from triton.language import sum

@triton.jit
def helper(x):
    return sum(x, 0)
''')
unseen = types.SimpleNamespace(**runpy.run_path(str(path)))

@triton.jit
def calls_unseen(out_ptr):
    tl.store(out_ptr, unseen.helper(tl.load(out_ptr + tl.arange(0, 8))))

says = []
describe[(1,)](says)

def say(do, *given, **named):
    try:
        says.append((given, named, str(do(*given, **named))))
    except Exception as error:
        while error.__cause__:
            error = error.__cause__
        says.append((given, named, repr(error)))

def shaped(n, what):
    out = torch.zeros(64)
    of_shape[(1,)](out, n, WHAT=what)
    return out.tolist()

for what in ("int", "bool", "runtime", "bool", "int"):
    say(shaped, 8, what)
for shape in ([4], (4,), tl.tuple([4]), [], 4, "ab", [[4]], [True], [4.0], [tl.constexpr(8)]):
    say(tl.block_type, tl.int8, shape)
say(lambda: tl.block_type(tl.int8, iter([4])))
say(tl.tensor, None, None)
say(lambda: tl.tensor(None, tl.block_type(tl.int8, [True])).shape)
say(lambda: calls_unseen[(1,)](torch.ones(8)))
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
    for message in ("constexpr[int]", "triton.language must be visible", "forbidden"):
        assert any(message in str(line) for line in said), message
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
