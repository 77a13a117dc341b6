"""Makes Triton's interpreter faster, and treat NaN as a GPU does; nothing else changes.

The interpreter spends its time beside NumPy: at each launch it replaces all functions of
`triton.language`, and again at each call of one jitted function by another; at each operation it
builds a table of NumPy's types and describes the result's shape anew; and it looks whether a sum or
product of integers overflows, by eight operations more, and drops the answer unless one debugs.
Here each is done once, or not for nothing.

A GPU's minimum and maximum of NaN and a number are the number, NumPy's are NaN.
"""

import functools

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def speed_up() -> None:
    """Replace the slow parts, in releases of Triton that have them as they are known here."""
    if not all(map(interpreter.__dict__.get, ("_get_np_dtype", "_patch_lang", "_LangPatchScope"))):
        return
    of_scalar = functools.cache(interpreter._get_np_dtype)
    interpreter._get_np_dtype = lambda dtype: (
        np.dtype(np.uint64) if dtype.scalar.is_ptr() else of_scalar(dtype.scalar)
    )
    _patch_once_a_launch()
    _describe_shapes_once()
    _look_for_overflow_in_debugging_only()


def drop_nan() -> None:
    """Let the smaller and the larger of NaN and a number be the number, unless asked otherwise."""
    for name, of_two in (("create_minnumf", np.fmin), ("create_maxnumf", np.fmax)):
        setattr(
            interpreter.InterpreterBuilder,
            name,
            lambda self, lhs, rhs, of_two=of_two: self.binary_op(lhs, rhs, of_two),
        )


def _patch_once_a_launch() -> None:
    patch = interpreter._patch_lang
    patched: set[int] = set()  # wholly; a launch may be interrupted while it replaces functions

    def patch_unless_patched(fn):
        mine = {id(value) for value in fn.__globals__.values()} & {id(tl), id(tl.core)}
        if mine and {id(tl), *mine} <= patched:
            return interpreter._LangPatchScope()  # nothing to put back
        scope = patch(fn)
        put_back = scope.restore

        def restore():
            patched.difference_update(mine)
            put_back()

        scope.restore = restore
        patched.update(mine)
        return scope

    interpreter._patch_lang = patch_unless_patched


def _describe_shapes_once() -> None:
    """Keep what follows from a block's shape, if it is just what Triton would make."""
    make_type, make_tensor = tl.block_type.__init__, tl.tensor.__init__

    @functools.cache
    def of_type(shape):
        made = object.__new__(tl.block_type)
        make_type(made, tl.int32, list(shape))
        return {"shape": made.shape, "numel": made.numel}, made.name.removesuffix(f"{tl.int32}>")

    @functools.cache
    def of_tensor(shape):
        made = object.__new__(tl.tensor)
        make_tensor(made, None, tl.block_type(tl.int32, list(shape)) if shape else tl.int32)
        return {"shape": made.shape, "numel": made.numel}

    # True, which equals 1, or a number that is known at run time only may stand for no size.
    def are_sizes(shape):
        return {*map(type, shape)} <= {int}

    def block_type(self, element_ty, shape):
        sizes = ()
        if isinstance(shape, list | tl.core.tuple):
            sizes = tuple(map(tl.core._unwrap_if_constexpr, shape))
        if not sizes or not are_sizes(sizes):
            return make_type(self, element_ty, shape)
        known, name = of_type(sizes)
        vars(self).update(known, element_ty=element_ty, name=f"{name}{element_ty}>")

    def tensor(self, handle, type):
        shape = type.shape if isinstance(type, tl.block_type) else ()
        if not isinstance(type, tl.dtype) or not are_sizes(shape):
            return make_tensor(self, handle, type)
        vars(self).update(of_tensor(shape), handle=handle, type=type, dtype=type.scalar)

    tl.block_type.__init__, tl.tensor.__init__ = block_type, tensor


def _look_for_overflow_in_debugging_only() -> None:
    semantic = interpreter.interpreter_semantic
    look = semantic.binary_op_sanitize_overflow_impl

    def look_in_debugging(lhs, rhs, binary_op):
        if semantic.builder.options.debug:
            look(lhs, rhs, binary_op)

    semantic.binary_op_sanitize_overflow_impl = look_in_debugging
