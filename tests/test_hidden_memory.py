"""Memory that the meter of allocations does not see: each way to hide it, and honest answers."""

import builtins
import ctypes
import functools
import mmap
import os
import signal
import subprocess
import sys
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import psutil
import pytest
from test_check import toy

from attncourse.grading import resident
from attncourse.grading.carried import carried
from attncourse.grading.check import judge
from attncourse.grading.spec import Case, Memory

N = 2048
HELD = f"a ({N}, {N}) float32 array"  # 16 MiB where 1 MiB is allowed

linux = pytest.mark.skipif(sys.platform != "linux", reason="the second meter is Linux's")


def row_maxima(q):
    return np.array([(q @ row).max() for row in q], q.dtype)


def maxima_cases(rng):
    return [Case(f"{n} rows", (rng.standard_normal((n, 8), dtype=np.float32),)) for n in (1, 5, 30)]


def large(rng):
    return Case(f"n = {N}", (rng.standard_normal((N, 8), dtype=np.float32),))


MAXIMA = toy(
    row_maxima,
    maxima_cases,
    "array",
    memory=Memory(large, 2**20, "a block of 128 rows"),
)


def fill(buffer, q):
    """Take the maxima of all scores at once, in memory that is there already."""
    scores = buffer[: len(q), : len(q)]
    np.matmul(q, q.T, out=scores)
    return scores.max(-1)


def failed(answer, *parts):
    verdict = judge(MAXIMA, answer, seed=3)
    assert verdict.status == "failed", verdict
    for part in parts:
        assert part in str(verdict), str(verdict)


# What the function carries

BUFFER = np.empty((N, N), np.float32)


def in_a_global(q):
    return fill(BUFFER, q)


def through_a_helper(q):
    return in_a_global(q)


def in_a_default(q, buffer=BUFFER.copy()):  # noqa: B008 (the mistake that is tried)
    return fill(buffer, q)


def in_a_keyword(q, *, buffer=BUFFER.copy()):  # noqa: B008
    return fill(buffer, q)


def in_a_closure():
    buffer = BUFFER.copy()
    return lambda q: fill(buffer, q)


def in_an_attribute(q):
    if not hasattr(in_an_attribute, "buffer"):
        in_an_attribute.buffer = np.empty((N, N), np.float32)
    return fill(in_an_attribute.buffer, q)


KEPT = {}


def from_an_earlier_case(q):
    if not KEPT:
        KEPT["scores"] = np.empty((N, N), np.float32)
    return fill(KEPT["scores"], q)


@functools.cache
def scratch():
    return np.empty((N, N), np.float32)


def in_a_cache(q):
    return fill(scratch(), q)


class Instance:
    def __init__(self):
        self.rows = [np.empty(N, np.float32) for _ in range(N)]

    def __call__(self, q):
        for row, query in zip(self.rows, q, strict=False):
            np.matmul(q, query, out=row[: len(q)])
        return np.array([row[: len(q)].max() for row, _ in zip(self.rows, q, strict=False)])


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (in_a_global, f"the global variable `BUFFER` holds {HELD}"),
        (through_a_helper, f"the global variable `BUFFER` holds {HELD}"),
        (in_a_default, f"the default argument `buffer` holds {HELD}"),
        (in_a_keyword, f"the default argument `buffer` holds {HELD}"),
        (in_a_closure(), f"the enclosing function's variable `buffer` holds {HELD}"),
        (in_an_attribute, f"the attribute `buffer` of `in_an_attribute` holds {HELD}"),
        (from_an_earlier_case, f"the global variable `KEPT` holds {HELD}"),
        (in_a_cache, f"the global variable `scratch` holds {HELD}"),
        (Instance(), "your function holds a (2048,) float32 array, 16.0 MiB in all"),
        (functools.partial(fill, BUFFER), f"your function holds {HELD}"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_the_function_carries_counts_and_is_named(answer, where):
    failed(answer, "at n = 2048, allowed 1.0 MiB: 16", where, "make it inside the function")


# What is kept in places that no name of the function leads to

MODULE = ModuleType("scratch")
SPACE = SimpleNamespace()


def in_a_module(q):
    return fill(MODULE.buffer, q)


def in_a_namespace(q):
    return fill(SPACE.buffer, q)


def in_numpy(q):
    return fill(np.linalg._hidden_buffer, q)


def in_numpy_by_import(q):
    from numpy import linalg

    return fill(linalg._hidden_buffer, q)


def in_numpy_by_name(q):
    return fill(getattr(np.linalg, "_hidden_buffer"), q)  # noqa: B009


def in_builtins(q):
    return fill(builtins.__dict__["_hidden_buffer"], q)


def in_globals(q):
    return fill(globals()["BUFFER"], q)


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (in_a_module, f"`buffer` of the module `scratch` holds {HELD}"),
        (in_a_namespace, f"the global variable `SPACE` holds {HELD}"),
        (in_numpy, f"`_hidden_buffer` of the module `numpy.linalg` holds {HELD}"),
        (in_numpy_by_import, f"`_hidden_buffer` of the module `numpy.linalg` holds {HELD}"),
        (in_numpy_by_name, f"`_hidden_buffer` of the module `numpy.linalg` holds {HELD}"),
        (in_builtins, f"`_hidden_buffer` of the module `builtins` holds {HELD}"),
        (in_globals, f"the global variable `BUFFER` holds {HELD}"),
    ],
)
def test_what_is_put_into_a_module_is_carried(answer, where, monkeypatch):
    for place, name in (
        *((each, "buffer") for each in (MODULE, SPACE)),
        *((each, "_hidden_buffer") for each in (np.linalg, builtins)),
    ):
        monkeypatch.setattr(place, name, np.empty((N, N), np.float32), raising=False)
    assert where in [str(each) for each in carried(answer)]


# What the metered call itself keeps


def kept_by_size():
    store = {}

    def answer(q):
        if len(q) not in store:
            store[len(q)] = np.empty((len(q), len(q)), np.float32)
        return fill(store[len(q)], q)

    return answer


@functools.lru_cache
def square(n):
    return np.empty((n, n), np.float32)


def kept_by_lru_cache(q):
    return fill(square(len(q)), q)


def kept_in_each_call():
    state = []

    def answer(q):
        state.append(np.empty((N, N), np.float32) if len(q) == N else None)
        return row_maxima(q) if state[-1] is None else fill(state[-1], q)

    return answer


def kept_in_a_default(q, kept={}):  # noqa: B006 (the mistake that is tried)
    if len(q) not in kept:
        kept[len(q)] = np.empty((len(q), len(q)), np.float32)
    return fill(kept[len(q)], q)


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (kept_by_size(), f"the enclosing function's variable `store` holds {HELD}"),
        (kept_by_lru_cache, f"the global variable `square` holds {HELD}"),
        (kept_in_each_call(), f"the enclosing function's variable `state` holds {HELD}"),
        (kept_in_a_default, f"the default argument `kept` holds {HELD}"),
    ],
)
def test_what_the_metered_call_keeps_is_named(answer, where):
    failed(answer, "peak 16", "16.0 MiB of it kept after the call", where, "keep nothing")


def test_wrong_numbers_beside_a_kept_buffer_are_not_called_unsteady():
    right = kept_by_size()
    verdict = judge(MAXIMA, lambda q: right(q) * np.float32(1 + (len(q) == N)), seed=3)
    assert "wrong values" in verdict.reason
    assert "another result" not in str(verdict)


def test_what_is_not_used_is_not_carried():
    q = np.ones((N, 8), np.float32)

    def answer(x):
        from types import SimpleNamespace

        return SimpleNamespace(BUFFER=x).BUFFER  # an attribute called like the global

    assert q.size and carried(answer) == []


def test_a_small_part_or_a_broadcast_is_measured_as_what_it_keeps_alive():
    wide = np.broadcast_to(np.float32(1), (N, N))
    part = BUFFER[:2, :2]
    assert sum(each.bytes for each in carried(lambda: wide)) < 100
    [kept] = carried(lambda: part)
    assert str(kept) == f"the enclosing function's variable `part` holds {HELD}"


def test_other_things_than_arrays_are_carried():
    numbers, raw, shared = [0.5 + i for i in range(30_000)], bytes(10**5), mmap.mmap(-1, 10**5)
    found = {
        each.name.split("`")[1]: each.bytes for each in carried(lambda: (numbers, raw, shared))
    }
    assert found == {
        "numbers": pytest.approx(30_000 * (24 + 8), rel=0.1),
        "raw": pytest.approx(10**5, rel=0.01),
        "shared": 10**5,
    }


def test_tensors_are_carried():
    torch = pytest.importorskip("torch")
    buffer = torch.empty(N, N)
    [kept] = carried(lambda: buffer)
    assert (
        str(kept) == f"the enclosing function's variable `buffer` holds a ({N}, {N}) float32 tensor"
    )


# What only the system sees


def from_malloc(q):
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    address = libc.malloc(N * N * 4)
    buffer = np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (N, N))
    try:
        return fill(buffer, q)
    finally:
        libc.free(address)


def in_shared_memory(q):
    shared = sys.modules["builtins"].hidden_map
    return fill(np.frombuffer(shared, np.float32).reshape(N, N), q)


def past_the_meter(q):
    import _tracemalloc

    kept = _tracemalloc.get_traced_memory()[0]
    out = (q @ q.T).max(-1)
    _tracemalloc.reset_peak()
    assert kept >= 0
    return out


def untorched(q):
    import torch

    with torch._C.DisableTorchFunction():
        q = torch.from_numpy(q)
        return (q @ q.T).max(-1).values.numpy()


@linux
def test_holes_of_an_old_heap_do_not_count_one_by_one():
    """Each array of `one_after_the_other` comes to lie in a hole of its own."""

    def one_after_the_other(count):
        for i in range(count):
            np.ones(40_000 + 2_000 * i, np.float32)

    buffer = np.ones(2**23, np.float32)
    del buffer  # from now on glibc takes arrays up to this size from its heap
    old = [np.ones(40_000 + 1_000 * i, np.float32) for i in range(240)]
    del old[::2]
    grown = resident.growth(one_after_the_other, (120,), {}, before=((1,), {}), seconds=10)
    assert grown.bytes < resident.NOISE // 2  # the largest of them takes 1.1 MiB


@linux
@pytest.mark.parametrize("answer", [from_malloc, in_shared_memory, past_the_meter, untorched])
def test_the_growth_of_the_process_counts(answer, monkeypatch):
    if answer is untorched:
        pytest.importorskip("torch")
    monkeypatch.setattr(builtins, "hidden_map", mmap.mmap(-1, N * N * 4), raising=False)
    failed(answer, "the process took ", "at n = 2048, allowed 1.0 MiB", "NumPy and Python account")


def off_and_on(q):
    import _tracemalloc

    _tracemalloc.stop()
    out = (q @ q.T).max(-1)
    _tracemalloc.start(1)
    return out


def test_the_meter_notices_that_it_was_off_for_a_while():
    failed(off_and_on, "switched the memory meter off")
    assert not tracemalloc.is_tracing()


def in_a_subprocess(q):
    run = subprocess.run(["cat"], input=q.tobytes(), stdout=subprocess.PIPE, check=True)
    return row_maxima(np.frombuffer(run.stdout, np.float32).reshape(q.shape))


def in_a_fork(q):
    shared = mmap.mmap(-1, 4 * len(q))
    out = np.frombuffer(shared, np.float32)
    if (child := os.fork()) == 0:
        try:
            out[:] = (q @ q.T).max(-1)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return out.copy()


@linux
@pytest.mark.parametrize("answer", [in_a_subprocess, in_a_fork])
def test_other_processes_cannot_be_metered(answer):
    failed(answer, "started another process", "compute everything in your function itself")


@linux
def test_what_a_call_leaves_running_is_seen_and_ended(tmp_path):
    def answer(q):
        process = subprocess.Popen(["sleep", "60"], start_new_session=True)
        (tmp_path / "pid").write_text(str(process.pid))
        return row_maxima(q)

    case = large(np.random.default_rng(0))
    grown = resident.growth(answer, case.args, {}, before=(case.args, {}), seconds=5)
    assert grown.started
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@linux
def test_the_second_meter_leaves_nothing_behind_and_fails_nobody():
    q = (np.ones((4, 8), np.float32),)

    def growth(answer, seconds=5.0):
        return resident.growth(answer, q, {}, before=(q, {}), seconds=seconds)

    def endless(q):
        while True:
            pass

    files = len(list(Path("/proc/self/fd").iterdir()))
    children = set(psutil.Process().children())  # other tests' fork server may be among them
    assert growth(lambda q: 1 / 0) is None
    assert growth(lambda q: os._exit(1)) is None
    assert growth(lambda q: os.kill(os.getpid(), signal.SIGKILL)) is None
    assert growth(endless, 0.2) is None
    assert growth(row_maxima).bytes < resident.NOISE
    assert not growth(row_maxima).started
    assert len(list(Path("/proc/self/fd").iterdir())) == files
    assert set(psutil.Process().children()) <= children  # a zombie would be one more


ORDER = np.arange(4)


@linux
def test_the_second_meter_itself_warns_of_nothing():
    """In a notebook what the child writes to sys.stderr would stand beside the verdict."""
    q = np.ones((30, 8), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # then the child ends without a word
        assert resident.growth(row_maxima, (q,), {}, before=((q[:1],), {}), seconds=5)


def test_small_objects_between_old_ones_count_as_what_they_are():
    def lengths(n):
        return sum(map(len, [bytes(100) for _ in range(n)]))

    old = [bytes(100) for _ in range(200_000)]
    del old[::20]  # room for one object on nearly every page
    grown = resident.growth(lengths, (5000,), {}, before=((1,), {}), seconds=10)
    assert old and grown.bytes < 3 * 2**20


def test_honest_answers_pass():
    scale = np.full((16, 8), 2.0, np.float32)

    def blocks(q, block=64, *, order=ORDER):
        assert scale.size and order.size
        return np.concatenate([(q[i : i + block] @ q.T).max(-1) for i in range(0, len(q), block)])

    def threads(q):
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(2) as pool:
            parts = pool.map(lambda i: (q[i : i + 32] @ q.T).max(-1), range(0, len(q), 32))
            return np.concatenate(list(parts))

    for answer in (row_maxima, blocks, threads):
        verdict = judge(MAXIMA, answer, seed=3)
        assert verdict.status == "passed", str(verdict)


def test_without_a_second_meter_the_first_decides(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert judge(MAXIMA, row_maxima, seed=3).status == "passed"
    failed(in_a_global, "the global variable `BUFFER`")
    assert judge(replace(MAXIMA, memory=None), in_a_global, seed=3).status == "passed"
