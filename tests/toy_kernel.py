"""A kernel that doubles a vector, launched well and badly, for the tests of the judge."""

import torch
import triton
import triton.language as tl

BLOCK = 16


@triton.jit
def _double_kernel(
    x_ptr, out_ptr, n, MASKED: tl.constexpr, TIMES: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = (at < n) if MASKED else (at < n + BLOCK)
    x = tl.load(x_ptr + at, mask=inside, other=0.0)
    for _ in range(TIMES - 1):
        x = tl.load(x_ptr + at, mask=inside, other=0.0)
    tl.store(out_ptr + at, 2 * x, mask=at < n)


def launch(x, masked=True, times=1):
    out = torch.empty_like(x)
    grid = (triton.cdiv(len(x), BLOCK),)
    _double_kernel[grid](x, out, len(x), MASKED=masked, TIMES=times, BLOCK=BLOCK)
    return out


def doubled(x):
    return launch(x)


def unmasked(x):
    return launch(x, masked=False)


def loaded_twice(x):
    return launch(x, times=2)


def without_kernel(x):
    return 2 * x


def as_array(x):
    return launch(x).numpy()


def in_place(x):
    out = launch(x)
    x.zero_()
    return out


def wrong(x):
    return launch(x) + 1


@triton.jit
def _stub_kernel(x_ptr):
    raise NotImplementedError


def stub(x):
    _stub_kernel[(1,)](x)


def broken(x):
    return launch(x, times=None)
