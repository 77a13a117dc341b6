"""What the tests of the kernels share: inputs on the device, the definition, the tolerance."""

from attncourse.kernels import INTERPRETED

import torch  # isort: skip

DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * (not INTERPRETED)


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


def close(mine, dtype, exact, single):
    """Within twice what float32 loses against float64, and one rounding of the result."""
    assert mine.dtype == dtype and mine.shape == exact.shape
    if exact.numel():
        error, work = ((run.to(exact) - exact).abs().max().item() for run in (mine, single))
        size = max(1.0, exact.abs().max().item())
        allowed = 2 * (work + torch.finfo(dtype).eps * size)
        assert error <= allowed, (error, allowed)


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
