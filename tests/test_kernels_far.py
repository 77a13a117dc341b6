"""For every kernel: tensors whose elements lie further apart than 32 bits reach, on each axis."""

import mmap
import zlib

import pytest

pytest.importorskip("triton")

import covering

from attncourse import MECHANISMS
from attncourse.kernels import INTERPRETED

import torch  # isort: skip

KERNELS = [stem for stem, mechanism in MECHANISMS.items() if "kernel" in mechanism.has]
SHAPE = 1, 3, 34, 16  # (B, H, T, D)
# The strides of (H, T, D), in elements: the last index of an axis leaves 32 bits behind.
STRIDES = {"heads": (2**30 + 1, 4096, 1), "tokens": (16, 2**26, 1), "columns": (1, 4, 2**28)}


def far_apart(axis, count=3):
    """So many tensors with the strides of `STRIDES`, in one room that is never filled."""
    heads, tokens, columns = STRIDES[axis]
    first = 2**31 if INTERPRETED else 0  # what wraps lands on zeros, not outside
    most = first + 1 + 2 * heads + 33 * tokens + 15 * columns + 4096
    if INTERPRETED:  # address space, of which only what is touched takes memory
        no_reserve = 0x4000  # MAP_NORESERVE, which Python 3.11 does not name
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
        room = torch.frombuffer(mmap.mmap(-1, 2 * most, flags=flags), dtype=torch.float16)
    else:
        room = torch.empty(most, dtype=torch.float16, device="cuda")
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        given = room.as_strided(SHAPE, (1, heads, tokens, columns), first + 1024 * number)
        yield given.copy_(torch.randn(SHAPE, generator=generator))


def few(stem):
    """By day each kernel has one axis, by turns; at night all."""
    return list(STRIDES) if covering.NIGHTLY else [list(STRIDES)[zlib.crc32(stem.encode()) % 3]]


@pytest.mark.parametrize("stem", KERNELS)
def test_elements_beyond_32_bits(stem):
    mechanism = MECHANISMS[stem]
    for axis in few(stem):
        far = list(far_apart(axis))
        assert 2**31 < max((n - 1) * step for n, step in zip(SHAPE, far[0].stride(), strict=True))
        knobs = mechanism.tensors(34, 34, 16, 16, far[0], **mechanism.values)
        near = [x.contiguous() for x in far]
        outs = [mechanism.kernel.attention(*inputs, **knobs) for inputs in (far, near)]
        assert torch.equal(*outs)


@pytest.mark.parametrize("stem", KERNELS)
def test_gradients_beyond_32_bits(stem):
    mechanism = MECHANISMS[stem]
    if "backward" not in mechanism.has:
        pytest.skip("it has no backward pass")
    for axis in few(stem + " backward"):
        *far, grad_far = far_apart(axis, 4)
        knobs = mechanism.tensors(34, 34, 16, 16, far[0], **mechanism.values)
        results = []
        for *inputs, grad_out in ([*far, grad_far], [x.contiguous() for x in (*far, grad_far)]):
            inputs = [x.requires_grad_() for x in inputs]
            out = mechanism.kernel.attention(*inputs, **knobs)
            results.append(torch.autograd.grad(out, inputs, grad_out))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
