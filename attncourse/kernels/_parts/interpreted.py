"""Makes Triton's interpreter faster.

At each launch it replaces all functions of `triton.language`, and puts them back at the end. It
does so again at each call of one jitted function by another, which changes nothing and takes a
fifth to a half of a kernel's time. And at each operation it builds a table of NumPy's types.
"""

import functools

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def speed_up() -> None:
    """Patch once a launch, in releases of Triton that put back, and look each type up once."""
    if not all(map(interpreter.__dict__.get, ("_get_np_dtype", "_patch_lang", "_LangPatchScope"))):
        return
    of_scalar = functools.cache(interpreter._get_np_dtype)
    interpreter._get_np_dtype = lambda dtype: (
        np.dtype(np.uint64) if dtype.scalar.is_ptr() else of_scalar(dtype.scalar)
    )
    patch = interpreter._patch_lang
    patched: set[int] = set()  # wholly; a launch may be interrupted while it replaces functions

    def patch_unless_patched(fn):
        mine = {id(value) for value in fn.__globals__.values()} & {id(tl), id(tl.core)}
        if {id(tl), *mine} <= patched:
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
