"""The tiny tasks: each answer is in the row, what is easy is learned, and the record is whole."""

import json
from pathlib import Path

import numpy as np
import pytest

from attncourse import tasks
from attncourse.catalogue import MECHANISMS
from attncourse.model.attention import Attention

RECORD = Path(__file__).parents[1] / "results" / "tasks.json"


def answers(name, rows=5):
    """Yield (ids up to a question, the answer)."""
    rows = tasks.make(name, rows, seed=3)
    for ids, wanted in zip(rows.ids, rows.wanted, strict=True):
        for place in np.flatnonzero(wanted != tasks.NOTHING):
            yield ids[: place + 1], wanted[place]


def place(name, ids):
    """Where the answer stands."""
    if name == "pairs":  # tokens from 64 on: four of them for each key, one for each of its values
        return np.flatnonzero((ids >= 64) & ((ids - 64) // 4 == ids[-1] - 16)).item()
    if name == "needle":
        return np.flatnonzero(ids[:-1] == ids[-1])[0] + 1
    if name == "copy":  # after the words that are like the last ones for longest
        return max(range(len(ids) - 1), key=lambda end: alike(ids, end)) + 1
    return len(ids) - 12  # periodic


def solved(name, ids):
    """The answer, found by the rule."""
    if name == "parity":
        return 48 + (ids == 3).sum() % 2
    found = ids[place(name, ids)]
    return 48 + (found - 64) % 4 if name == "pairs" else found


def alike(ids, end):
    """How many words up to `end` are those before the question."""
    length = 0
    while length <= end and ids[end - length] == ids[len(ids) - 1 - length]:
        length += 1
    return length


@pytest.mark.parametrize("name", tasks.TASKS)
def test_the_answer_is_in_what_was_read(name):
    found = [(solved(name, ids), wanted) for ids, wanted in answers(name)]
    right = np.mean([one == wanted for one, wanted in found])
    assert len(found) >= 5 and right >= (0.85 if name == "copy" else 1)


@pytest.mark.parametrize("name", tasks.TASKS)
def test_rows_depend_on_seed_and_part_alone(name):
    rows = [tasks.make(name, 3, seed=s, part=p).ids for s, p in ((0, 0), (0, 0), (1, 0), (0, 1))]
    assert rows[0].shape == (3, tasks.TASKS[name].n_tokens)
    np.testing.assert_array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2]) and not np.array_equal(rows[0], rows[3])


def test_what_is_easy_is_learned_and_the_same_seed_learns_the_same():
    torch = pytest.importorskip("torch")
    before = torch.random.get_rng_state()
    first, again = (tasks.train("needle", "full", 1, steps=n, rows=16) for n in (25, 6))
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.accuracy > 0.1 and first.losses[-1] < first.losses[0] / 2
    assert (first.losses[:4] == again.losses[:4]).all() and len(first.losses) == 25
    asked = tasks.make("needle", 256, seed=1).asked.any(axis=0)
    np.testing.assert_array_equal(np.isnan(first.by_place), ~asked)


def test_any_mechanism_with_a_twin_may_learn():
    pytest.importorskip("torch")
    result = tasks.train("parity", Attention.of("segment", chunk=4, memory=4), steps=1, rows=2)
    assert result.losses.shape == (1,) and 0 <= result.accuracy <= 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: tasks.make("pair", 1), r"tasks\.make: 'pair' is none of pairs, "),
        (lambda: tasks.make("pairs", 0), "rows must be at least 1"),
        (lambda: tasks.train("pair", "full"), r"tasks\.train: 'pair' is none of"),
        (lambda: tasks.train("pairs", "fall"), r"tasks\.train: 'fall' is none of full, "),
        (lambda: tasks.train("pairs", "full", steps=-1), "steps must be at least 1"),
    ],
)
def test_what_cannot_be_is_said(call, says):
    pytest.importorskip("torch")
    with pytest.raises(ValueError, match=says):
        call()


def test_the_record_is_whole_and_of_these_settings():
    pytest.importorskip("torch")
    from attncourse.tasks import __main__ as command

    record = json.loads(RECORD.read_text())
    assert record["settings"] == json.loads(json.dumps(command.settings()))
    assert [*record["runs"]] == [*tasks.TASKS]
    for runs in record["runs"].values():
        assert [*runs] == [*tasks.MECHANISMS]
        for seeds in runs.values():
            assert [*seeds] == [*map(str, command.SEEDS)]
            assert all(0 <= run["accuracy"] <= 1 for run in seeds.values())


def seen(name, mask):
    """For what share of a task's questions the answer's place is seen in a layer, and in two."""
    n, twice = tasks.TASKS[name].n_tokens, mask.astype(int) @ mask.astype(int) > 0
    asked = [(len(ids) - 1, place(name, ids)) for ids, _ in answers(name, rows=50)]
    assert mask.shape == (n, n)
    return tuple(np.mean([one[pair] for pair in asked]) for one in (mask, twice))


def in_record(name, mechanism):
    record = json.loads(RECORD.read_text())
    return [run["accuracy"] for run in record["runs"][name][mechanism].values()]


@pytest.mark.parametrize("name", [name for name in tasks.TASKS if name != "parity"])
def test_who_sees_the_answer_finds_it_with_every_seed_and_who_cannot_never_does(name):
    n = tasks.TASKS[name].n_tokens
    judged = {}
    for mechanism, attend in tasks.MECHANISMS.items():
        mask = getattr(MECHANISMS[attend.stem].reference, "mask", None)
        if mask is None:
            continue  # sees all, but blended
        once, twice = seen(name, mask(n, n, causal=True, **attend.knobs))
        if once > 0.99:
            assert min(in_record(name, mechanism)) >= 0.8, mechanism
            judged[mechanism] = True
        elif twice < 0.4:
            assert max(in_record(name, mechanism)) <= 0.5, mechanism
            judged[mechanism] = False
    assert judged.items() >= {"full": True, "window 4": False}.items()


def test_a_state_with_room_for_all_keys_finds_them_with_every_seed():
    features = tasks.SHAPE.n_heads * tasks.SHAPE.head_width
    assert len(tasks.questions.KEYS) <= features
    assert min(in_record("pairs", "linear") + in_record("needle", "linear")) >= 0.8


def test_one_look_does_not_count_and_nobody_needs_a_minute():
    record = json.loads(RECORD.read_text())
    for mechanism in tasks.MECHANISMS:
        assert max(in_record("parity", mechanism)) <= 0.75, mechanism
    for name, runs in record["runs"].items():
        for mechanism, seeds in runs.items():
            assert max(run["seconds"] for run in seeds.values()) < 60, (name, mechanism)
