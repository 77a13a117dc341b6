"""The allocation meter: the right number of bytes, and the right line."""

import ctypes
import functools
import mmap
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from attncourse.grading import meter
from attncourse.grading.meter import peak

MIB = 2**20
N = 1024
Q = np.ones((N, 16), np.float32)
SQUARE = N * N * 4  # bytes of an (N, N) float32 array
SPARE = 96 * 1024  # Python objects and NumPy's buffers


def about(n_bytes):
    return pytest.approx(n_bytes, abs=SPARE)


# How many bytes


def test_result_counts_and_arguments_do_not():
    assert peak(lambda q: q @ q.T, Q).bytes == about(SQUARE)
    assert peak(lambda q: q, Q).bytes < SPARE
    assert peak(lambda q: q.T[::2, None], Q).bytes < SPARE


def test_memory_made_before_does_not_count():
    ready = np.empty((N, N), np.float32)

    def reuse(q):
        np.matmul(q, q.T, out=ready)
        return ready[:2]

    assert peak(reuse, Q).bytes < SPARE


def test_untouched_memory_counts():
    assert peak(lambda: np.empty((N, N), np.float32)).bytes == about(SQUARE)
    assert peak(lambda: np.zeros((N, N), np.float32)).bytes == about(SQUARE)


def test_freed_memory_counts():
    def tidy(q):
        scores = q @ q.T
        out = scores.sum(-1)
        del scores
        return out

    assert peak(tidy, Q).bytes == about(SQUARE)


def test_blocks_count_once():
    def blocks(q):
        return np.concatenate([(q[i : i + 64] @ q.T).max(-1) for i in range(0, N, 64)])

    assert peak(blocks, Q).bytes == about(SQUARE / 16)


def test_memory_of_threads_counts():
    def threaded(q):
        made = []
        threads = [threading.Thread(target=lambda: made.append(q @ q.T)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return made

    assert peak(threaded, Q).bytes == about(2 * SQUARE)


def test_ctypes_and_mmap_count():
    assert peak(lambda: (ctypes.c_char * MIB)()).bytes == about(MIB)
    assert peak(lambda: ctypes.create_string_buffer(MIB)).bytes == about(MIB)
    assert peak(lambda: mmap.mmap(-1, MIB)).bytes == about(MIB)


def test_mapped_files_count(tmp_path):
    def mapped():
        return np.memmap(tmp_path / "scores", np.float32, "w+", shape=(N, N))

    assert peak(mapped).bytes == about(SQUARE)


def test_tensors_made_on_the_side_count():
    torch = pytest.importorskip("torch")

    def sideways(q):
        q = torch.from_numpy(q)
        return (q @ q.T).max(-1).values.numpy()

    found = peak(sideways, Q)
    assert found.bytes == about(SQUARE)
    assert (found.line, found.shape, found.dtype) == (3, (N, N), "float32")


def test_tensors_freed_on_the_side_are_taken_off():
    torch = pytest.importorskip("torch")

    def sideways(q):
        q, kept = torch.from_numpy(q), []
        for _ in range(3):
            scores = q @ q.T
            del scores
            kept.append(torch.zeros(1))  # takes the place of the freed storage's handle
        return q.numpy().copy()

    assert peak(sideways, Q).bytes == about(SQUARE)


def test_a_trace_that_runs_already_goes_on():
    tracemalloc.start()
    try:
        kept = np.ones(MIB, np.uint8)
        assert peak(lambda q: q @ q.T, Q).bytes == about(SQUARE)
        assert tracemalloc.is_tracing()
        assert kept.nbytes == MIB
    finally:
        tracemalloc.stop()


def test_switching_tracemalloc_off_is_without_effect_or_noticed():
    def sly(q):
        tracemalloc.stop()
        out = (q @ q.T).max(-1)
        tracemalloc.reset_peak()
        tracemalloc.clear_traces()
        return out

    real = tracemalloc.stop, tracemalloc.reset_peak

    def slyer(q, stop=tracemalloc.stop):
        out = (q @ q.T).max(-1)
        stop()
        return out

    assert peak(sly, Q).bytes == about(SQUARE)
    with pytest.raises(meter.Unmetered):
        peak(slyer, Q)
    assert (tracemalloc.stop, tracemalloc.reset_peak) == real
    assert not tracemalloc.is_tracing()


def test_result_is_returned_with_the_bytes():
    result, n_bytes = meter.held(lambda q: q @ q.T, Q)
    assert result.shape == (N, N)
    assert n_bytes == about(SQUARE)


# Which line


def test_line_of_a_named_array():
    def answer(q):
        scale = 4.0

        scores = q @ q.T
        return scores.sum(-1) / scale

    found = peak(answer, Q)
    assert (found.line, found.source) == (4, "scores = q @ q.T")
    assert (found.shape, found.dtype) == ((N, N), "float32")
    assert str(found) == "a (1024, 1024) float32 array made at line 4 of your function"


def test_temporaries_are_bytes_and_no_arrays_that_nobody_saw():
    def answer(q):
        return np.exp(q @ q.T) @ q

    def distances(q):
        return (np.arange(len(q))[:, None] - np.arange(len(q))).max()

    for function in (answer, distances):  # two of float32, one of int64
        told = "8.0 MiB, 8 bytes for each of 1024 × 1024, made at line 2 of your function"
        assert str(peak(function, Q)) == told


def test_bytes_are_not_read_as_axes_that_nothing_has():
    def answer(p, v, table):
        rows = np.abs(np.subtract.outer(np.arange(len(p)), np.arange(len(v)))) % len(table)
        return np.einsum("ij,ijd->id", p, table[rows])  # beyond what the line before had held

    p, v, table = (np.ones(shape, np.float32) for shape in ((320, 320), (320, 64), (17, 64)))
    assert str(peak(answer, p, v, table)) == "most of it made at line 3 of your function"
    q, hidden = np.ones((256, 32), np.float32), np.ones(32, np.float32)
    told = "16.0 MiB, 8 bytes for each of 32 × 256 × 256, made at line"  # and no cube of 256
    assert told in str(peak(lambda q, u: np.tanh(q[:, None] + q) @ u, q, hidden))


def test_bytes_are_not_read_as_sizes_that_only_the_arguments_list():
    def answer(rows, sizes, ranks):  # 25 · 2 ** 16 bytes are 16 · 5 · 5 · 4096, too
        return np.ones(25 * 2**13).sum()

    rows = np.ones((4096, 64), np.float32)
    told = "most of it made at line 2 of your function"
    assert str(peak(answer, rows, (256,) * 16, (5,))) == told


def test_a_first_step_that_held_more_does_not_name_the_arrays_of_all():
    def partial_outputs(q):
        outs = []
        for i in range(16):
            scores = q[:256] @ q[i * 256 : (i + 1) * 256].T  # 256 KiB, of which the peak has two
            outs.append(scores @ q[:256])
        return sum(outs)

    q = np.ones((4096, 64), np.float32)
    assert str(peak(partial_outputs, q)).startswith("most of it made at line 4")


def test_two_arrays_of_float32_are_not_read_as_two_bytes_for_each_pair():
    keys_and_values = 2 * 256 * 64 * 4
    assert meter._guess(keys_and_values, ((256, 64), (256, 256))) == ((64, 256), 8)


def test_steps_that_differ_are_not_counted_as_so_many_arrays():
    def answer(q):
        for rows in (600, 1000):
            made = np.exp(np.ones((rows, N)))[:2]  # 1.6 times the larger
        return made

    assert " arrays " not in str(peak(answer, Q))

    def kept(q):
        made, few = [], []
        for rows in (8, 8, *[0] * 20):
            made.append(np.ones((rows * 128, N), np.float32))
            few.append(object())
        return made

    assert str(peak(kept, Q)).startswith("8.0 MiB, 4 bytes for each of 2 × 1024 × 1024, made at")


def test_arrays_wider_than_what_came_in_are_named():
    def answer(q):
        top = np.full(len(q), -np.inf)
        scores = q @ q.T / np.sqrt(16)
        return np.maximum(top, scores.max(-1)).astype(q.dtype)

    assert peak(answer, Q).wider == {"top": "float64", "scores": "float64"}
    assert peak(answer, Q.astype(np.float64)).wider == {}

    def small(q):
        top = np.full(len(q), -np.inf)
        return np.maximum(top, (q @ q.T).max(-1)).astype(q.dtype)

    assert peak(small, Q).wider == {}


def test_many_small_arrays_and_those_of_a_list_are_wide_together():
    def answer(q):
        made = [np.zeros((N, 16)) for _ in range(6)]
        first, second, third = (np.zeros((N, 48)) for _ in range(3))
        return (made[0] + first[:, :16] + second[:, :16] + third[:, :16]).astype(q.dtype)

    assert peak(answer, Q).wider == dict.fromkeys(("made", "first", "second", "third"), "float64")


def test_nothing_is_said_of_dtypes_beside_large_arrays_of_integers():
    def answer(q):
        table = np.arange(N * N).reshape(N, N)
        wide = np.zeros((N, 512))
        return (wide[:, :16] + table[:, :16]).astype(q.dtype)

    assert peak(answer, Q).wider == {}


def test_widened_array_is_named():
    def answer(q):
        wide = (q @ q.T).astype(np.float64)
        return wide.sum(-1)

    assert peak(answer, Q).line == 2
    assert "a (1024, 1024) float64 array" in str(peak(lambda q: np.zeros((N, N)), Q))


def helper(q):
    half = q / 2
    return half @ half.T


def test_line_in_a_helper():
    found = peak(lambda q: helper(q).sum(-1), Q)
    assert str(found) == "a (1024, 1024) float32 array made at line 3 of `helper`"


def test_inner_function_is_part_of_the_answer():
    def answer(q):
        def scores():
            return q @ q.T

        return scores().sum(-1)

    assert str(peak(answer, Q)).endswith("made at line 3 of your function")


def test_comprehension_and_generator():
    def comprehension(q):
        rows = [np.exp(q @ row) for row in q]
        return np.array([row.sum() for row in rows])

    def generator(q):
        rows = (np.exp(q @ row) for row in q)
        return np.array([row.sum() for row in list(rows)])

    found = peak(comprehension, Q)
    assert found.line == 2
    assert found.shape == (pytest.approx(N, rel=0.02), N)
    assert "MiB, 4 bytes for each of 10" in str(found)
    assert peak(generator, Q).line == 2


def test_loop_that_keeps_rows():
    def answer(q):
        kept = []
        for row in q:
            kept.append(q @ row)
        return kept

    found = peak(answer, Q)
    assert found.line == 4
    assert found.shape == (pytest.approx(N, rel=0.02), N)


def test_line_of_a_thread():
    def answer(q):
        def work():
            return q @ q.T

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(work).result()

    assert peak(answer, Q).line == 3


def test_wrapped_answers_keep_their_lines():
    def plain(q):
        one = 1
        return q @ q.T * one

    def decorate(function):
        @functools.wraps(function)
        def through(*args):
            return function(*args)

        return through

    class Callable:
        def __call__(self, q):
            return q @ q.T

    assert peak(decorate(plain), Q).line == 3
    assert peak(functools.partial(plain), Q).line == 3
    assert peak(Callable(), Q).line == 2


def test_functions_of_a_notebook_cell():
    import linecache

    cell = "import numpy as np\n\n\ndef answer(q):\n    a = 1\n    return q @ q.T\n"
    name = "/tmp/ipykernel_1/2.py"
    linecache.cache[name] = (len(cell), None, cell.splitlines(True), name)
    space = {}
    exec(compile(cell, name, "exec"), space)
    found = peak(space["answer"], Q)
    assert (found.line, found.source) == (3, "return q @ q.T")


def test_builtin_has_no_line():
    found = peak(np.multiply.outer, Q[:, 0], Q[:, 1])
    assert found.bytes == about(SQUARE)
    assert found.line is None
    assert str(found) == ""


def test_trace_functions_are_put_back():
    def tracer(*args):
        return None

    sys.settrace(tracer)
    try:
        peak(lambda q: q @ q.T, Q)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(None)


# torch


def test_torch_on_the_cpu():
    torch = pytest.importorskip("torch")
    q = torch.ones(N, 16)

    def answer(q):
        scale = 0.25
        weights = torch.softmax(q @ q.mT * scale, -1)
        return weights @ q

    found = peak(answer, q)
    assert found.bytes == about(2 * SQUARE)
    assert (found.line, found.shape, found.dtype) == (3, (N, N), "float32")


def test_torch_views_and_freed_memory():
    torch = pytest.importorskip("torch")
    q = torch.ones(N, 16)
    assert peak(lambda q: q.mT[None], q).bytes < SPARE

    def twice(q):
        for _ in range(3):
            scores = q @ q.mT
            del scores
        return q.sum()

    assert peak(twice, q).bytes == about(SQUARE)


@pytest.mark.gpu
def test_torch_on_a_gpu():
    import torch

    q = torch.ones(N, 16, device="cuda")
    torch.matmul(q, q.mT)  # cuBLAS takes its workspace

    def answer(q):
        return torch.softmax(q @ q.mT, -1) @ q

    found = peak(answer, q)
    assert found.bytes == pytest.approx(2 * SQUARE, rel=0.1)
    assert (found.line, found.shape) == (2, (N, N))
