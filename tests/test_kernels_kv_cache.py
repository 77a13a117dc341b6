"""Split-KV attention to a cache: in the interpreter, or on the GPU where there is one."""

import itertools
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("Triton has no wheels for this platform", allow_module_level=True)

from attncourse import trace
from attncourse.kernels import INTERPRETED, grouped, kv_cache
from attncourse.kernels._parts import splits
from attncourse.reference import kv_cache as reference

import torch  # isort: skip
from twins import close, definition, each_dtype, each_layout, tensors, with_nan_margins

pytestmark = pytest.mark.usefixtures("new_memory_is_full_of_nan")


def cached(H, G, Tq, Tk, D, Dv=None, *, batch=1, **how):
    q, _, _ = tensors(Tq, 1, D, heads=H, batch=batch, **how)
    _, k, v = tensors(1, Tk, D, Dv, heads=G, batch=batch, seed=1, **how)
    return q, k, v


def pin(monkeypatch, n_splits, span=None):
    """So many splits, of so many keys each if given, else of equal shares."""

    def share_out(n_programs, n_keys, block):
        return n_splits, span or -(-max(n_keys, 1) // (n_splits * block)) * block

    monkeypatch.setattr(splits, "share_out", share_out)


def expected(q, k, v, causal, scale=None):
    """The definition with repeated keys, zeros where no key is seen."""
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
    mask = mask.tril(k.shape[2] - q.shape[2]) if causal else mask
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    return definition(q, k, v, mask, scale).nan_to_num()


def is_right(out, q, k, v, causal, scale=None):
    exact = expected(q.double(), k.double(), v.double(), causal, scale)
    single = expected(*(t.float().cpu() for t in (q, k, v)), causal, scale)
    close(out, q.dtype, exact, single)


# (H, G, Tq, Tk, D, Dv, chunk, causal, n_splits)
CASES = [
    (4, 1, 1, 100, 20, 33, 1, True, 3),  # a step of multi-query attention
    (8, 2, 1, 128, 64, 64, 1, True, 2),
    (2, 2, 5, 63, 16, 16, 5, True, 2),
    (3, 1, 31, 63, 16, 16, 4, True, 2),  # rows of a tile begin in the middle of a query's heads
    (1, 1, 100, 37, 16, 16, 128, True, 2),  # the first tiles see nothing
    (2, 1, 37, 100, 16, 24, 16, False, 1),
    (20, 1, 2, 64, 16, 16, 2, True, 2),  # more rows than a tile of them holds in float32
    (2, 1, 1, 70, 128, 160, 1, False, 5),  # shares of nothing: the last splits are empty
    (4, 2, 1, 1, 16, 16, 1, True, 1),
    (4, 2, 3, 0, 16, 16, 1, False, 1),
    (4, 2, 0, 5, 16, 16, 1, True, 2),
]


@each_dtype(CASES)
def test_kv_cache_against_float64(case, dtype, monkeypatch):
    H, G, Tq, Tk, D, Dv, chunk, causal, n_splits = case
    pin(monkeypatch, n_splits)
    q, k, v = cached(H, G, Tq, Tk, D, Dv, batch=1 + (Tq == 5), dtype=dtype)
    is_right(kv_cache.attention(q, k, v, chunk=chunk, causal=causal), q, k, v, causal)


@pytest.mark.parametrize("n_splits", [1, 3, 17])
def test_splits_do_not_change_the_result(n_splits, monkeypatch):
    q, k, v = cached(2, 1, 3, 130, 16)
    pin(monkeypatch, n_splits, span=32 if n_splits > 4 else None)  # 17 of 32: twelve are empty
    for causal in (False, True):
        is_right(
            kv_cache.attention(q, k, v, chunk=3, causal=causal, scale=0.7), q, k, v, causal, 0.7
        )


def test_a_split_that_only_some_rows_see_counts_for_them_only(monkeypatch):
    """The rows of one tile see 31 ... 34 keys: two of them nothing of the second split."""
    pin(monkeypatch, 2, span=32)
    q, k, v = cached(1, 1, 4, 34, 16)
    before = kv_cache.attention(q, k, v, chunk=4, causal=True)
    k[:, :, 32:], v[:, :, 32:] = 9.0, 9.0
    after = kv_cache.attention(q, k, v, chunk=4, causal=True)
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert not torch.equal(before[:, :, 2], after[:, :, 2])


def test_what_a_split_does_not_store_is_not_read(monkeypatch):
    """New memory is NaN here, and a weight of 0 times NaN would be NaN."""
    pin(monkeypatch, 9, span=64)
    q, k, v = cached(1, 1, 1, 70, 16)
    assert kv_cache.attention(q, k, v, chunk=1).isfinite().all()


def test_the_shares_hold_each_key_once_and_none_is_empty():
    for n_programs, n_keys, block in itertools.product(
        (0, 1, 2, 8, 100, 264, 10**5), (0, 1, 63, 128, 255, 256, 1000, 8192, 131072), (16, 32, 64)
    ):
        n_splits, span = splits.share_out(n_programs, n_keys, block)
        assert span % block == 0 and span >= block
        assert 1 <= n_splits <= splits.MAX_SPLITS
        assert (n_splits - 1) * span < max(1, n_keys) <= n_splits * span
        assert n_splits == 1 or span >= splits.MIN_KEYS
        if n_programs >= 2 * splits.multiprocessors():
            assert n_splits == 1


@pytest.mark.skipif(not INTERPRETED, reason="a GPU has its own number of multiprocessors")
def test_long_sequences_keep_every_multiprocessor_busy():
    for heads, n_keys in ((8, 8192), (8, 131072), (32, 2048)):
        n_splits, _ = splits.share_out(heads, n_keys, 64)
        assert heads * n_splits >= 1.8 * splits.multiprocessors()
    assert splits.share_out(1, 131072, 64)[0] == splits.MAX_SPLITS
    assert splits.share_out(8, 100, 64)[0] == 1


def test_the_loops_visit_the_tiles_that_are_seen_and_no_others():
    BLOCK_R, BLOCK_K = 4, 2
    sizes = itertools.product(range(1, 6), range(9), (1, 2, 3, 5), (2, 4), (False, True))
    for Tq, Tk, shared, span, causal in sizes:
        for start in range(0, Tq * shared, BLOCK_R):
            queries = {row // shared for row in range(start, min(start + BLOCK_R, Tq * shared))}
            seen = {j for i in queries for j in range(min(i + 1 + Tk - Tq, Tk) if causal else Tk)}
            for split in range(4):
                knobs = start, split, span, Tq, Tk, shared, BLOCK_R, BLOCK_K, causal
                first, first_cut, last = splits.key_tiles.fn(*knobs)
                share = {j for j in seen if split * span <= j < (split + 1) * span}
                assert set(range(first, last)) == {j // BLOCK_K for j in share}, knobs
                # of the keys below first_cut no query misses one, and those after do
                for tile in range(first, last):
                    keys = set(range(tile * BLOCK_K, min((tile + 1) * BLOCK_K, Tk)))
                    common = {j for j in keys if not causal or j <= min(queries) + Tk - Tq}
                    whole = common == keys
                    assert whole if tile < first_cut else not whole or len(keys) < BLOCK_K, knobs


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:All-NaN slice")
@pytest.mark.parametrize("name", ["k", "v"])
def test_what_one_split_has_spoilt_no_other_hides(monkeypatch, name):
    pin(monkeypatch, 4)
    arrays = dict(zip("qkv", cached(2, 1, 1, 600, 16), strict=True))
    arrays[name][:, :, 300, 2] = torch.nan
    out = kv_cache.attention(**arrays, chunk=1)
    assert out.isnan().any(-1).all()


def test_rows_without_keys_give_zeros():
    out = kv_cache.attention(*cached(4, 2, 40, 10, 16), chunk=8, causal=True)
    assert not out[:, :, :30].any() and out[:, :, 30:].all()


@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_tiles_of_the_future_are_not_even_read(monkeypatch):
    pin(monkeypatch, 2)
    q, k, v = cached(1, 1, 64, 64, 16)
    before = kv_cache.attention(q, k, v, chunk=32, causal=True)
    k[:, :, 32:], v[:, :, 32:] = torch.nan, torch.nan
    after = kv_cache.attention(q, k, v, chunk=32, causal=True)
    assert torch.equal(before[:, :, :32], after[:, :, :32])


@each_layout
def test_any_strides_give_the_same_bits(layout, monkeypatch):
    pin(monkeypatch, 2)
    whole = cached(4, 2, 3, 40, 20, 24, batch=2)
    views = [with_nan_margins(tensor, layout) for tensor in whole]
    outs = [kv_cache.attention(*inputs, chunk=3, causal=True) for inputs in (whole, views)]
    assert torch.equal(*outs)


def test_two_runs_give_the_same_bits(monkeypatch):
    pin(monkeypatch, 3)
    inputs = cached(4, 1, 2, 200, 16, dtype=torch.float16)
    assert torch.equal(*(kv_cache.attention(*inputs, chunk=2, causal=True) for _ in range(2)))


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_large_scores_do_not_overflow(scale, monkeypatch):
    pin(monkeypatch, 2)
    q, k, v = cached(2, 1, 2, 70, 16)
    out = kv_cache.attention(q, k, v, chunk=2, scale=scale)
    exact = expected(q.double(), k.double(), v.double(), False, scale)
    assert out.isfinite().all()
    assert (out - exact).abs().max() <= 1e-2  # scores of 1e5 carry roundings of 4e-3


@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_nan_passes_through_to_its_row_only(monkeypatch):
    pin(monkeypatch, 2)
    q, k, v = cached(2, 1, 2, 70, 16)
    q[0, 1, 0, 3] = torch.nan
    isnan = kv_cache.attention(q, k, v, chunk=2).isnan()
    assert isnan[0, 1, 0].all() and isnan.sum() == 16


# The cache


def run_steps(module, state, arrays, cuts):
    outs = []
    for first, last in itertools.pairwise(cuts):
        out, state = module.step(state, *(array[..., first:last, :] for array in arrays))
        outs.append(out)
    return outs, state


@pytest.mark.parametrize("cuts", [range(0, 4), (0, 20, 21), (0, 5, 5, 12)], ids=str)
def test_steps_equal_the_reference(cuts, monkeypatch):
    pin(monkeypatch, 2)
    arrays = cached(4, 2, cuts[-1], cuts[-1], 16, 24, batch=2)
    state = kv_cache.start(*arrays[1:], capacity=3)
    theirs = [array.cpu().numpy() for array in arrays]
    outs, state = run_steps(kv_cache, state, arrays, cuts)
    twins, twin = run_steps(reference, reference.start(*theirs[1:], capacity=3), theirs, cuts)
    for out, expected_ in zip(outs, twins, strict=True):
        torch.testing.assert_close(out.cpu(), torch.from_numpy(expected_))
    assert torch.equal(state.keys, arrays[1]) and torch.equal(state.values, arrays[2])
    for name in ("length", "tokens_copied", "bytes_held", "bytes_used"):
        assert getattr(state, name) == getattr(twin, name), name


def test_one_call_is_what_the_steps_give():
    arrays = cached(2, 1, 20, 20, 16)
    outs, _ = run_steps(kv_cache, kv_cache.start(*arrays[1:]), arrays, range(0, 21, 5))
    whole = kv_cache.attention(*arrays, chunk=5, causal=True)
    torch.testing.assert_close(torch.cat(outs, 2), whole)
    torch.testing.assert_close(whole, grouped.attention(*arrays, causal=True))


def test_room_beyond_the_tokens_is_not_read():
    q, k, v = cached(2, 1, 1, 9, 16)
    state = kv_cache.start(k, v, capacity=64)  # its room is NaN
    state.append(k, v)
    torch.testing.assert_close(
        state.attend(q, causal=True), kv_cache.attention(q, k, v, chunk=1, causal=True)
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda k, v: (k[:, :1], v[:, :1]), r"k must be torch.float32 \(1, 2, 5, 8\) .*1, 1, 5, 8"),
        (lambda k, v: (k, v[..., :7]), r"v must be .*5, 8\) on .*, got torch.float32 \(1, 2, 5, 7"),
        (lambda k, v: (k.double(), v.double()), "k must be torch.float32 .*got torch.float64"),
        (lambda k, v: (k, v[..., :4, :]), "k and v must have the same number of keys"),
        (lambda k, v: (k.to("meta"), v), "k must be torch.float32 .* on meta"),
    ],
)
def test_tokens_that_do_not_fit_the_cache_are_refused_and_nothing_is_written(change, words):
    _, k, v = cached(2, 2, 5, 5, 8)
    cache = kv_cache.start(k, v)
    with pytest.raises(ValueError, match=f"^kv_cache.append: {words}"):
        cache.append(*change(k, v))
    assert cache.length == 0


def test_a_step_that_fails_leaves_the_cache_as_it_was():
    q, k, v = cached(2, 2, 5, 5, 8)
    cache = kv_cache.start(k, v)
    with pytest.raises(ValueError, match=r"^kv_cache.step: q and k must have the same width"):
        kv_cache.step(cache, q[..., :7], k, v)
    assert cache.length == 0


# What the chapter counts


@pytest.mark.skipif(not INTERPRETED, reason="traffic is counted in the interpreter")
@pytest.mark.parametrize(
    ("Tq", "Tk", "causal", "n_splits", "span"),
    [
        (70, 50, True, 1, None),
        (9, 100, True, 2, None),
        (9, 70, False, 2, None),
        (1, 100, True, 4, 64),
    ],
)
def test_flops_and_traffic_are_what_cost_says(Tq, Tk, causal, n_splits, span, monkeypatch):
    pin(monkeypatch, n_splits, span)
    q, k, v = cached(6, 2, Tq, Tk, 24, dtype=torch.float16)
    traced = trace.record(kv_cache.attention, q, k, v, chunk=8, causal=causal)
    knobs = {"chunk": 8, "groups": 2, "causal": causal, "dtype_bytes": 2}
    cost = kv_cache.cost(1, 6, Tq, Tk, 24, **knobs)
    counted = traced.flops, traced.bytes_loaded(), traced.bytes_stored()
    assert counted == (cost.flops, cost.bytes_read, cost.bytes_written)
    assert not traced.out_of_bounds
    kernels = [launch.kernel for launch in traced.launches]
    assert kernels == ["kv_cache_fwd", "merge"][: 1 + (n_splits > 1)]


@pytest.mark.skipif(not INTERPRETED, reason="traffic is counted in the interpreter")
def test_a_key_is_read_once_for_all_heads_of_its_group():
    q, k, v = cached(16, 2, 1, 64, 16)
    traced = trace.record(kv_cache.attention, q, k, v, chunk=1)
    assert traced.bytes_loaded("k") == k.nbytes and traced.bytes_loaded("v") == v.nbytes
    many, one = (
        kv_cache.cost(1, 32, 1, 8192, 128, chunk=1, groups=G, dtype_bytes=2) for G in (32, 1)
    )
    assert 20 < many.bytes_read / one.bytes_read < 32  # 32 but for partial results


def test_splitting_costs_little_traffic():
    sizes = {"chunk": 1, "groups": 8, "dtype_bytes": 2}
    cost = kv_cache.cost(1, 32, 1, 8192, 128, **sizes)
    cache = 2 * 8 * 8192 * 128 * 2
    assert cache < cost.bytes_read + cost.bytes_written < 1.05 * cache


# What cannot run is refused before anything is written


def bad_calls():
    q, k, v = cached(6, 3, 4, 4, 16)
    yield ValueError, "multiple of the heads of k and v, got 5 and 3", (q[:, :5], k, v), {}
    yield ValueError, "same leading axes", (q, k, v[:, :1]), {}
    yield TypeError, "q must be a torch tensor, got ndarray", (q.cpu().numpy(), k, v), {}
    yield ValueError, r"k must have 4 axes .* shape \(4, 16\)", (q, k[0, 0], v), {}
    yield ValueError, "one device", (q, k.to("meta"), v), {}
    yield ValueError, "one dtype", (q, k.half(), v), {}
    yield ValueError, "D must be between 1 and 256, got 257", cached(2, 1, 1, 2, 257, 16), {}
    yield ValueError, "chunk must be at least 1, got 0", (q, k, v), {"chunk": 0}
    yield TypeError, "chunk must be an integer, got float 2.5", (q, k, v), {"chunk": 2.5}
    yield ValueError, "must not require grad", (q.clone().requires_grad_(), k, v), {}


@pytest.mark.parametrize("number", range(len(list(bad_calls()))))
def test_refused(number):
    error, words, args, knobs = list(bad_calls())[number]
    with pytest.raises(error, match=r"^kv_cache\.attention: .*" + words):
        kv_cache.attention(*args, **{"chunk": 1} | knobs)


def test_groups_that_do_not_divide_the_heads_are_refused():
    for module in (kv_cache, reference):
        with pytest.raises(ValueError, match=r"^kv_cache.cost: groups must divide the 6 .* got 4"):
            module.cost(1, 6, 4, 4, 16, chunk=1, groups=4)


# Only a GPU proves these


@pytest.mark.gpu
@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_number_of_splits_and_rows_gives_right_values(width, dtype, monkeypatch):
    for H, Tq in ((2, 1), (20, 1), (4, 30)):  # tiles of 16, 32 and 64 rows
        q, k, v = cached(H, 1, Tq, 1000, width, batch=2, dtype=dtype)
        for n_splits in (1, 2, 3, 7, 16, 31, 64, 128):
            pin(monkeypatch, n_splits)
            is_right(kv_cache.attention(q, k, v, chunk=Tq, causal=True), q, k, v, True)


@pytest.mark.gpu
@pytest.mark.parametrize("n_keys", [8192, 131072])
def test_long_caches_as_they_are_split_on_this_gpu(n_keys):
    q, k, v = cached(32, 8, 1, n_keys, 128, dtype=torch.bfloat16)
    is_right(kv_cache.attention(q, k, v, chunk=1, causal=True), q, k, v, True)


@pytest.mark.gpu
def test_offsets_beyond_32_bits():
    room = torch.zeros(2**32, dtype=torch.float16, device="cuda")
    far = [
        room.as_strided((1, heads, 64, 16), (1, 2**32 // heads, 2**24, 1), 16 * i).normal_()
        for i, heads in enumerate((4, 2, 2))
    ]
    results = [
        kv_cache.attention(*inputs, chunk=64, causal=True)
        for inputs in (far, [tensor.contiguous() for tensor in far])
    ]
    assert torch.equal(*results)


@pytest.mark.gpu
@pytest.mark.parametrize("sizes", [(1, 65536), (512, 512)], ids=str)
def test_extra_memory_is_what_cost_says(sizes):
    Tq, Tk = sizes
    q, k, v = cached(64, 8, Tq, Tk, 128, batch=2, dtype=torch.bfloat16)
    kv_cache.attention(q, k, v, chunk=64, causal=True)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    kv_cache.attention(q, k, v, chunk=64, causal=True)
    peak = torch.cuda.max_memory_allocated() - before
    knobs = {"chunk": 64, "groups": 8, "causal": True, "dtype_bytes": 2}
    expected_ = kv_cache.cost(2, 64, Tq, Tk, 128, **knobs).peak_bytes
    assert abs(peak - expected_) <= 0.02 * expected_ + 1024  # the allocator's blocks of 512 bytes


def test_no_room_says_what_would_fit_and_leaves_the_cache_as_it_was(monkeypatch):
    k, v = tensors(3, 3, 16)[1:]
    words = r"64\.0 TiB asked for 549755813888 tokens, .* are free: \d+ tokens would fit"
    with pytest.raises(torch.OutOfMemoryError, match=r"^kv_cache\.start: " + words):
        kv_cache.start(k, v, capacity=2**39)
    cache = kv_cache.start(k, v)
    cache.append(k, v)
    made, new_empty = [], torch.Tensor.new_empty

    def second_fails(tensor, *sizes, **knobs):
        made.append(sizes)
        if len(made) == 2:
            raise torch.OutOfMemoryError("Tried to allocate 7 GiB")
        return new_empty(tensor, *sizes, **knobs)

    monkeypatch.setattr(torch.Tensor, "new_empty", second_fails)
    with pytest.raises(torch.OutOfMemoryError, match=r"^kv_cache\.append: .* asked for 6 tokens"):
        cache.append(k, v)
    assert cache.length == 3 and torch.equal(cache.keys, k) and torch.equal(cache.values, v)
