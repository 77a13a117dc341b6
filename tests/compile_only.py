"""Compiles every kernel for GPUs that need not be here; prints one JSON object a line.

`python tests/compile_only.py 90` compiles for sm_90. TRITON_INTERPRET=0 must be set.
"""

import json
import re
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from attncourse import machine_code
from attncourse.kernels import (
    block_sparse,
    flash,
    full,
    kv_cache,
    linear,
    lsh,
    offsets,
    performer,
    pooled,
    random_keys,
    relative,
    scoring,
    synthesizer,
    t5,
    window,
)
from attncourse.kernels._parts import (
    block_sparse_backward,
    block_sparse_tiles,
    block_table,
    linear_backward,
    linear_tiles,
    pages,
    splits,
    tiles,
)
from attncourse.kernels._parts.tiles import padded, tiling

KERNELS = [
    tiles.delta_kernel,
    flash._flash_fwd_kernel,
    flash._flash_dkdv_kernel,
    flash._flash_dq_kernel,
    window._window_fwd_kernel,
    window._window_dkdv_kernel,
    window._window_dq_kernel,
    full._full_scores_kernel,
    full._full_softmax_kernel,
    full._full_product_kernel,
    linear._linear_sums_kernel,
    linear._linear_fwd_kernel,
    linear_backward._linear_dq_kernel,
    linear_backward._linear_dk_kernel,
    linear_backward._linear_dv_kernel,
    kv_cache._kv_cache_fwd_kernel,
    splits.merge_kernel,
    pages._paged_append_kernel,
    block_table._paged_fwd_kernel,
]
# of the approximations and variants, in fewer sizes
MORE = [
    performer._performer_features_kernel,
    pooled._pooled_likeness_kernel,
    pooled._pooled_tokens_kernel,
    pooled._pooled_fwd_kernel,
    synthesizer._synthesizer_fwd_kernel,
    relative._relative_fwd_kernel,
    t5._t5_fwd_kernel,
    scoring._scoring_project_kernel,
    scoring._scoring_fwd_kernel,
    lsh._lsh_round_kernel,
]
LINEAR_BACKWARD = [
    linear_backward._linear_dq_kernel,
    linear_backward._linear_dk_kernel,
    linear_backward._linear_dv_kernel,
]
LINEAR = [kernel for kernel in KERNELS if kernel.__name__.startswith("_linear")]
CACHES = [kv_cache._kv_cache_fwd_kernel, block_table._paged_fwd_kernel]
BLOCK_SPARSE = [
    block_sparse._block_sparse_fwd_kernel,
    block_sparse_backward._block_sparse_dkdv_kernel,
    block_sparse_backward._block_sparse_dq_kernel,
]
SPARSE_HELPERS = [
    block_sparse._block_sparse_join_kernel,
    block_sparse_backward._block_sparse_sum_kernel,
    random_keys._random_keys_fwd_kernel,
    offsets._offsets_fwd_kernel,
]
FLASH = [kernel for kernel in KERNELS if kernel.__name__.startswith("_flash")]
WINDOW = [kernel for kernel in KERNELS if kernel.__name__.startswith("_window")]
DTYPE_BYTES = {"fp16": 2, "bf16": 2, "fp32": 4}
INTEGERS = {
    "table_ptr": "*i32",
    "lengths_ptr": "*i32",
    "starts_ptr": "*i32",
    "items_ptr": "*i32",
    "entries_ptr": "*i32",
    "splits_ptr": "*i32",
    "drawn_ptr": "*i32",
    "steps_ptr": "*i32",
    "q_order_ptr": "*i32",
    "k_order_ptr": "*i32",
    "order_ptr": "*i32",
    "pictures_ptr": "*i64",
    "found_starts_ptr": "*i32",
    "found_places_ptr": "*i32",
    "q_sorted_ptr": "*i64",
    "k_sorted_ptr": "*i64",
}
FLOAT32 = {
    "lse_ptr",
    "shares_ptr",
    "shares_lse_ptr",
    "delta_ptr",
    "scores_ptr",
    "weights_ptr",
    "total_ptr",
    "sums_ptr",
    "norms_ptr",
    "part_ptr",
    "tops_ptr",
    "part_tops_ptr",
    "directions_ptr",
    "cosines_ptr",
    "hidden_ptr",
    "q_hidden_ptr",
    "k_hidden_ptr",
    "acc_ptr",
    "biases_ptr",
    "phi_ptr",
}  # whatever the inputs are
# of tensors that are not (batch, head, token, width) or the like
AXES = {
    "lse_strides": ("batch", "head", "token"),
    "delta_strides": ("batch", "head", "token"),
    "total_strides": ("batch", "head", "token"),
    "tops_strides": ("batch", "head", "token"),
    "part_tops_strides": ("batch", "head", "part"),
    "shares_lse_strides": ("batch", "head", "row"),
    "starts_strides": ("batch", "head", "run"),
    "cosines_strides": ("batch", "head", "pair"),
    "sums_strides": ("batch", "head", "part", "feature", "width"),
    "norms_strides": ("batch", "head", "part", "width"),
    "part_strides": ("split", "batch", "head", "token", "width"),
    "entries_strides": ("batch", "head"),
    "lengths_strides": ("sequence",),
    "drawn_strides": ("token", "number"),
    "biases_strides": ("head", "distance"),
    "directions_strides": ("direction", "width"),
    "relative_k_strides": ("distance", "width"),
    "relative_v_strides": ("distance", "width"),
    "w_strides": ("row", "width"),
}
ROWS = 1024  # of a group: as many as a tile holds


def of_performer(kernel, dtype, width, ones):
    BLOCK, BLOCK_D, options = performer._feature_tiling(width, DTYPE_BYTES[dtype])
    precision = "ieee" if dtype == "fp32" else "tf32x3"
    blocks = {"BLOCK": BLOCK, "BLOCK_D": BLOCK_D, "BLOCK_M": padded(width)}
    return blocks | {"POSITIVE": not ones, "PRECISION": precision}, options


def of_pooled(kernel, dtype, width, ones):
    _, _, options = tiling(width, DTYPE_BYTES[dtype])
    starts = {} if ones else {"starts_ptr": None}
    if kernel is pooled._pooled_fwd_kernel:
        return starts | {"CAUSAL": not ones}, options
    return {"BLOCK": pooled._runs_of(width), "KIND": "max" if ones else "learned"} | starts, {}


def of_synthesizer(kernel, dtype, width, ones):
    _, _, options = tiling(width, DTYPE_BYTES[dtype])
    if ones:  # logits are given
        return {"left_ptr": None, "right_ptr": None, "CAUSAL": False}, options
    return {"given_ptr": None, "CAUSAL": True}, options


def of_relative(kernel, dtype, width, ones):
    BLOCK_Q, BLOCK_K, SPAN, options = relative._tiling(width, DTYPE_BYTES[dtype])
    blocks = {"BLOCK_Q": BLOCK_Q, "BLOCK_K": BLOCK_K, "SPAN": SPAN}
    return blocks | {"CAUSAL": ones}, options  # not causal has a third stretch


def of_t5(kernel, dtype, width, ones):
    _, _, options = t5._tiling(width, DTYPE_BYTES[dtype])
    return {"CAUSAL": ones}, options  # not causal has a third stretch


def of_scoring(kernel, dtype, width, ones):
    if kernel is scoring._scoring_fwd_kernel:
        return {"CAUSAL": not ones}, scoring._tiling(width, DTYPE_BYTES[dtype])[2]
    BLOCK, BLOCK_H, options = scoring._project_tiling(width, 64, DTYPE_BYTES[dtype])
    return {"BLOCK": BLOCK, "BLOCK_H": BLOCK_H}, options


def of_lsh(kernel, dtype, width, ones):
    flags = {"FIRST": ones, "LAST": not ones, "CAUSAL": True, "EXCLUDE_SELF": True}
    BLOCK_Q, BLOCK_K, options = lsh._tiling(width, DTYPE_BYTES[dtype])
    return flags | {"BLOCK_Q": BLOCK_Q, "BLOCK_K": BLOCK_K}, options


def axes_of(kernel, strides):
    """The axes of a tensor whose strides a kernel is given; those of "width" are 1."""
    if strides == "lse_strides" and kernel in (*CACHES, splits.merge_kernel):
        return ("split", *AXES[strides])
    if strides == "bias_strides" and kernel is synthesizer._synthesizer_fwd_kernel:
        return ("token",)
    if strides == "vector_strides":
        return ("width",) if kernel is scoring._scoring_fwd_kernel else ("batch", "head", "width")
    return AXES.get(strides, ("batch", "head", "token", "width"))


def compiled(kernel, dtype, width, arch, *, ones=False, fading=False, backward=False):
    """Compile as a launch with contiguous tensors would.

    `ones`: as if each integer were 1; `fading`: linear attention's scan as Performer uses it;
    `backward`: the sums of its backward pass.
    """
    tiles.compute_capability = lambda: arch
    BLOCK_Q, BLOCK_K, options = tiling(width, DTYPE_BYTES[dtype])
    constants = {
        "D": width,
        "Dv": width,
        "BLOCK_D": padded(width),
        "BLOCK_DV": padded(width),
        "BLOCK_Q": BLOCK_Q,
        "BLOCK_K": BLOCK_K,
        "CAUSAL": ones,
        "BLOCK": BLOCK_K,
        "mask_ptr": None,
        "bias_ptr": None,
        "PAGE": 16,
    }
    if kernel is full._full_softmax_kernel:
        constants["BLOCK_K"], options = 4096, {}
    if kernel in FLASH:
        largest = 1024, 1024, width, DTYPE_BYTES[dtype]
        backward = kernel is not flash._flash_fwd_kernel
        BLOCK_Q, BLOCK_K, options = flash.tile_sizes(*largest, backward=backward)
        constants |= {"BLOCK_Q": BLOCK_Q, "BLOCK_K": BLOCK_K, "CAUSAL": True}  # the longer code
    if kernel in WINDOW:
        backward = kernel is not window._window_fwd_kernel
        sizes = window.tile_sizes(width, DTYPE_BYTES[dtype], backward=backward)
        constants["BLOCK_Q"], constants["BLOCK_K"], options = sizes
    if kernel in CACHES:
        BLOCK_R, BLOCK_K, options = splits.tile_sizes(ROWS, width, DTYPE_BYTES[dtype])
        constants |= {"BLOCK_R": BLOCK_R, "BLOCK_K": BLOCK_K, "CAUSAL": True}
    if kernel is splits.merge_kernel:
        constants["BLOCK_S"], options = splits.MAX_SPLITS, {"num_warps": 8}
    if kernel in SPARSE_HELPERS[2:]:
        constants["BLOCK_Q"], options = random_keys.queries_of_tile(width), {}
    if kernel in BLOCK_SPARSE:
        backward = kernel is not block_sparse._block_sparse_fwd_kernel
        options = block_sparse_tiles.launch_options(width, DTYPE_BYTES[dtype], backward=backward)
        if ones:  # tokens in their own order
            constants |= dict.fromkeys(("q_order_ptr", "k_order_ptr", "order_ptr"))
    if kernel in LINEAR:
        backward = backward or kernel in LINEAR_BACKWARD
        BLOCK, SLICE, options = linear_tiles.largest_block(
            width, DTYPE_BYTES[dtype], fading, backward=backward
        )
        if kernel is linear._linear_sums_kernel and not backward:
            constants |= {"total_ptr": None, "delta_ptr": None}
        constants |= {
            "BLOCK": BLOCK,
            "BLOCK_E": linear_tiles.slice_of_dv(SLICE, width, DTYPE_BYTES[dtype])
            if kernel is linear_backward._linear_dv_kernel
            else min(SLICE, padded(width)),
            "PART": 1024,
            "ELU": True,
            "PRECISION": "ieee" if dtype == "fp32" else "tf32",
            "CAUSAL": True,  # does all that the other form does
        }
        if not fading:
            constants |= {"tops_ptr": None, "part_tops_ptr": None}
    if kernel in MORE:
        own = globals()["of_" + kernel.__name__.split("_")[1]]
        more, options = own(kernel, dtype, width, ones)
        constants |= more
    signature, values, attributes = {}, {}, {}
    parameter_of = {parameter.name: parameter for parameter in kernel.params}
    for place, name in enumerate(parameter_of):
        if name in constants:
            signature[name], values[(place,)] = "constexpr", constants[name]
        elif name.endswith("_ptr"):
            wide = name in FLOAT32 or (fading and name in ("q_ptr", "k_ptr"))  # features
            other = "*fp32" if wide else f"*{dtype}"
            signature[name] = INTEGERS.get(name, other)
            attributes[(place,)] = [["tt.divisibility", 16]]
        elif name in ("scale", "factor"):
            signature[name] = "fp32"
        elif parameter_of[name].do_not_specialize:
            signature[name] = "i32"
        elif name.endswith("_strides"):
            axes = axes_of(kernel, name)
            signature[name] = tuple("constexpr" if ones or x == "width" else "i32" for x in axes)
            for number, kind in enumerate(signature[name]):
                if kind == "constexpr":  # a launch makes a constant of every 1
                    values[place, number] = 1
                else:
                    attributes[place, number] = [["tt.divisibility", 16]]
        elif ones:
            signature[name], values[(place,)] = "constexpr", 1
        else:
            signature[name] = "i32"
            if name.startswith("stride_"):
                attributes[(place,)] = [["tt.divisibility", 16]]
    return triton.compile(
        ASTSource(kernel, signature, values, attributes),
        target=GPUTarget("cuda", arch, 32),
        options=options,
    )


def report(kernel, dtype, width, arch, **how):
    binary = compiled(kernel, dtype, width, arch, **how)
    registers, stack = machine_code.of_a_thread(binary.asm["cubin"])
    return {
        "kernel": kernel.__name__,
        "dtype": dtype,
        "width": width,
        "registers": registers,
        # sin and cos keep 32 bytes for the multiples of 2π in huge angles
        "spilled_bytes": stack - 32 * ("math.sin" in binary.asm["ttir"]),
        "shared_bytes": binary.metadata.shared,
        "tensor_cores": bool(re.search(r"wgmma\.mma|mma\.sync", binary.asm["ptx"])),
        "has_dot": "tt.dot" in binary.asm["ttir"],
    }


if __name__ == "__main__":
    arch = int(sys.argv[1])
    # all classes of `tiling`; on the older chip those that come nearest to a spill
    widths = [("fp16", 64), ("bf16", 256), ("fp32", 128)]
    if arch >= 90:
        widths += [("fp16", 128), ("fp32", 64), ("fp32", 256)]
        for kernel in KERNELS + MORE:
            print(json.dumps(report(kernel, "fp16", 16, arch, ones=True)), flush=True)
    for dtype, width in widths:
        for kernel in KERNELS:
            if kernel not in LINEAR or (dtype, width) != ("fp32", 256):  # which spill: see `_block`
                print(json.dumps(report(kernel, dtype, width, arch)), flush=True)
                if kernel is linear._linear_sums_kernel:
                    how = {"backward": True}
                    print(json.dumps(report(kernel, dtype, width, arch, **how)), flush=True)
    # of the tiles that a measurement chose: on the older chip the one that it takes too
    chosen = [(window._window_fwd_kernel, 128)]
    if arch >= 90:  # a width that is no power of two spills more
        chosen = [(flash._flash_dkdv_kernel, 80), (linear._linear_fwd_kernel, 80)]
    for kernel, width in chosen:
        print(json.dumps(report(kernel, "fp16", width, arch)), flush=True)
    scans = [(linear._linear_sums_kernel, True), (linear._linear_fwd_kernel, True)]
    for dtype, width in [("bf16", 256)] + [("fp16", 64), ("fp32", 128)] * (arch >= 90):
        for kernel, fading in [(kernel, False) for kernel in MORE] + scans:
            # the former two spill in wide float32, the last comes nearest to it at 64
            narrow = fading or kernel in (relative._relative_fwd_kernel, t5._t5_fwd_kernel)
            at = min(width, 64) if narrow and dtype == "fp32" else width
            print(json.dumps(report(kernel, dtype, at, arch, fading=fading)), flush=True)
    # of all their classes those that come nearest to a spill
    for dtype, width in [("fp16", 64)] + [("fp32", 64), ("bf16", 256)] * (arch >= 90):
        for kernel in BLOCK_SPARSE:
            print(json.dumps(report(kernel, dtype, width, arch)), flush=True)
    if arch >= 90:
        for kernel in BLOCK_SPARSE:
            print(json.dumps(report(kernel, "fp16", 16, arch, ones=True)), flush=True)
        for kernel in SPARSE_HELPERS:
            print(json.dumps(report(kernel, "bf16", 256, arch)), flush=True)
