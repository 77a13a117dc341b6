"""The comments that say a tile's shape, held against what the interpreter computes."""

import collections
import inspect
import pathlib
import re
import sys

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("Triton has no wheels for this platform", allow_module_level=True)

from attncourse import MECHANISMS, kernels
from attncourse.inputs import random_qkv

import torch  # isort: skip

if not kernels.INTERPRETED:
    pytest.skip("a kernel is followed line by line in the interpreter", allow_module_level=True)

COMMENT = re.compile(r"\s*(\w+)(?:, \w+)* [-+*/]?= .*  # \[([\w, ]+)\]$")
FOLDER = pathlib.Path(kernels.__file__).parent
STATED = {
    (str(path), number): (match[1], match[2].split(", "))
    for path in FOLDER.rglob("*.py")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    if (match := COMMENT.match(line))
}
WIDTHS = {"width": 200, "value_width": 100}  # at which all four sides of a tile differ


class Follower:
    """Compares the shape of each commented name, as soon as its line is done, with its comment."""

    def __init__(self, stated):
        self.stated, self.waiting, self.seen, self.wrong = stated, {}, set(), set()

    def __call__(self, frame, event, _):
        file = frame.f_code.co_filename
        if not file.startswith(str(FOLDER)):
            return None
        if place := self.waiting.pop(frame, None):
            self.compare(place, frame)
        place = file, frame.f_lineno
        if event == "line" and place in self.stated:
            self.waiting[frame] = place
        return self

    def compare(self, place, frame):
        name, sides = self.stated[place]
        names = collections.ChainMap(frame.f_locals, frame.f_globals)
        if not hasattr(names[name], "shape") or not all(side in names for side in sides):
            return  # a helper that does not know the names of its caller
        shape, expected = (
            [getattr(side, "value", side) for side in sizes]
            for sizes in (names[name].shape, [names[side] for side in sides])
        )
        self.seen.add(place)
        if shape != expected:
            self.wrong.add((*place, name, *shape))


def follow(stated, call):
    follower, before = Follower(stated), sys.gettrace()
    sys.settrace(follower)
    try:
        call()
    finally:
        sys.settrace(before)
    return follower


TWINS = [mechanism for mechanism in MECHANISMS.values() if "kernel" in mechanism.has]


@pytest.mark.parametrize("mechanism", TWINS, ids=[mechanism.stem for mechanism in TWINS])
@pytest.mark.nightly
def test_tiles_have_the_shapes_that_comments_say(mechanism):
    widths = {"width": 20} if mechanism.stem == "linear" else WIDTHS  # else it takes a minute
    arrays = random_qkv(17, dtype=np.float16, **widths)
    grad = "Gradients: none." not in inspect.getdoc(mechanism.kernel.attention)
    q, k, v = (torch.from_numpy(array).requires_grad_(grad) for array in arrays)
    knobs = mechanism.tensors(17, 17, q.shape[-1], v.shape[-1], q, **mechanism.values)

    def call():
        out = mechanism.kernel.attention(q, k, v, **knobs, causal=mechanism.causal)
        if grad:
            out.sum().backward()

    followed = follow(STATED, call)
    assert followed.seen and followed.wrong == set()


def test_a_wrong_comment_is_found():
    from attncourse.kernels import full

    q, k, v = (torch.from_numpy(a) for a in random_qkv(17, dtype=np.float16, **WIDTHS))
    turned = {place: (name, sides[::-1]) for place, (name, sides) in STATED.items()}
    names = {name for _, _, name, *_ in follow(turned, lambda: full.attention(q, k, v)).wrong}
    assert {"q", "k", "v", "scores"} <= names
