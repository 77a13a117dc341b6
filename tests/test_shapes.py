"""Shape comments, such as `scores = ...  # (..., block, keys)`, are true."""

import ast
import inspect
import re
import sys
from pathlib import Path

import numpy as np

import attncourse
from attncourse import MECHANISMS, masks
from attncourse.inputs import random_qkv
from attncourse.reference import (
    block_topk,
    full,
    grouped,
    kv_cache,
    latent,
    linear,
    longformer,
    lsh,
    offsets,
    pooled,
    relative,
    segment,
    strided,
    topk,
    window,
)

PACKAGE = Path(attncourse.__file__).parent
PLACES = ("reference/**/*.py", "definitions/*.py", "masks.py", "softmax.py")
SIZES = {"1": 1, "Tq": 67, "Tk": 71, "D": 8, "Dv": 5, "Dv + 1": 6}


def commented(text):
    """Return line -> (names, shapes) of the assignments that say what shape they make."""
    found, lines = {}, text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Assign) or not node.col_offset:  # a constant of the module
            continue
        if node.lineno != node.end_lineno:
            continue
        said = lines[node.lineno - 1][node.end_col_offset :].partition("# ")[2]
        shapes = re.findall(r"\(([^()]*,[^()]*)\)", said)
        if shapes:
            target = node.targets[0]
            names = [n.id for n in getattr(target, "elts", [target]) if isinstance(n, ast.Name)]
            if len(shapes) != len(names):
                shapes = shapes[:1] * len(names)
            found[node.lineno] = names, [s.rstrip(",").split(", ") for s in shapes]
    return found


COMMENTS = {
    str(path): commented(path.read_text("utf-8"))
    for place in PLACES
    for path in PACKAGE.glob(place)
}


class Shapes:
    """Compares the shapes of a call with the comments, line by line as they run."""

    def __init__(self, sizes):
        self.sizes, self.reached, self.wrong = sizes, set(), []

    def __call__(self, frame, event, arg):
        comments = COMMENTS.get(frame.f_code.co_filename)
        if not comments or frame.f_code.co_name.startswith("<"):  # a comprehension
            return None
        last, bound = None, {}  # a size that a line has bound holds for the lines below it

        def local(frame, event, arg):
            nonlocal last
            if last in comments:
                self.reached.add((frame.f_code.co_filename, last))
                if event != "exception":
                    for symbol in [s for s, (_, line) in bound.items() if line >= last]:
                        del bound[symbol]  # of the turn of a loop before this one
                    for name, shape in zip(*comments[last], strict=True):
                        self.compare(frame, last, name, shape, bound)
            last = frame.f_lineno if event == "line" else None
            return local

        return local

    def compare(self, frame, line, name, shape, bound):
        actual = np.shape(frame.f_locals[name])
        said = shape[1:] if shape[0] == "..." else shape
        place = (
            f"{Path(frame.f_code.co_filename).name}:{line} {name} ({', '.join(shape)}): {actual}"
        )
        if len(actual) < len(said) or (shape[0] != "..." and len(actual) != len(said)):
            self.wrong.append(place)
            return
        for symbol, size in zip(said, actual[len(actual) - len(said) :], strict=True):
            if symbol.isdigit() and symbol != "1":  # the most that a block holds
                fits = size <= int(symbol)
            else:
                wanted = self.sizes.get(symbol, bound.setdefault(symbol, (size, line))[0])
                fits = size == wanted
            if not fits:
                self.wrong.append(f"{place}, {symbol} is not {size}")


def run(call, *arguments, sizes=SIZES, **words):
    shapes, before = Shapes(sizes), sys.gettrace()
    sys.settrace(shapes)
    try:
        call(*arguments, **words)
    finally:
        sys.settrace(before)
    return shapes


def qkv(square=False):
    n_queries = SIZES["Tk"] if square else SIZES["Tq"]
    return random_qkv(n_queries, SIZES["Tk"], batch=2, heads=4, width=8, value_width=5)


def run_mechanism(mechanism):
    q, k, v = qkv()
    knobs = {knob.name: min(knob.value, max(knob.low, 16)) for knob in mechanism.knobs}
    keywords = mechanism.keywords(67, 71, 8, 5, q.dtype, **knobs)
    for causal in (False, True) if mechanism.causal else (False,):
        yield run(mechanism.reference.attention, q, k, v, causal=causal, **keywords)
        if hasattr(mechanism.reference, "backward"):
            yield run(mechanism.reference.backward, q[..., :5], q, k, v, causal=causal, **keywords)
        if "mask" in mechanism.has:
            mask = mechanism.reference.mask
            named = {k: keywords[k] for k in keywords.keys() & inspect.signature(mask).parameters}
            yield run(mask, 67, 71, causal=causal, **named)


def run_the_rest():
    q, k, v = qkv()
    square = qkv(square=True)
    weights = full.weights(q, k)
    as_many = SIZES | {"Tq": 71}
    yield run(grouped.attention, q, k[:, :2], v[:, :2])
    yield run(linear.weights, q, k)
    yield run(longformer.attention, q, k, v, window=3, global_tokens=5)
    yield run(masks.blocks, 67, 71, block=8)
    yield run(topk.select, q, k, keep=4)
    chosen = block_topk.select(q, k, block=5, keep=3)
    yield run(block_topk.select, q, k, block=5, keep=3)
    yield run(block_topk.mask_of, chosen, 71, block=5)
    yield run(lsh.found, q, k, n_buckets=4, n_rounds=2, chunk=8)
    yield run(kv_cache.survivors, square[0], square[1], room=9, recent=4)
    up = np.ones((4, 5, 3), q.dtype)  # R = 5, and 3 numbers that are turned
    yield run(latent.unfolded, k[:, :1], v[:, :1], key_up=up, value_up=up)
    yield run(offsets.attention, q, k, v, offsets=(0, 3))
    yield run(pooled.attention, q, k, v, pool=4, kind="learned", pooling_vector=q[0, 0, 0])
    yield run(relative.rotate, q)
    state = segment.start(*square[1:], chunk=8, memory=4)
    yield run(segment.step, state, *square, sizes=as_many)
    yield run(strided.learned_stride, weights, mass=0.5)
    yield run(topk.fit_predictor, q, k, rank=3)
    yield run(window.dynamic_window, weights, mass=0.5)


def test_shape_comments_are_true():
    runs = [shapes for m in MECHANISMS.values() for shapes in run_mechanism(m)]
    runs += run_the_rest()
    assert {wrong for shapes in runs for wrong in shapes.wrong} == set()
    lines = {(path, line) for path, found in COMMENTS.items() for line in found}
    assert len(lines) > 90
    reached = set().union(*(shapes.reached for shapes in runs))
    assert {f"{Path(path).name}:{line}" for path, line in lines - reached} == set()


def test_a_wrong_shape_comment_is_found(monkeypatch):
    path = str(PACKAGE / "reference/full.py")
    text = Path(path).read_text("utf-8")
    true = "(..., Tq, Tk), in the memory"
    for said in (true, "(..., Tk, Tq)", "(Tq, Tk)", "(..., Tq, 1)", "(..., n, n)", "(..., 64, Tk)"):
        comments = commented(text.replace(true, said))
        monkeypatch.setitem(COMMENTS, path, comments)
        wrong = run(full.attention, *qkv()).wrong
        assert bool(wrong) == (said != true), said
