"""The clock of a step, and who is in the batch: by hand, and by laws that any engine obeys."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import serving
from attncourse.cost import Device
from attncourse.serving import Clock, Request

# 100 FLOP/s and 10 B/s, 5 weights of 2 bytes, 1 byte a token: a step of few tokens takes 1 s, one
# of more than ten 0.1 s a token, and each token in a cache 0.1 s
TOY = Clock(Device("toy", 100, 10, 1000, ""), weights=5, token_bytes=1)
FLAT = Clock(Device("flat", 10**9, 10, 10**6, ""), weights=5, token_bytes=0)  # a step takes 1 s

some_requests = st.lists(
    st.builds(Request, st.floats(0, 30), st.integers(1, 9), st.integers(1, 9)),
    min_size=1,
    max_size=15,
)


def test_a_step_takes_its_weights_or_its_products_and_its_caches():
    assert TOY.seconds(1, 0) == TOY.seconds(10, 0) == 1.0
    assert TOY.seconds(30, 0) == 3.0
    assert TOY.seconds(1, 20) == pytest.approx(3.0)
    assert TOY.room == 1000 - 10


def test_three_texts_by_hand_joining_and_in_batches():
    requests = [Request(0, 1, 3), Request(0, 1, 1), Request(0, 1, 2)]
    joining = serving.serve(requests, slots=2, clock=FLAT)
    np.testing.assert_allclose(joining.first, [1, 1, 2])
    np.testing.assert_allclose(joining.last, [3, 1, 3])
    batches = serving.serve(requests, slots=2, join=False, clock=FLAT)
    np.testing.assert_allclose(batches.first, [1, 1, 4])
    np.testing.assert_allclose(batches.last, [3, 1, 5])
    waited = next(span for span in batches.spans if span.request == 1)
    assert (waited.start, waited.done, waited.stop) == (0, 1, 3)
    assert joining.tokens_a_second == 6 / 3 and batches.tokens_a_second == 6 / 5


def test_the_reading_of_a_prompt_is_part_of_the_step_that_takes_it_in():
    one = serving.serve([Request(2, 30, 2)], slots=1, clock=TOY)
    np.testing.assert_allclose(one.first, [2 + 3.0])  # 30 tokens are read
    np.testing.assert_allclose(one.last, [5.0 + 1.0 + 3.1])  # 31 are in the cache
    np.testing.assert_allclose(one.waits, [3.0])


def test_who_finds_no_page_for_its_next_token_is_thrown_out_and_read_again():
    requests = [Request(0, 3, 3), Request(0, 3, 3)]
    served = serving.serve(requests, slots=2, page=1, room=8, clock=FLAT)
    assert served.thrown_out == 1
    # both write a token, 4 + 4 are held; then the second goes, and comes back with its 4 tokens
    np.testing.assert_allclose(served.first, [1, 1])
    np.testing.assert_allclose(served.last, [3, 5])
    alone = serving.serve(requests, slots=2, room=8, clock=FLAT)  # each reserves 6
    np.testing.assert_allclose(alone.last, [3, 6])


def test_who_would_have_no_room_for_its_next_token_waits_and_is_not_thrown_out():
    requests = [Request(0, 3, 1), Request(0, 4, 1)]
    served = serving.serve(requests, slots=2, page=1, room=8, clock=FLAT)  # 4 + 4, but not 4 + 5
    assert served.thrown_out == 0
    np.testing.assert_allclose(served.first, [1, 2])


@given(requests=some_requests, slots=st.integers(1, 5), page=st.sampled_from([None, 1, 4]))
@settings(max_examples=60, deadline=None)
def test_all_are_served_and_no_slot_has_two(requests, slots, page):
    for join in (False, True):
        served = serving.serve(requests, slots=slots, join=join, page=page, room=24, clock=FLAT)
        assert (served.last >= served.first).all() and (served.waits >= 1 - 1e-9).all()
        written = [one.answer for one in requests]
        assert (served.last - served.first >= np.array(written) - 1 - 1e-6).all()
        spans = sorted(served.spans, key=lambda span: (span.slot, span.start))
        for before, after in itertools.pairwise(spans):
            assert before.slot != after.slot or after.start >= before.stop
        assert len(spans) == len(requests) + served.thrown_out
        assert max(span.slot for span in spans) < slots


@given(requests=some_requests, slots=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_with_one_slot_joining_changes_nothing_and_with_more_it_takes_no_more_steps(
    requests, slots
):
    ways = [serving.serve(requests, slots=slots, join=join, clock=FLAT) for join in (True, False)]
    together = [Request(0, one.prompt, one.answer) for one in requests]
    steps = [serving.serve(together, slots=slots, join=j, clock=FLAT).steps for j in (True, False)]
    assert steps[0] <= steps[1]
    if slots == 1:
        np.testing.assert_allclose(ways[0].last, ways[1].last)


@given(requests=some_requests, page=st.integers(1, 5), room=st.integers(24, 60))
@settings(max_examples=40, deadline=None)
def test_pages_never_hold_more_than_there_is_room(requests, page, room):
    seen = []
    step = serving._Engine._step

    def watched(self, new):
        step(self, new)
        seen.append(sum(self.held(text.length) for text in self.batch))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving._Engine, "_step", watched)
        serving.serve(requests, slots=6, page=page, room=room, clock=FLAT)
    assert max(seen) <= room


def test_functions_are_requests():
    source = 'def f(x):\n    """Say."""\n    a = x\n    return a\n\n\ndef g():\n    return 1\n'
    lengths = serving.functions_of(source, lambda piece: piece.count("\n"))
    assert lengths == [(2, 2), (1, 1)]
    assert serving.functions_of("x = 1\n", len) == []


def test_functions_are_cut_at_the_lines_that_the_parser_counts():
    source = 'x = 1\n\x0c\nasync def f(x):\n    """Say."""\n    return x\n'
    assert serving.functions_of(source, lambda piece: piece.count("\n")) == [(2, 1)]


def test_clocks_before_zero_and_numbers_of_numpy_are_served_too():
    early = [Request(-5, np.int8(100), np.int8(100)), Request(-3, np.int8(1), np.int8(1))]
    served = serving.serve(iter(early), slots=np.int64(1), clock=FLAT, room=np.int16(200))
    np.testing.assert_allclose(served.last, [95, 96])


def test_arrivals_are_the_same_each_time_and_sooner_at_a_higher_rate():
    slow, fast = (serving.arrivals([(1, 2), (3, 4)], 200, rate=rate) for rate in (2.0, 8.0))
    assert slow == serving.arrivals([(1, 2), (3, 4)], 200, rate=2.0)
    assert [one.prompt for one in slow] == [one.prompt for one in fast]
    np.testing.assert_allclose([one.arrival for one in slow], [4 * one.arrival for one in fast])
    assert 80 < slow[-1].arrival < 120


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: serving.serve([], slots=1), "requests must be at least one, got none"),
        (lambda: serving.serve([Request(0, 1, 1)], slots=0), "slots must be at least 1, got 0"),
        (
            lambda: serving.serve([Request(0, 5, 5)], slots=1, page=4, room=11),
            "room must be at least 12, which the longest request of 10 tokens takes, got 11",
        ),
        (
            lambda: serving.serve([Request(0, 5, 5)], slots=1, longest=9),
            "longest must be at least 10, as the longest request has, got 9",
        ),
        (
            lambda: serving.serve([Request(0, 1, 1), Request(0, 3, 0)], slots=1),
            "answer of request 1 must be at least 1, got 0",
        ),
        (
            lambda: serving.serve([Request(0, 0, 1)], slots=1),
            "prompt of request 0 must be at least 1",
        ),
        (lambda: serving.serve([Request(np.nan, 1, 1)], slots=1), "arrival of request 0 .* finite"),
        (lambda: serving.arrivals([(1, 1)], 3, rate=0), "rate must be above 0, got 0"),
        (lambda: serving.arrivals([], 3, rate=1), "lengths must be at least one pair, got none"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
