import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import measure
from attncourse.inputs import random_qkv
from attncourse.reference import full, grouped, paged


def pool_of(n_pages, page=4, heads=2, width=8):
    return paged.PagePool(n_pages, page, heads, width, dtype=np.float64)


def tokens(n, seed=0, heads=2):
    _, k, v = random_qkv(n, heads=heads, width=8, seed=seed, dtype=np.float64)
    return k[0], v[0]


def contents(table):
    """The keys and values of a sequence, put together token by token."""
    page, pool = table.pool.page, table.pool
    where = [(table.pages[j // page], slice(None), j % page) for j in range(table.length)]
    return [
        np.stack([store[spot] for spot in where], axis=1)
        if where
        else store[:0, :, 0].swapaxes(0, 1)
        for store in (pool.keys, pool.values)
    ]


def holds(table, k, v):
    return all(np.array_equal(a, b) for a, b in zip(contents(table), (k, v), strict=True))


# Attention over pages


@given(
    page=st.integers(1, 20),
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
    n_queries=st.integers(1, 5),
    causal=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_any_page_size_and_any_order_of_pages_equal_the_contiguous_cache(
    page, lengths, order, n_queries, causal
):
    counts = [-(-length // page) for length in lengths]
    numbers = list(range(sum(counts) + 2))
    order.shuffle(numbers)
    key_pages = np.full((len(numbers), 2, page, 8), np.nan)  # a page's room beyond its tokens
    value_pages = np.full((len(numbers), 2, page, 5), np.nan)
    table = np.full((len(lengths), max(counts) + 1), 10**6)  # unused entries point nowhere
    q, _, _ = random_qkv(n_queries, batch=len(lengths), heads=4, width=8, dtype=np.float64)
    expected = []
    for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        _, k, v = random_qkv(length, heads=2, width=8, value_width=5, seed=row, dtype=np.float64)
        table[row, :count] = [numbers.pop() for _ in range(count)]
        for slot, number in enumerate(table[row, :count]):
            part = slice(slot * page, (slot + 1) * page)
            filled = min(page, length - slot * page)
            key_pages[number, :, :filled] = k[0, :, part]
            value_pages[number, :, :filled] = v[0, :, part]
        expected.append(grouped.attention(q[row], k[0], v[0], causal=causal))
    out = paged.attend(q, key_pages, value_pages, table, np.array(lengths), causal=causal)
    np.testing.assert_allclose(out, expected, atol=1e-13)


@pytest.mark.parametrize("page", [1, 3, 16, 100])
def test_token_by_token_equals_full_causal_attention(page):
    q, k, v = random_qkv(40, batch=3, heads=2, width=8, value_width=5, dtype=np.float64)
    state, outs = paged.start(k, v, page=page), []
    for t in range(40):
        one = slice(t, t + 1)
        out, state = paged.step(state, q[..., one, :], k[..., one, :], v[..., one, :])
        outs.append(out)
    expected = full.attention(q, k, v, causal=True)
    np.testing.assert_allclose(np.concatenate(outs, axis=-2), expected, atol=1e-14)
    if page < 40:  # the sequences' pages alternate in the pool
        assert np.all(np.diff(state.tables[0].pages) != 1)


def test_a_page_that_lies_elsewhere_is_not_gathered():
    q, k, v = random_qkv(4096, heads=2, dtype=np.float16)
    cache = paged.start(k, v, page=16)
    cache.append(k, v)
    peak = measure.peak_bytes(cache.attend, q[..., -1:, :], causal=True)
    assert peak < k.nbytes / 10


def test_groups_count_in_the_cost():
    for causal in (False, True):
        q, _, _ = random_qkv(20, heads=6, batch=2, width=16)
        _, k, v = random_qkv(20, heads=2, batch=2, width=16)
        knobs = {"page": 8, "causal": causal}
        counted = measure.count_flops(paged.attention, q, k, v, **knobs)
        assert counted == paged.cost(2, 6, 20, 20, 16, groups=2, **knobs).flops


# The pool and the tables


def test_appending_takes_pages_only_when_the_last_is_full():
    pool = pool_of(3)
    table = paged.PageTable(pool)
    k, v = tokens(9)
    held = []
    for t in range(9):
        table.append(k[:, t : t + 1], v[:, t : t + 1])
        held.append(len(table.pages))
    assert held == [1, 1, 1, 1, 2, 2, 2, 2, 3]
    assert holds(table, k, v) and pool.n_free == 0


def test_freed_pages_serve_the_next_sequence():
    pool = pool_of(2)
    first, second = paged.PageTable(pool), paged.PageTable(pool)
    first.append(*tokens(8))
    with pytest.raises(MemoryError):
        second.append(*tokens(1))
    first.truncate()
    assert pool.n_free == 2 and first.pages == [] and first.length == 0
    second.append(*tokens(8, seed=1))
    assert holds(second, *tokens(8, seed=1))


def test_truncating_keeps_the_tokens_before_and_their_pages():
    pool = pool_of(3)
    table = paged.PageTable(pool)
    k, v = tokens(10)
    table.append(k, v)
    table.truncate(5)
    assert pool.n_free == 1 and holds(table, k[:, :5], v[:, :5])
    table.append(k[:, 5:], v[:, 5:])
    assert holds(table, k, v)


def test_a_fork_shares_pages_until_one_of_the_two_writes():
    pool = pool_of(5)
    prompt, (k, v) = paged.PageTable(pool), tokens(10)
    prompt.append(k, v)
    twin = prompt.fork()
    assert pool.n_free == 2 and holds(twin, k, v)
    new = tokens(1, seed=1)
    twin.append(*new)  # the last page has room for it, but belongs to both
    assert pool.n_free == 1
    assert twin.pages[:2] == prompt.pages[:2] and twin.pages[2] != prompt.pages[2]
    other = tokens(1, seed=2)
    prompt.append(*other)  # its last page is its own again
    assert pool.n_free == 1
    assert holds(twin, *(np.concatenate(pair, axis=1) for pair in zip((k, v), new, strict=True)))
    assert holds(prompt, *(np.concatenate(p, axis=1) for p in zip((k, v), other, strict=True)))
    twin.truncate()
    prompt.truncate()
    assert pool.n_free == 5 and not pool.owners.any()


def test_full_shared_pages_are_never_copied():
    pool = pool_of(3)
    prompt = paged.PageTable(pool)
    prompt.append(*tokens(8))
    twin = prompt.fork()
    twin.append(*tokens(0))
    assert pool.n_free == 1
    twin.append(*tokens(4, seed=1))
    assert pool.n_free == 0 and twin.pages[:2] == prompt.pages


@given(
    page=st.integers(1, 5),
    moves=st.lists(
        st.tuples(st.sampled_from("afffta"), st.integers(0, 9), st.integers(0, 9)), max_size=30
    ),
)
@settings(max_examples=60, deadline=None)
def test_any_history_keeps_every_sequence_and_leaks_no_page(page, moves):
    pool = pool_of(20, page, heads=1)
    k, v = tokens(1000, heads=1)
    written = 0
    known = [(paged.PageTable(pool), [])]  # each table beside the tokens it must hold
    for move, which, count in moves:
        table, expected = known[which % len(known)]
        if move == "a":
            new = list(range(written, written + count))
            needed, free = table.length + count, pool.n_free
            try:
                table.append(k[:, new], v[:, new])
            except MemoryError:
                assert pool.n_free == free and table.length == needed - count
                continue
            expected += new
            written += count
        elif move == "f":
            known.append((table.fork(), list(expected)))
        else:
            keep = min(count, table.length)
            table.truncate(keep)
            del expected[keep:]
    for table, expected in known:
        assert holds(table, k[:, expected], v[:, expected])
    held = [number for table, _ in known for number in table.pages]
    assert np.array_equal(pool.owners, np.bincount(np.array(held, dtype=int), minlength=20))
    assert pool.n_free == np.sum(pool.owners == 0)


def test_a_batch_grows_as_a_whole_or_not_at_all():
    _, k, v = random_qkv(4, batch=3, heads=2, width=8)
    cache = paged.start(k, v, page=4, n_pages=4)
    cache.append(k, v)
    with pytest.raises(MemoryError, match="1 pages asked for, 0 of 4 free"):
        cache.append(k, v)
    assert [table.length for table in cache.tables] == [4, 4, 4] and cache.pool.n_free == 1


# Waste


def test_waste_is_less_than_one_page_a_sequence():
    # Claim C038, in numbers
    lengths = np.random.default_rng(0).integers(1, 2048, 200)
    for page in (1, 16, 64):
        wasted = paged.waste(lengths, page)
        pool = paged.PagePool(-(-lengths // page).sum(), page, 1, 1)
        for length, waste in zip(lengths, wasted, strict=True):
            table = paged.PageTable(pool)
            table.append(*np.zeros((2, 1, length, 1), dtype=np.float32))
            assert len(table.pages) * page - length == waste < page
        assert paged.utilisation(lengths, page) == lengths.sum() / (lengths.sum() + wasted.sum())
    assert paged.utilisation(lengths, 1) == 1
    assert paged.utilisation(lengths, 16) > 0.99
    padded = paged.utilisation(lengths, int(lengths.max()))
    assert padded == lengths.sum() / (len(lengths) * lengths.max()) and padded < 0.6


def test_no_sequences_waste_nothing():
    assert paged.waste([], 16).shape == (0,) and paged.utilisation([0, 0], 16) == 0
    with pytest.raises(ValueError, match=r"paged.waste: page must be at least 1, got 0"):
        paged.waste([3], 0)


# Errors


def attend(table, lengths, **changes):
    pool = pool_of(4)
    pool.keys[:] = pool.values[:] = 0
    arguments = {"q": np.zeros((len(lengths), 2, 1, 8))}
    arguments |= {"key_pages": pool.keys, "value_pages": pool.values} | changes
    return paged.attend(**arguments, table=table, lengths=lengths)


@pytest.mark.parametrize("bad", [4, -1, 10**9])
def test_a_table_that_points_outside_the_pool_is_refused(bad):
    words = rf"^paged.attend: table must point to pages 0 \.\.\. 3, got {bad} for sequence 1$"
    with pytest.raises(ValueError, match=words):
        attend(np.array([[0, 1], [2, bad]]), np.array([8, 5]))
    unused = attend(np.array([[0, 1], [2, bad]]), np.array([8, 4]))  # beyond its length
    assert unused.shape == (2, 2, 1, 8)


def test_a_sequence_longer_than_its_pages_is_refused():
    with pytest.raises(ValueError, match="sequence 1 has 9 tokens, its 2 pages hold 8"):
        attend(np.array([[0, 1], [2, 3]]), np.array([8, 9]))
    with pytest.raises(ValueError, match="sequence 0 has -1 tokens"):
        attend(np.array([[0, 1]]), np.array([-1]))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"table": np.zeros((1, 2))}, TypeError, "table must be an array of integers"),
        ({"table": [[0, 1]]}, TypeError, "table must be an array of integers"),
        ({"lengths": np.zeros(1)}, TypeError, "lengths must be an array of integers"),
        ({"table": np.zeros((3, 2), int)}, ValueError, "table must have a row for each of 1"),
        ({"lengths": np.zeros((1, 1), int)}, ValueError, "lengths must have a row for each of 1"),
        ({"q": np.zeros((2, 1, 8))}, ValueError, "q must have 4 axes, got shape"),
        (
            {"q": np.zeros((1, 3, 1, 8))},
            ValueError,
            "multiple of the heads of k and v, got 3 and 2",
        ),
        ({"q": np.zeros((1, 2, 1, 7))}, ValueError, "q and k must have the same width"),
        ({"value_pages": np.zeros((4, 2, 3, 8))}, ValueError, "same number of keys"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(changes, error, words):
    with pytest.raises(error, match=f"^paged.attend: .*{words}"):
        attend(**({"table": np.array([[0, 1]]), "lengths": np.array([8])} | changes))


def test_running_out_of_pages_says_how_many_were_asked_for_and_are_free():
    pool = pool_of(3)
    table = paged.PageTable(pool)
    table.append(*tokens(5))
    with pytest.raises(MemoryError, match=r"^paged.allocate: 3 pages asked for, 1 of 3 free$"):
        table.append(*tokens(12))
    assert table.length == 5 and pool.n_free == 1 and holds(table, *tokens(5))


def test_pages_are_given_back_once():
    pool = pool_of(2)
    taken = pool.allocate(1)
    pool.release(taken)
    with pytest.raises(ValueError, match=r"paged.release: page 0 is free already"):
        pool.release(taken)


def test_other_bad_arguments_are_refused():
    k, v = tokens(3)
    table = paged.PageTable(pool_of(2))
    with pytest.raises(
        ValueError, match=r"paged.append: k must be float64 \(2, 3, 8\), got float32"
    ):
        table.append(k.astype(np.float32), v.astype(np.float32))
    with pytest.raises(ValueError, match=r"paged.append: k must be .*got float64 \(1, 3, 8\)"):
        table.append(k[:1], v[:1])
    with pytest.raises(ValueError, match=r"paged.truncate: 1 tokens to keep, there are 0"):
        table.truncate(1)
    with pytest.raises(ValueError, match=r"paged.PagePool: page must be at least 1, got 0"):
        paged.PagePool(1, 0, 1, 1)
