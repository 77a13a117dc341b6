"""What the tests of the kernels share: inputs on the device, the definition, the tolerance."""

import covering
import pytest

from attncourse.kernels import INTERPRETED

import torch  # isort: skip

DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * (not INTERPRETED)


EVERYTHING = covering.NIGHTLY or not INTERPRETED  # a GPU is quick


def each_dtype(cases):
    """Parametrize over (case, dtype): by day in the interpreter one dtype a case, else all."""
    pairs = [(case, dtype) for case in cases for dtype in DTYPES]
    if not EVERYTHING:  # float32 and float16 by turns
        pairs = [(case, DTYPES[number % 2]) for number, case in enumerate(cases)]
    return pytest.mark.parametrize(("case", "dtype"), pairs, ids=str)


def each(**axes):
    """Parametrize over every combination of values, by day in the interpreter over pairs."""
    rows = (covering.product if EVERYTHING else covering.pairwise)(**axes)
    return pytest.mark.parametrize(tuple(axes), [tuple(row.values()) for row in rows], ids=str)


# by day the layout in which no stride is that of whole tensors
each_layout = pytest.mark.parametrize(
    "layout", ["rows padded", "(B, T, H, D)", "transposed"] if EVERYTHING else ["transposed"]
)


def tensors(Tq, Tk, D, Dv=None, *, heads=1, batch=1, dtype=torch.float32, seed=0, grad=False):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((Tq, D), (Tk, D), (Tk, Dv or D))
    return [
        torch.randn(batch, heads, *shape, generator=generator)
        .to(DEVICE, dtype)
        .requires_grad_(grad)
        for shape in shapes
    ]


def definition(q, k, v, mask, scale=None, bias=0.0):
    """Masked softmax attention in the dtype of q; rows without keys give zeros."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = (q @ k.mT * scale + bias).masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1).masked_fill(~mask, 0.0)
    return weights @ v


def gradients(q, k, v, mask, grad_out):
    """dq, dk, dv by the formulas of the kernel, on whole matrices: it loses what they lose."""
    scale = q.shape[-1] ** -0.5
    weights = (q @ k.mT * scale).masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0.0)
    delta = (weights @ v * grad_out).sum(-1, keepdim=True)
    dscores = weights * (grad_out @ v.mT - delta) * scale
    return dscores @ k, dscores.mT @ q, weights.mT @ grad_out


def close(mine, dtype, exact, single, roundings=1):
    """Within twice what float32 loses against float64, and a rounding of the result.

    Where what lies between is rounded to the dtype too, there are more `roundings` than one.
    """
    assert mine.dtype == dtype and mine.shape == exact.shape
    if exact.numel():
        error, work = ((run.to(exact) - exact).abs().max().item() for run in (mine, single))
        size = max(1.0, exact.abs().max().item())
        allowed = 2 * (work + roundings * torch.finfo(dtype).eps * size)
        assert error <= allowed, (error, allowed)


def equals_reference(kernel, reference, *inputs, roundings=1, **knobs):
    """The kernel's output is that of the NumPy reference in float64, as far as `close` asks."""
    runs = []
    for work in (torch.float64, torch.float32):
        arrays = [tensor.to(work).cpu().numpy() for tensor in inputs]
        given = {
            name: x.to(work).cpu().numpy() if isinstance(x, torch.Tensor) else x
            for name, x in knobs.items()
        }
        runs.append(torch.from_numpy(reference.attention(*arrays, **given)).to(DEVICE))
    out = kernel.attention(*inputs, **knobs)
    close(out, inputs[0].dtype, *runs, roundings=roundings)
    return out


def far_apart():
    """q, k and v (1, 1, 66, 16) on the GPU, their tokens 2²⁵ numbers apart: past 2³¹ in the end."""
    room = torch.empty(66 * 2**25, dtype=torch.float16, device="cuda")
    places = (room.as_strided((1, 1, 66, 16), (1, 1, 2**25, 1), start * 16) for start in range(3))
    return [tensor.normal_() for tensor in places]


def peak_of(function, *args, **kwargs):
    """The most bytes that a call holds on the GPU beyond what was there, once all is compiled."""
    function(*args, **kwargs)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function(*args, **kwargs)
    return torch.cuda.max_memory_allocated() - before


def with_nan_margins(tensor, layout):
    """The same values as a view into a larger tensor of NaN."""
    B, H, T, D = tensor.shape
    if layout == "rows padded":
        room = torch.full((B, H, T + 3, D + 5), torch.nan, dtype=tensor.dtype, device=DEVICE)
        view = room[:, :, 1 : T + 1, 2 : D + 2]
    elif layout == "(B, T, H, D)":
        room = torch.full((B, T + 2, H, D), torch.nan, dtype=tensor.dtype, device=DEVICE)
        view = room[:, 1:-1].transpose(1, 2)
    else:  # every second token, width not contiguous
        room = torch.full((B, H, D, 2 * T), torch.nan, dtype=tensor.dtype, device=DEVICE)
        view = room[..., ::2].mT
    with torch.no_grad():
        view.copy_(tensor)
    return view
