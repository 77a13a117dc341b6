"""Calls every launcher as a user does, on a machine without a GPU; prints what was compiled.

A launch hands its arguments to Triton, which compiles for what they are: a dtype, a multiple of
16, a 1. Here the GPU is pretended, and a kernel is compiled and not run. `python tests/launches.py`
tries each two of a mechanism's choices together, as far as Triton's front end, which reads the
language and the types; `python tests/launches.py all` compiles every combination to machine code.
TRITON_INTERPRET=0 must be set. Mechanisms may be named; else it is all of them.
"""

import json
import sys

import covering
import triton
from triton.backends.compiler import GPUTarget

from attncourse import MECHANISMS
from attncourse.kernels import offsets, synthesizer
from attncourse.kernels._parts import tiles

import torch  # isort: skip

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
HEADS = 4


class NoGPU:
    """What Triton asks of a driver before it launches; a chip's number is its capability."""

    chip = 90

    def get_current_device(self):
        return self.chip

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", self.chip, 32)


def front_end(src, target, options, **_):
    """Compile as far as Triton's own language goes: names, types, shapes."""
    backend = triton.compiler.make_backend(target)
    context = triton._C.libtriton.ir.context()
    triton._C.libtriton.ir.load_dialects(context)
    backend.load_dialects(context)
    options = backend.parse_options(dict(options))
    generators = backend.get_codegen_implementation(options)
    src.make_ir(target, options, generators, backend.get_module_map(), context)
    return src


def pretend(compiled, wholly):
    """From now on a launch compiles and no more; `compiled` gets the names of its kernels."""
    whole, run = triton.compiler.compile, triton.JITFunction.run
    triton.runtime.driver.set_active(NoGPU())
    tiles.runs_on = lambda device: True
    tiles.compute_capability = lambda: NoGPU.chip

    def compile_(src, **how):
        compiled.append(src.name)
        return (whole if wholly else front_end)(src, **how)

    triton.compiler.compile = compile_
    triton.JITFunction.run = lambda *args, warmup, **kwargs: run(*args, warmup=True, **kwargs)


def forms(stem):
    """What else decides how a mechanism is compiled, in words."""
    return {
        "full": ("plain", "mask and bias"),
        "window": ("plain", "dilated"),
        "longformer": ("plain", "dilated", "own projections"),
        "sparse_transformer": ("strided", "fixed"),
        "linear": ("elu", "other features"),
        "performer": ("positive", "trigonometric"),
        "pooled": ("mean", "max", "learned", "adaptive"),
        "synthesizer": ("dense", "biases", "random", "factorised"),
        "lsh": ("plain", "without itself", "one round"),
    }.get(stem, ("plain",))


def choices(mechanism):
    """The axes along which launches differ."""
    stem, has = mechanism.stem, mechanism.has
    modes = (
        ["forward"]
        + ["backward"] * ("backward" in has)
        + ["decode"] * (hasattr(mechanism.kernel, "step"))
    )
    return {
        "causal": (False, True) if mechanism.causal else (False,),
        "dtype": tuple(DTYPES),
        "width": (64, 16, 128, 256, 80),
        "mode": tuple(modes),
        "group": (1, 2, 4) if stem in ("grouped", "kv_cache", "paged") else (1,),
        "form": forms(stem),
        "n": (512, 100, 1),
        "chip": (90, 80) if stem in ("flash", "grouped", "linear") else (90,),  # by which tiles go
    }


def keywords(mechanism, form, q, k, v):
    """The knobs of one call."""
    (_, H, Tq, D), (Tk, Dv) = q.shape, v.shape[2:]
    values = mechanism.values
    if mechanism.stem == "performer":
        values["n_features"] = {64: 64, 16: 16}.get(D, 128)
        values["features"] = form
    knobs = mechanism.tensors(Tq, Tk, D, Dv, q, **values)
    if form == "mask and bias":
        mask = torch.ones(Tq, Tk, dtype=torch.bool)
        knobs |= {"mask": mask, "bias": q.new_zeros(H, 1, Tk)}
    elif form == "dilated":
        knobs["dilation"] = 3
    elif form == "own projections":
        knobs |= {"q_global": q, "k_global": k, "v_global": v}
    elif form == "other features":
        knobs["feature_map"] = torch.exp
    elif mechanism.stem == "sparse_transformer":
        knobs["pattern"] = form
    elif mechanism.stem == "pooled":
        knobs |= {"kind": form} | ({"pooling_vector": q[0, 0, 0]} if form == "learned" else {})
    elif form == "biases":
        hidden = values["hidden"]
        layers = q.new_ones(D, hidden), q.new_ones(hidden, Tk)
        biases = {"first_bias": q.new_ones(hidden), "second_bias": q.new_ones(Tk)}
        knobs["logits"] = synthesizer.dense(*layers, **biases)
    elif form == "random":
        knobs["logits"] = synthesizer.random(q.new_ones(Tq, Tk))
    elif form == "factorised":
        knobs["logits"] = synthesizer.factorised(q.new_ones(Tq, 32), q.new_ones(Tk, 32))
    elif form == "without itself":
        knobs["exclude_self"] = True
    elif form == "one round":
        knobs["n_rounds"] = 1
    return knobs


def launch(mechanism, causal, dtype, width, mode, group, form, n, chip):
    """Call as a user does: attention, its gradient, or prefill and two steps of generation."""
    torch.manual_seed(0)
    NoGPU.chip = chip
    kernel, value_width = mechanism.kernel, 48 if width == 80 else width
    shapes = (HEADS, n, width), (HEADS // group, n, width), (HEADS // group, n, value_width)
    q, k, v = (torch.randn(2, *shape, dtype=DTYPES[dtype]) for shape in shapes)
    if mode == "decode":
        knobs = {"page": 16} if mechanism.stem == "paged" else {}
        state = kernel.start(k, v, **knobs)
        for tokens in (slice(0, n - 2), slice(n - 2, n - 1), slice(n - 1, n)):
            new = (x[:, :, tokens] for x in (q, k, v))
            _, state = kernel.step(state, *new)
        return
    knobs = keywords(mechanism, form, q, k, v)
    if mode == "backward":
        q, k, v = (x.requires_grad_() for x in (q, k, v))
    out = kernel.attention(q, k, v, causal=causal, **knobs)
    if mode == "backward":
        out.backward(torch.randn_like(out))


def launch_offsets():
    """The one twin that is a variant of another mechanism."""
    for dtype in DTYPES.values():
        q = torch.randn(1, 2, 100, 64, dtype=dtype)
        offsets.attention(q, q, q, offsets=(1, 2, 4))


def cases(mechanism, every):
    """Yield what to call: each two choices together, or every combination of them."""
    axes = choices(mechanism)
    lengths = axes["n"]
    rows = covering.product(**axes | {"n": lengths[:1]}) if every else covering.pairwise(**axes)
    for number, case in enumerate(rows):
        if case["causal"] and case["form"] == "adaptive":  # refused
            case["form"] = "mean"
        yield case | ({"n": lengths[number % len(lengths)]} if every else {})


def compiled_while_decoding(compiled):
    """Generate 40 tokens with each cache; return how many kernels each step compiled."""
    counts = {}
    for stem, knobs in (("kv_cache", {"capacity": 40}), ("paged", {"page": 8, "n_pages": 5})):
        kernel = MECHANISMS[stem].kernel
        q, k, v = (torch.zeros(1, HEADS, 40, 64, dtype=torch.float16) for _ in range(3))
        state, counts[stem] = kernel.start(k, v, **knobs), []
        for token in range(40):
            before = len(compiled)
            kernel.step(state, *(x[:, :, token : token + 1] for x in (q, k, v)))
            counts[stem].append(len(compiled) - before)
    return counts


if __name__ == "__main__":
    every = "all" in sys.argv[1:2]
    compiled: list[str] = []
    pretend(compiled, wholly=every)
    if "decode" in sys.argv[1:2]:
        print(json.dumps(compiled_while_decoding(compiled)))
        sys.exit()
    for mechanism in MECHANISMS.values():
        if "kernel" in mechanism.has and mechanism.stem in (sys.argv[2:] or MECHANISMS):
            for case in cases(mechanism, every):
                try:
                    launch(mechanism, **case)
                except Exception:
                    print(mechanism.stem, case, file=sys.stderr)
                    raise
    launch_offsets()
    print(json.dumps(sorted(compiled)))
