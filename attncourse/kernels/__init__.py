"""Triton twins of the reference modules: the same names on torch tensors.

What they share is stated here, once; a kernel's docstring says what is special to it. The contract
is that of `attncourse.reference`, with the same names, order, kinds and defaults of arguments. Here

attention(q, k, v, *, <knobs>, causal=False, scale=None) -> out
    q is (B, H, Tq, D), k (B, H, Tk, D), v (B, H, Tk, Dv): float32, float16 or bfloat16 on one
    device, D and Dv from 1 to 256; grouped heads have four axes too. Outside of the interpreter the
    device must be a CUDA device. The interpreter computes bfloat16 wrongly, which is refused there.
    Strides are passed on, a tuple for each tensor: nothing has to be contiguous. Tensors that are
    knobs are on q's device and, if they enter a product, in its dtype.

    out is (B, H, Tq, Dv) in the dtype of q, on its device. A query that sees no key gets zeros.
    Sums are float32 and cast when they are stored; float32 is multiplied exactly, not as TF32.

    Gradients: of q, k and v, those that are asked for, and the first ones only. No kernel adds
        atomically, so each run gives the same bits. Where there are none, a tensor that requires a
        gradient is refused, except under `torch.no_grad()`.
    Memory: what a call allocates. Tiles live on chip. The bounds of the loops over them are the
        mechanism: a sparse kernel skips tiles, it does not mask them all.

cost(B, H, Tq, Tk, D, *, <knobs>, causal=False, dtype_bytes=4) -> Cost
    What the kernels do at Dv = D, tile by tile, in plain integers. FLOPs are those of whole tiles
    as they are multiplied: masked corners, rows beyond the end and a width padded to a power of two
    included. Traffic is each element that a program loads or stores, without help from a cache: a
    key tile is read once for each query tile. dtype_bytes decides the size of the tiles, too.
    `torch_cost` is the part of `cost` that is torch's: products with given matrices, hashing,
    sorting, copying.

More heads or sequences than the 65,535 of a CUDA grid are computed one part after the other, and
joined: then the output is held twice. `cost` counts the joining, `torch_cost` does not.

Errors are those of the reference. Besides, TypeError: no torch tensor, another dtype. ValueError:
other than four axes, devices that differ or run no kernel, a width above 256. Where `full` and the
caches find no room, torch.OutOfMemoryError says how many bytes were asked for, how many are free,
and what would fit.

Where no CUDA device is available the kernels run in Triton's interpreter, program by program on
the CPU. Triton decides that when it is first imported, so this package must come before it.

What is not finite in a query, a key or a value spoils the rows that it does in the references, and
no others, whatever the size of a tile; of a row that sees such a value at least those columns.
Gradients make no such promise: there it may spoil all rows of a tile.
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

if INTERPRETED:
    from attncourse.kernels._parts import interpreted

    interpreted.speed_up()
    interpreted.drop_nan()
