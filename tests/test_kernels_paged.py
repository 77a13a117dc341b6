"""Split-KV attention over a block table: in the interpreter, or on the GPU where there is one."""

import itertools
import random
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("Triton has no wheels for this platform", allow_module_level=True)

from attncourse import trace
from attncourse.kernels import INTERPRETED, kv_cache, paged
from attncourse.kernels._parts import splits
from attncourse.reference import paged as reference

import torch  # isort: skip
from test_kernels_kv_cache import cached, is_right, pin, run_steps
from twins import DEVICE, each_dtype, tensors

pytestmark = pytest.mark.usefixtures("new_memory_is_full_of_nan")


def in_pages(k, v, lengths, page, *, spare=2, dtype=torch.int32):
    """The first tokens of each sequence in a pool of NaN, in pages of any order, and the table."""
    counts = [-(-length // page) for length in lengths]
    numbers = list(range(sum(counts) + spare))
    random.Random(0).shuffle(numbers)
    pools = [
        tensor.new_full((len(numbers), tensor.shape[1], page, tensor.shape[3]), torch.nan)
        for tensor in (k, v)
    ]
    table = torch.full((len(lengths), max(counts) + 1), 10**6, dtype=dtype)  # points nowhere
    for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        for slot in range(count):
            table[row, slot] = number = numbers.pop()
            tokens = slice(slot * page, min((slot + 1) * page, length))
            for pool, tensor in zip(pools, (k, v), strict=True):
                pool[number, :, : tokens.stop - tokens.start] = tensor[row, :, tokens]
    return *pools, table.to(DEVICE), torch.tensor(lengths, dtype=dtype, device=DEVICE)


@each_dtype(
    # (page, lengths, Tq, causal, n_splits)
    [
        (1, [63, 0, 20], 1, True, 2),
        (7, [64, 100, 1], 2, True, 3),
        (16, [100, 33], 1, False, 2),
        (64, [100, 64], 5, True, 1),
        (128, [0, 0], 1, True, 1),
    ]
)
def test_any_pages_in_any_order_equal_the_contiguous_cache_to_the_bit(case, dtype, monkeypatch):
    page, lengths, Tq, causal, n_splits = case
    q, k, v = cached(4, 2, Tq, max(lengths), 16, 24, batch=len(lengths), dtype=dtype)
    pin(monkeypatch, n_splits, span=-(-max(max(lengths), 1) // (n_splits * 64)) * 64)
    out = paged.attend(q, *in_pages(k, v, lengths, page), causal=causal)
    for row, length in enumerate(lengths):
        one = q[row, None], k[row, None, :, :length], v[row, None, :, :length]
        alone = kv_cache.attention(*one, chunk=Tq, causal=causal)
        assert torch.equal(out[row, None], alone), row


def test_attention_against_float64(monkeypatch):
    pin(monkeypatch, 2)
    q, k, v = cached(3, 1, 30, 70, 20, 16, batch=2)
    is_right(paged.attention(q, k, v, page=48, causal=True), q, k, v, True)


def test_the_longest_sequence_decides_how_the_keys_are_split(monkeypatch):
    asked = []
    share_out = splits.share_out
    monkeypatch.setattr(
        splits, "share_out", lambda *sizes: asked.append(sizes) or share_out(*sizes)
    )
    q, k, v = cached(2, 1, 1, 20, 16, batch=2)
    paged.attend(q, *in_pages(k, v, [3, 20], 64))  # whose pages would hold more
    assert [n_keys for _, n_keys, _ in asked] == [20]


def test_the_table_may_hold_64_bits_and_be_strided(monkeypatch):
    q, k, v = cached(2, 1, 1, 40, 16, batch=2)
    *pools, table, lengths = in_pages(k, v, [40, 9], 8, dtype=torch.int64)
    strided = table.repeat_interleave(2, 1)[:, ::2], lengths.repeat_interleave(3)[::3]
    assert torch.equal(paged.attend(q, *pools, *strided), paged.attend(q, *pools, table, lengths))


# The cache


@pytest.mark.parametrize("page", [6, 64])
def test_steps_equal_the_reference_and_so_do_the_tables(page, monkeypatch):
    pin(monkeypatch, 2)
    arrays = cached(4, 2, 20, 20, 16, 24, batch=2)
    theirs = [array.cpu().numpy() for array in arrays]
    cuts = (0, 13, 14, 15, 20)
    outs, state = run_steps(paged, paged.start(*arrays[1:], page=page), arrays, cuts)
    twins, twin = run_steps(reference, reference.start(*theirs[1:], page=page), theirs, cuts)
    for out, expected in zip(outs, twins, strict=True):
        torch.testing.assert_close(out.cpu(), torch.from_numpy(expected))
    assert state.pages == [table.pages for table in twin.tables]
    assert state.lengths == [20, 20] and state.n_free == twin.pool.n_free


def test_released_pages_serve_other_sequences_of_other_lengths():
    q, k, v = cached(2, 1, 1, 40, 16, batch=2)
    cache = paged.start(k, v, page=8, n_pages=6)
    cache.append(k[:, :, :20], v[:, :, :20])
    cache.release(0)
    cache.append(k[:, :, 20:24], v[:, :, 20:24])
    assert cache.lengths == [4, 24] and cache.n_free == 2
    out = cache.attend(q, causal=True)
    for row, first in ((0, 20), (1, 0)):
        tokens = slice(first, 24)
        alone = kv_cache.attention(
            q[row, None], k[row, None, :, tokens], v[row, None, :, tokens], chunk=1
        )
        torch.testing.assert_close(out[row, None], alone)


def test_too_few_pages_are_said_and_no_sequence_has_grown():
    _, k, v = cached(2, 2, 1, 9, 16, batch=2)
    cache = paged.start(k, v, page=4, n_pages=5)
    cache.append(k[:, :, :4], v[:, :, :4])
    with pytest.raises(MemoryError, match=r"^paged.append: 4 pages asked for, 3 of 5 free$"):
        cache.append(k[:, :, 4:], v[:, :, 4:])
    assert cache.lengths == [4, 4] and cache.n_free == 3
    for bad in ((k[:1], v[:1]), (k.double(), v.double()), (k, v[..., :7])):
        with pytest.raises(ValueError, match=r"^paged.append: [kv] must be torch.float32"):
            cache.append(*bad)


# What the chapter counts


@pytest.mark.skipif(not INTERPRETED, reason="traffic is counted in the interpreter")
@pytest.mark.parametrize(
    ("Tq", "page", "causal", "n_splits", "span"),
    [(70, 16, True, 1, None), (3, 7, True, 2, None), (1, 64, False, 4, 64)],
)
def test_flops_and_traffic_are_what_cost_says(Tq, page, causal, n_splits, span, monkeypatch):
    pin(monkeypatch, n_splits, span)
    q, k, v = cached(4, 2, Tq, 90, 24, dtype=torch.float16)
    traced = trace.record(paged.attention, q, k, v, page=page, causal=causal)
    cost = paged.cost(1, 4, Tq, 90, 24, page=page, groups=2, causal=causal, dtype_bytes=2)
    counted = traced.flops, traced.bytes_loaded(), traced.bytes_stored()
    assert counted == (cost.flops, cost.bytes_read, cost.bytes_written)
    assert not traced.out_of_bounds
    kernels = [launch.kernel for launch in traced.launches]
    assert kernels == ["paged_append", "paged_fwd", "merge"][: 2 + (n_splits > 1)]


@pytest.mark.skipif(not INTERPRETED, reason="accesses are seen in the interpreter")
def test_a_short_sequence_leaves_its_splits_at_once(monkeypatch):
    pin(monkeypatch, 4, span=32)
    q, k, v = cached(2, 1, 1, 128, 16, batch=2)
    *pools, table, lengths = in_pages(k, v, [128, 40], 16)
    traced = trace.record(paged.attend, q, *pools, table, lengths)
    assert not traced.out_of_bounds
    for tensor in ("key_pages", "value_pages"):
        assert traced.bytes_loaded(tensor) == (128 + 40) * 16 * 4  # each token once
    assert traced.bytes_loaded("table") == (128 + 40) * 4
    loads = {access.program for access in traced.accesses if access.tensor == "q"}
    assert loads == {(split, 0, row) for split in range(4) for row in (0, 1)} - {
        (2, 0, 1),
        (3, 0, 1),
    }


# What cannot run is refused before anything is launched


def refused(error, words, *args):
    with trace.recording() if INTERPRETED else pytest.MonkeyPatch.context() as traced:
        with pytest.raises(error, match=r"^paged\.attend: .*" + words):
            paged.attend(*args)
        assert not INTERPRETED or not traced.launches


@pytest.mark.parametrize("bad", [4, -1, 10**9])
def test_a_table_that_points_outside_the_pool_is_refused(bad):
    q, k, v = cached(2, 2, 1, 8, 16, batch=2)
    *pools, table, lengths = in_pages(k, v, [4, 8], 4, spare=1)
    table[1, 1] = bad
    words = rf"table must point to pages 0 \.\.\. 3, got {bad} for sequence 1$"
    refused(ValueError, words, q, *pools, table, lengths)
    lengths[1] = 4
    assert paged.attend(q, *pools, table, lengths).isfinite().all()  # beyond its length


def test_a_sequence_longer_than_its_pages_is_refused():
    q, k, v = cached(2, 2, 1, 8, 16, batch=2)
    *pools, table, lengths = in_pages(k, v, [8, 8], 4, spare=0)
    for wrong, words in ((13, "sequence 1 has 13 tokens, its 3 pages hold 12"), (-1, "has -1 tok")):
        lengths[1] = wrong
        refused(ValueError, words, q, *pools, table, lengths)


def test_tensors_that_do_not_belong_together_are_refused():
    q, k, v = cached(4, 2, 1, 8, 16, batch=2)
    good = [q, *in_pages(k, v, [8, 8], 4)]
    bad = [
        (0, lambda q: q[0], ValueError, "q must have 4 axes"),
        (0, lambda q: q.cpu().numpy(), TypeError, "q must be a torch tensor, got ndarray"),
        (0, lambda q: q[:, :3], ValueError, "multiple of the heads of k and v, got 3 and 2"),
        (0, lambda q: q[..., :7], ValueError, "q and k must have the same width"),
        (0, lambda q: q.half(), ValueError, "one dtype"),
        (0, lambda q: q.clone().requires_grad_(), ValueError, "must not require grad"),
        (1, lambda pages: pages[:, :, :3], ValueError, "same number of keys"),
        (2, lambda pages: pages[1:], ValueError, "must be as many, got 6 and 5"),
        (3, lambda table: table.float(), TypeError, "table must hold int32 or int64 .*float32"),
        (3, lambda table: table.tolist(), TypeError, "table must hold .*got list"),
        (3, lambda table: table[:1], ValueError, "table must have a row for each of 2"),
        (3, lambda table: table.to("meta"), ValueError, "table must be on .*, got meta"),
        (4, lambda lengths: lengths[:, None], ValueError, "lengths must have a row for each of 2"),
        (4, lambda lengths: lengths.bool(), TypeError, "lengths must hold int32 or int64 .*bool"),
    ]
    for place, change, error, words in bad:
        arguments = list(good)
        arguments[place] = change(arguments[place])
        refused(error, words, *arguments)


def test_the_refusals_are_those_of_the_reference():
    q, k, v = cached(2, 2, 1, 8, 16, batch=2)
    for number, length in ((9, 8), (0, 99)):
        arguments = [q, *in_pages(k, v, [8, 8], 4)]
        arguments[3][1, 1], arguments[4][1] = number, length
        messages = []
        for module, convert in ((paged, lambda t: t), (reference, lambda t: t.cpu().numpy())):
            with pytest.raises(ValueError) as caught:
                module.attend(*map(convert, arguments))
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


def bad_calls():
    q, k, v = cached(6, 3, 4, 4, 16)
    yield ValueError, "multiple of the heads of k and v, got 5 and 3", (q[:, :5], k, v), {}
    yield ValueError, "page must be at least 1, got 0", (q, k, v), {"page": 0}
    yield TypeError, "page must be an integer, got float 2.5", (q, k, v), {"page": 2.5}
    yield ValueError, "must not require grad", (q, k.clone().requires_grad_(), v), {}


@pytest.mark.parametrize("number", range(len(list(bad_calls()))))
def test_refused(number):
    error, words, args, knobs = list(bad_calls())[number]
    with pytest.raises(error, match=r"^paged\.attention: .*" + words):
        paged.attention(*args, **{"page": 4} | knobs)


def test_no_sequences_give_empty_outputs():
    q, k, v = cached(4, 2, 3, 3, 16, batch=0)
    assert paged.attention(q, k, v, page=2).shape == (0, 4, 3, 16)


# Only a GPU proves these


@pytest.mark.gpu
@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_number_of_splits_equals_the_contiguous_cache(width, dtype, monkeypatch):
    lengths = [1000, 1, 0, 513, 640]
    for (H, Tq), page in itertools.product(((2, 1), (20, 1), (4, 30)), (1, 16, 60, 256)):
        q, k, v = cached(H, 1, Tq, 1000, width, batch=5, dtype=dtype)
        pages = in_pages(k, v, lengths, page)
        for n_splits in (1, 2, 7, 16, 128):
            pin(monkeypatch, n_splits, span=-(-1000 // (n_splits * 64)) * 64)
            out = paged.attend(q, *pages, causal=True)
            for row, length in enumerate(lengths):
                one = q[row, None], k[row, None, :, :length], v[row, None, :, :length]
                alone = kv_cache.attention(*one, chunk=Tq, causal=True)
                assert torch.equal(out[row, None], alone)


@pytest.mark.gpu
def test_pools_beyond_32_bits():
    """A pool of 2³² numbers, of which the table names the last pages."""
    pools = [torch.zeros(2**16, 2, 512, 64, dtype=torch.float16, device="cuda") for _ in range(2)]
    q, k, v = cached(4, 2, 1, 1000, 64, dtype=torch.float16)
    table = torch.tensor([[2**16 - 1, 2**16 - 3]], device="cuda")
    for pool, tensor in zip(pools, (k, v), strict=True):
        pool[2**16 - 1] = tensor[0, :, :512]
        pool[2**16 - 3, :, :488] = tensor[0, :, 512:]
    out = paged.attend(q, *pools, table, torch.tensor([1000], device="cuda"))
    assert torch.equal(out, kv_cache.attention(q, k, v, chunk=1))


@pytest.mark.gpu
def test_extra_memory_is_what_cost_says():
    q, k, v = cached(64, 8, 1, 60_000, 128, batch=2, dtype=torch.bfloat16)
    paged.attention(q, k, v, page=64, causal=True)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    paged.attention(q, k, v, page=64, causal=True)
    peak = torch.cuda.max_memory_allocated() - before
    knobs = {"page": 64, "groups": 8, "causal": True, "dtype_bytes": 2}
    expected = paged.cost(2, 64, 1, 60_000, 128, **knobs).peak_bytes
    assert abs(peak - expected) <= 0.02 * expected


def test_no_room_says_how_many_pages_would_fit():
    k, v = tensors(3, 3, 16)[1:]
    words = r"64\.0 TiB asked for 137438953472 pages, .* are free: \d+ pages would fit"
    with pytest.raises(torch.OutOfMemoryError, match=r"^paged\.start: " + words):
        paged.start(k, v, page=4, n_pages=2**37)
