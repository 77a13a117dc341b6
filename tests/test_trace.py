"""The recorder of the kernels' loads and stores, and what it shows about the kernels."""

import sys

import pytest

if sys.platform != "linux":
    pytest.skip("Triton has no wheels for this platform", allow_module_level=True)

from attncourse import trace
from attncourse.kernels import INTERPRETED, full, window

import torch  # isort: skip
import triton  # isort: skip
import triton.language as tl  # isort: skip

if not INTERPRETED:
    pytest.skip("kernels run on the GPU: nothing can be recorded", allow_module_level=True)

from triton.runtime import interpreter
from triton.tools.tensor_descriptor import TensorDescriptor


def qkv(Tq, Tk, D, *, heads=1, batch=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, heads, tokens, D, generator=generator).to(dtype)
        for tokens in (Tq, Tk, Tk)
    ]


def assert_traffic_is_cost(traced, cost):
    assert (traced.flops, traced.bytes_loaded(), traced.bytes_stored()) == (
        cost.flops,
        cost.bytes_read,
        cost.bytes_written,
    )
    assert not traced.out_of_bounds


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("Tq", "Tk", "D", "knobs"),
    [
        (1, 1, 16, {"window": 0}),
        (63, 63, 20, {"window": 5, "causal": True}),
        (100, 100, 70, {"window": 30}),
        (128, 128, 16, {"window": 500}),
        (50, 100, 16, {"window": 8, "dilation": 3}),
        (100, 50, 16, {"window": 8, "dilation": 2, "causal": True}),
        (3, 9, 16, {"window": 1, "dilation": 40}),
        (5, 0, 16, {"window": 1}),
    ],
    ids=str,
)
def test_window_moves_what_its_cost_says(Tq, Tk, D, knobs, dtype):
    q, k, v = qkv(Tq, Tk, D, heads=2, dtype=dtype)
    traced = trace.record(window.attention, q, k, v, **knobs)
    assert_traffic_is_cost(
        traced, window.cost(1, 2, Tq, Tk, D, dtype_bytes=dtype.itemsize, **knobs)
    )


@pytest.mark.parametrize("causal", [False, True])
def test_full_moves_what_its_cost_says(causal):
    q, k, v = qkv(63, 100, 20, heads=2, dtype=torch.float16)
    traced = trace.record(full.attention, q, k, v, causal=causal)
    assert_traffic_is_cost(traced, full.cost(1, 2, 63, 100, 20, causal=causal, dtype_bytes=2))


def test_at_a_fixed_window_traffic_grows_as_the_sequence():
    """The mechanism: tiles outside of the window are skipped, not masked."""
    loaded = {}
    for n in (128, 256, 512):
        q, k, v = (tensor.requires_grad_() for tensor in qkv(n, n, 16, dtype=torch.float16))
        with trace.recording() as traced:
            window.attention(q, k, v, window=32).sum().backward()
        loaded[n] = traced.bytes_loaded()
        assert not traced.out_of_bounds
    assert loaded[512] - loaded[256] == 2 * (loaded[256] - loaded[128])
    whole = trace.record(window.attention, *qkv(512, 512, 16, dtype=torch.float16), window=512)
    near = trace.record(window.attention, *qkv(512, 512, 16, dtype=torch.float16), window=32)
    assert whole.bytes_loaded("k") == 8 * 512 * 16 * 2  # 8 query tiles read all keys
    assert near.bytes_loaded("k") == (2 + 6 * 3 + 2) * 64 * 16 * 2


def test_the_kernels_stay_inside_views():
    room = torch.full((2, 40, 3, 24), torch.nan)
    q, k, v = (room[:, 1:-1, head : head + 1, 2:-2].transpose(1, 2) for head in range(3))
    for tensor in (q, k, v):
        tensor.copy_(torch.randn(q.shape))
    traced = trace.record(window.attention, q, k, v, window=3, dilation=2)
    assert traced.result.isfinite().all() and not traced.out_of_bounds
    traced = trace.record(full.attention, q, k, v, mask=torch.ones(38, 38, dtype=torch.bool))
    assert traced.result.isfinite().all() and not traced.out_of_bounds
    assert traced.bytes_loaded("mask") == 2 * 38 * 38


def test_tiles_programs_and_launches_of_a_window():
    q, k, v = qkv(100, 100, 16, heads=2)
    traced = trace.record(window.attention, q, k, v, window=8)
    assert traced.programs == [(tile, head, 0) for tile in range(4) for head in range(2)]
    assert traced.launches[0].grid == (4, 2, 1)
    assert traced.launches[0].shapes["k"] == (1, 2, 100, 16)
    assert traced.tiles("q")[3, 1, 0] == [((96, 100), (0, 16))]
    assert traced.tiles("k")[1, 0, 0] == [
        ((0, 32), (0, 16)),
        ((32, 64), (0, 16)),
        ((64, 96), (0, 16)),
    ]
    assert traced.tiles("k", kernel="other") == {}
    assert {access.kind for access in traced.accesses if access.tensor == "out"} == {"store"}
    assert torch.equal(traced.result, window.attention(q, k, v, window=8))


def test_the_summary_is_one_line_a_kernel():
    traced = trace.record(window.attention, *qkv(64, 64, 16), window=64)
    assert str(traced) == (
        "window_fwd: 2 programs, q read 4.0 KiB in 2 tiles, k read 8.0 KiB in 4 tiles, "
        "v read 8.0 KiB in 4 tiles, out written 4.0 KiB in 2 tiles, lse written 256 B in 2 tiles, "
        "no access out of bounds"
    )
    assert len(repr(trace.record(full.attention, *qkv(64, 64, 16))).splitlines()) == 3
    assert str(trace.record(sum, [1, 2])) == "no kernel ran"


# Broken kernels


@triton.jit
def _copy_kernel(source_ptr, target_ptr, n_rows, n_cols, stride, BLOCK: tl.constexpr):
    """Copies a matrix; forgets the mask of the rows."""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    cols = tl.arange(0, BLOCK)
    in_cols = (cols < n_cols)[None, :]
    offsets = rows[:, None] * stride + cols[None, :]
    tile = tl.load(source_ptr + offsets, mask=in_cols, other=0.0)
    tl.store(target_ptr + offsets, tile, mask=in_cols)


def test_a_forgotten_mask_is_caught_and_harmless():
    room = torch.arange(40 * 16.0).reshape(40, 16)
    source, target = room[:20], torch.zeros(40, 16)
    traced = trace.record(_copy_kernel[(2,)], source, target[:20], 20, 16, 16, 16)
    load, store = traced.out_of_bounds
    assert (load.kernel, load.program, load.kind, load.tensor) == (
        "copy",
        (1, 0, 0),
        "load",
        "source",
    )
    assert (load.rows, load.columns) == ((16, 20), (0, 16))
    assert (load.elements, load.bytes, load.out_of_bounds) == (256, 1024, 12 * 16)
    assert (store.kind, store.tensor, store.out_of_bounds) == ("store", "target", 12 * 16)
    assert torch.equal(target[:20], source)
    assert not target[20:].any()  # the store was dropped
    assert "OUT OF BOUNDS in source, target" in str(traced)


def test_columns_in_the_gap_between_two_rows_are_out_of_bounds():
    room = torch.zeros(16, 24)
    traced = trace.record(_copy_kernel[(1,)], room[:, :20], torch.zeros(16, 16), 16, 16, 24, 16)
    assert [access.tensor for access in traced.out_of_bounds] == ["target"]  # its stride is 16
    traced = trace.record(_copy_kernel[(1,)], room[:, :10], torch.zeros(16, 24), 16, 16, 24, 16)
    (load,) = traced.out_of_bounds
    assert (load.tensor, load.columns, load.out_of_bounds) == ("source", (0, 10), 16 * 6)


def test_elements_between_two_columns_are_out_of_bounds():
    room = torch.zeros(16, 32)
    traced = trace.record(_copy_kernel[(1,)], room[:, ::2], torch.zeros(16, 32), 16, 16, 32, 16)
    (load,) = traced.out_of_bounds
    assert load.tensor == "source" and load.out_of_bounds == 16 * 8  # every second one


def test_running_over_into_the_neighbour_is_no_access_to_the_neighbour():
    room = torch.zeros(2, 16, 16)
    traced = trace.record(_copy_kernel[(2,)], room[0], room[1], 16, 16, 16, 16)
    assert {access.tensor for access in traced.accesses} == {"source", "target"}
    assert [access.tensor for access in traced.out_of_bounds] == ["source", "target"]


@triton.jit
def _far_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """Reads where no memory is; masked off behind n."""
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i.to(tl.int64) * 1_000_000_000_000, mask=i < n, other=0)
    tl.store(out_ptr + i, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32], ids=str)
def test_a_wild_load_gives_a_fill_value_and_no_crash(dtype):
    x, out = torch.ones(16, dtype=dtype), torch.zeros(16, dtype=dtype)
    traced = trace.record(_far_kernel[(1,)], x, out, 3, 16)
    (load,) = traced.out_of_bounds
    assert (load.elements, load.out_of_bounds) == (3, 2)
    fill = torch.nan if dtype.is_floating_point else 0
    torch.testing.assert_close(
        out[:4], torch.tensor([1, fill, fill, 0], dtype=dtype), equal_nan=True
    )
    assert not trace.record(_far_kernel[(1,)], x, out, 1, 16).out_of_bounds  # masked off


@triton.jit
def _atomics_kernel(total_ptr, flag_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.atomic_add(total_ptr + i // 2, 1.0)
    tl.atomic_cas(flag_ptr + 1, 0, 7)
    tl.atomic_cas(flag_ptr + 2, 0, 7)


def test_atomics():
    total, flag = torch.zeros(6), torch.zeros(3, dtype=torch.int32)
    traced = trace.record(_atomics_kernel[(1,)], total, flag[:2], 16)
    add, swap, beyond = traced.accesses
    assert {access.kind for access in traced.accesses} == {"atomic"}
    assert (add.elements, add.out_of_bounds) == (16, 4)
    assert total.tolist() == [2.0] * 6 and flag.tolist() == [0, 7, 0]
    assert not swap.out_of_bounds and beyond.out_of_bounds == 1
    assert traced.bytes_loaded("total") == traced.bytes_stored("total") == 64


@triton.jit
def _descriptor_kernel(x, pair, BLOCK: tl.constexpr):
    tile = x.load([4, 8])
    own = tl.make_tensor_descriptor(pair[0], [20, 16], [16, 1], [BLOCK, BLOCK])
    own.store([8, 0], tile)
    tl.store(pair[1], tl.load(pair[0]))


def test_descriptors_and_tuples_of_tensors():
    x, first, second = torch.ones(20, 16), torch.zeros(20, 16), torch.ones(1)
    described = TensorDescriptor.from_tensor(x, [16, 16])
    traced = trace.record(_descriptor_kernel[(1,)], described, (first, second), 16)
    assert not traced.out_of_bounds
    load, store, *_ = traced.accesses
    assert (load.tensor, load.rows, load.columns, load.elements) == ("x", (4, 20), (8, 16), 128)
    assert (store.tensor, store.rows, store.elements) == ("pair", (8, 20), 12 * 16)
    assert torch.equal(first[8:, :8], x[4:16, 8:]) and second.item() == 0


@triton.jit
def _from_integer_kernel(address, out_ptr):
    pointer = address.to(tl.pointer_type(tl.float32))
    tl.store(out_ptr, tl.load(pointer))


def test_pointers_made_from_integers():
    out = torch.zeros(2)
    traced = trace.record(_from_integer_kernel[(1,)], out[1:].data_ptr(), out)
    assert [access.tensor for access in traced.accesses] == ["out", "out"]
    lost = trace.record(_from_integer_kernel[(1,)], 2**40, out)
    assert [access.tensor for access in lost.out_of_bounds] == ["?"]


def test_overlapping_views_are_judged_by_their_extent():
    x = torch.arange(30.0)
    sliding = x.as_strided((8, 16), (1, 1))  # elements 0 ... 22
    traced = trace.record(_copy_kernel[(1,)], sliding, torch.zeros(16, 16), 8, 16, 1, 16)
    load = traced.accesses[0]
    assert load.rows is None and load.out_of_bounds == sum(
        row + column > 22 for row in range(16) for column in range(16)
    )


# The recorder itself


def test_the_hooks_are_taken_off_again():
    def hooks():
        return [getattr(owner, name) for owner, name, *_ in trace._Recorder().hooks()]

    before = hooks()
    with pytest.raises(ZeroDivisionError):
        trace.record(lambda: 1 / 0)
    assert hooks() == before
    with pytest.raises(Exception, match="must be at least 0"), trace.recording():
        window.attention(*qkv(4, 4, 16), window=-1)
    assert hooks() == before


def test_recorders_nest():
    with trace.recording() as outer:
        inner = trace.record(window.attention, *qkv(20, 20, 16), window=2)
    assert inner.accesses == outer.accesses and inner.flops == outer.flops > 0


def test_a_moved_hook_warns(monkeypatch):
    monkeypatch.delattr(interpreter.InterpreterBuilder, "create_atomic_cas")
    with pytest.warns(trace.TraceWarning, match=r"no create_atomic_cas\(ptr, cmp, val\)"):
        traced = trace.record(window.attention, *qkv(20, 20, 16), window=2)
    assert traced.bytes_loaded() > 0


def test_changed_parameters_of_a_hook_warn(monkeypatch):
    def create_dot(self, d, a, b):
        raise NotImplementedError

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
    with pytest.warns(trace.TraceWarning, match=r"no create_dot\(a, b, d\)"), trace.recording():
        pass


def test_nothing_can_be_recorded_on_a_gpu(monkeypatch):
    monkeypatch.setattr(trace, "INTERPRETED", False)
    with pytest.raises(RuntimeError, match="set TRITON_INTERPRET=1 before Python starts"):
        trace.record(sum, [])
