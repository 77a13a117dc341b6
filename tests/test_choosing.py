"""The guide: what its rule strikes out, what its figures rest on, and torch's choice of kernel."""

import dataclasses
import inspect
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from covering import by_day

from attncourse import choosing
from attncourse.bench import records
from attncourse.catalogue import MECHANISMS
from attncourse.choosing import evidence, rule
from attncourse.choosing.candidates import FAR, WALKING, Setting, held, offered, step
from attncourse.cost import DEVICES
from attncourse.inputs import random_qkv
from attncourse.reference import flash

USUAL = {"heads": 16, "width": 64, "device": "H200"}


def one(name="x", stem="topk", seconds=1.0, n_bytes=1, loss=0.0, lost=(), code=True):
    left = {ability: 0.1 if ability in lost else 1.0 for ability in choosing.ABILITIES}
    quality = choosing.Quality(name, loss, left, tuned=False)
    code = choosing.MAINTAINED["flash"] if code else None
    return choosing.Candidate(name, stem, {}, n_bytes, seconds, seconds, None, quality, code)


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (one(), ""),
        (one(n_bytes=101), "holds 101 B"),
        (one(lost=("recall",)), "loses recall"),
        (one(lost=("needle",)), ""),
        (one(loss=0.06), "loses 0.06 nats a token"),
        (one(code=False), "nobody maintains it"),
        (one(stem="flash", lost=("recall",), loss=9), ""),
        (dataclasses.replace(one(), quality=None), "its quality was not measured"),
    ],
)
def test_what_is_struck_out_and_why(candidate, reason):
    given = {"memory": 100, "must_keep": ["recall", "copying"], "tolerance": 0.05}
    assert rule.why_out(candidate, **given, maintained=True) == reason


def test_an_exact_one_is_taken_unless_another_is_much_faster():
    exact, near, fast = one("exact", "flash", 1.5), one("near", seconds=1.1), one("fast")
    assert rule.take([near, exact]) is exact
    assert rule.take([near, exact, fast]) is fast
    assert rule.take([near, fast]) is fast
    assert rule.take([]) is None


def test_tiled_full_attention_is_the_answer_where_it_is():
    for device, length in (("H200", 16_384), ("A100 40 GB", 131_072)):
        choice = choosing.choose(length, **(USUAL | {"device": device}))
        assert choice.answer.name == choosing.TILED
        assert choice.ranked[0] is choice.answer
        assert len(choice.ranked) == len(choosing.OFFERED)
        assert "softmax attention itself" in str(choice)
    assert "predicted only" in str(choice)  # nobody measured an A100
    lenient = choosing.choose(16_384, **USUAL, must_keep=[], tolerance=0.2)
    assert lenient.answer.stem == "window"
    assert "at 512 tokens, not at 16,384" in str(lenient)


def test_training_takes_both_passes_of_one_implementation():
    point = choosing.choose(16_384, **USUAL, phase="training").answer.measured
    wanted = point.setting | {"implementation": point.implementation}
    record = json.loads((evidence.folder_of_results() / point.file).read_text(encoding="utf-8"))
    passes = {
        row["mode"]: row["seconds"]["median"]
        for row in records.rows(record)
        if "seconds" in row and all(row[key] == value for key, value in wanted.items())
    }
    assert point.seconds == passes["forward"] + passes["backward"] > passes["backward"] > 0


def test_a_record_turns_the_least_time_into_an_expected_one():
    choice = choosing.choose(16_384, **USUAL)
    point = choice.answer.measured
    assert point.setting["n"] == 16_384 and point.setting["causal"]
    assert choice.answer.seconds == pytest.approx(point.seconds)  # the very setting
    assert choice.answer.least < choice.answer.seconds
    assert "bench-gpu" in str(choice)


def test_without_results_only_exact_attention_stays(tmp_path):
    choice = choosing.choose(4096, **USUAL, results=tmp_path)
    assert choice.answer.name == choosing.TILED
    assert all(one.exact for one in choice.ranked if not one.out)
    assert "predicted only" in str(choice)


def test_memory_decides_in_decoding():
    long = USUAL | {"heads": 32, "width": 128, "layers": 32, "phase": "decoding"}
    assert choosing.choose(131_072, **long).answer.name == choosing.TILED
    tight = choosing.choose(131_072, **long, memory=50e9)
    assert tight.answer.name == "int8 keys and values"
    nothing = choosing.choose(131_072, **long, memory=1e9)
    assert nothing.answer is None and "nothing is left" in str(nothing)


@pytest.mark.parametrize(
    ("reasons", "said"),
    [
        (["holds 9 B"], "1 does not fit into 8 B on H200"),
        (["holds 9 B"] * 3, "3 do not fit into 8 B on H200"),
        (
            ["holds 9 B", "loses recall", "loses needle", "nobody maintains it"],
            "1 does not fit into 8 B on H200, 2 lose too much and 1 is maintained by nobody",
        ),
        (
            ["its quality was not measured"] * 2 + ["nobody maintains it"] * 4,
            "2 were not measured and 4 are maintained by nobody",
        ),
    ],
)
def test_what_is_struck_out_is_counted_in_numbers_of_none_one_and_many(reasons, said):
    found = [dataclasses.replace(one(), out=reason) for reason in reasons]
    setting = SimpleNamespace(device=DEVICES["H200"])
    assert [*choosing._because(None, found, setting, 8)] == [f"nothing is left: {said}"]


def test_nothing_is_expected_faster_than_its_least():
    beaten = []
    for device, phase in itertools.product(DEVICES, choosing.PHASES):
        for length in (512, 16_384, 131_072):
            choice = choosing.choose(length, **(USUAL | {"device": device}), phase=phase)
            beaten += [one for one in choice.ranked if one.seconds < one.least]
    assert not beaten
    point = choosing.choose(131_072, **USUAL).ranked
    (pooled,) = (one for one in point if one.name == "pooled 4")
    assert pooled.seconds == pytest.approx(pooled.measured.seconds)  # the very setting


def test_the_longest_text_that_fits_is_found():
    cache = USUAL | {"phase": "decoding", "memory": 2 * 16 * 64 * 2 * 3000}  # 3,000 tokens
    assert 3000 - 12 < choosing.longest(choosing.TILED, **cache) <= 3000
    assert choosing.longest(choosing.TILED, **cache | {"memory": 10}) == 0
    with pytest.raises(ValueError, match=r"choosing\.longest: name must be one of .* got 'flash'"):
        choosing.longest("flash", **cache)


def test_bytes_of_each_phase_by_hand():
    one = Setting(1000, 2, 4, 64, 3, DEVICES["H200"], "float16", "decoding", True)
    assert held("flash", {}, one) == 3 * 2 * 4 * 1000 * 2 * 64 * 2
    assert held("window", {"window": 16}, one) == 3 * 2 * 4 * 16 * 2 * 64 * 2
    read = step("flash", {}, one)
    assert read.bytes_read == 2 * 4 * 1000 * 2 * 64 * 2 and read.flops == 2 * 4 * 1000 * 4 * 64
    prompt = dataclasses.replace(one, phase="prompt")
    tiles = {"block_q": 256, "block_k": 256}
    cost = flash.cost(2, 4, 1000, 1000, 64, **tiles, causal=True, dtype_bytes=2)
    assert held("flash", {}, prompt) == cost.peak_bytes + 3 * 2 * 4 * 1000 * 64 * 2
    training = dataclasses.replace(one, phase="training")
    rows = 2 * 4 * 1000
    assert held("flash", {}, training) == 3 * rows * (4 * 64 * 2 + 4) + cost.peak_bytes
    assert held("full", {}, training) > 3 * rows * 1000 * 2  # the weights of three layers


@pytest.mark.parametrize("width", by_day([128], [64, 128, 256]))
def test_long_texts_cost_what_the_reference_says(width):
    """Peaks too: another array may be the largest at another width."""
    for stem, knobs, _ in offered(2).values():
        n = 9001 if stem in WALKING else 7 * FAR + 77
        long = Setting(n, 1, 2, width, 1, DEVICES["H200"], "float16", "prompt", True)
        cost = MECHANISMS[stem].reference.cost
        known = inspect.signature(cost).parameters
        given = {name: x for name, x in (MECHANISMS[stem].values | knobs).items() if name in known}
        exact = cost(1, 2, n, n, width, **given, causal=True, dtype_bytes=2)
        found = step(stem, knobs, long)
        assert found.peak_bytes == pytest.approx(exact.peak_bytes, rel=0.03), stem
        assert dataclasses.replace(found, peak_bytes=exact.peak_bytes) == exact, stem


@pytest.mark.parametrize(
    "wrong",
    [
        {"length": 0}, {"heads": 1.5}, {"device": "abacus"}, {"dtype": "int8"}, {"phase": "lunch"},
        {"must_keep": ["taste"]}, {"must_keep": "recall"}, {"tolerance": -1}, {"memory": "much"},
        {"causal": 1}, {"batch": 0}, {"device": ["H200"]}, {"dtype": ""}, {"must_keep": None},
        {"must_keep": [["recall"]]}, {"memory": float("nan")},
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(wrong):
    name = next(iter(wrong))
    with pytest.raises((TypeError, ValueError), match=rf"^choosing\.choose: {name} must "):
        choosing.choose(**({"length": 16} | USUAL | wrong))


def test_numbers_of_numpy_and_lists_read_once_are_as_good():
    lenient = USUAL | {"tolerance": 9.0}
    for name, plain, other in (
        ("memory", 10**9, np.int64(10**9)),
        ("memory", 1e9, np.float32(1e9)),
        ("memory", float("inf"), 10**400),
        ("tolerance", 1, np.array(1)),
        ("must_keep", ["recall"], iter(["recall"])),  # which was empty when the rule looked
    ):
        first, second = (choosing.choose(2048, **lenient | {name: x}) for x in (plain, other))
        assert str(first) == str(second), name
        assert [one.out for one in first.ranked] == [one.out for one in second.ranked], name
        assert "inf" not in str(first)


def test_a_type_without_a_size_is_not_offered():
    odd = dataclasses.replace(DEVICES["H200"], peaks={"int8": 1e15, "float16": 1e15})
    with pytest.raises(ValueError, match="dtype must be one of float16 on H200, got 'int8'"):
        choosing.choose(16, **USUAL | {"device": odd, "dtype": "int8"})


@pytest.mark.parametrize("phase", choosing.PHASES)
def test_a_longer_text_never_needs_fewer_bytes_however_long(phase, tmp_path):
    """At 2⁴⁰ tokens too, where counting tiles would take days."""
    before: dict[str, int] = {}
    for length in (1, 2, 2**12, 2**26, 2**40):
        given = USUAL | {"phase": phase, "results": tmp_path}
        now = {one.name: one.n_bytes for one in choosing.choose(length, **given).ranked}
        assert all(held >= before.get(name, 0) for name, held in now.items()), length
        before = now


def test_longest_ends_and_says_what_it_cannot_halve(tmp_path):
    small = USUAL | {"phase": "decoding", "memory": 10**6, "results": tmp_path}
    assert choosing.longest("window 16", **small) == choosing.ENDLESS
    with pytest.raises(ValueError, match=r"choosing\.longest: heads must be even for 'half .* 7"):
        choosing.longest("half the key/value heads", **small | {"heads": 7})


def test_kernels_ask_for_what_torch_asks_for():
    q, k, v = random_qkv(5, heads=2, width=8)
    with pytest.raises(ValueError, match="q, k and v must have one dtype, got float32, float64"):
        choosing.kernels_for(q, k.astype(np.float64), v)
    with pytest.raises(TypeError, match="mask must be an array or None, got list"):
        choosing.kernels_for(q, k, v, mask=[[True]])
    with pytest.raises(ValueError, match="q must have at least 2 axes"):
        choosing.kernels_for(q[0, 0, 0, 0], k, v)
    flash, _ = choosing.kernels_for(q, k[:, :0], v[:, :0], gqa=True)
    assert "heads differ" in flash.cannot


def test_splits_as_in_the_comment_of_flash_attention():
    assert choosing.splits_for(48, 100, 108) == 2
    assert choosing.splits_for(100, 100, 108) == 1 == choosing.splits_for(1, 4, 108)
    assert choosing.splits_for(8, 1000) == 15  # 14 keep 112 of 132 at work, just under 85 %


def test_our_list_of_kernels_agrees_with_torch():
    torch = pytest.importorskip("torch")
    q, k, v = (torch.from_numpy(x) for x in random_qkv(5, 9, heads=4, width=8))
    mask = torch.ones(5, 9, dtype=torch.bool)
    calls = [
        ((q, k, v), {}),
        ((q, k, v), {"mask": mask}),
        ((q, k, v), {"mask": mask[None, None].float()}),
        ((q, k, v), {"mask": torch.zeros(5, 9, requires_grad=True)}),
        ((q, k, v), {"causal": True}),
        ((q, k[:, :2], v[:, :2]), {"gqa": True}),
        ((q, k, v[..., :4]), {}),
        ((q[0], k[0], v[0]), {}),
        ((q[:, :, :0], k, v), {}),
        ((q.mT.contiguous().mT, k, v), {}),
        ((q.double(), k.double(), v.double()), {}),
        ((q.bfloat16(), k.bfloat16(), v.bfloat16()), {}),
    ]
    for tensors, given in calls:
        names = {"mask": "attn_mask", "causal": "is_causal", "gqa": "enable_gqa"}
        ours = next(one.name for one in choosing.kernels_for(*tensors, **given) if not one.cannot)
        theirs = choosing.torch_picks(*tensors, **{names[key]: x for key, x in given.items()})
        assert ours == theirs, (given, [tuple(x.shape) for x in tensors])


def test_reasons_on_a_gpu():
    def reasons(*arrays, **given):
        found = choosing.kernels_for(*arrays, device="cuda", **given)
        return {one.name: one.cannot for one in found}

    half = random_qkv(16, heads=2, width=64, dtype=np.float16)
    assert next(iter(reasons(*half))) == "cudnn"
    assert list(reasons(*half, capability=(8, 0))) == ["flash", "efficient", "math"]
    old = reasons(*half, capability=(7, 0))
    assert old["flash"] and not old["efficient"]
    masked = reasons(*half, mask=np.ones((16, 16), bool))
    assert masked["flash"] == ("takes no mask",) and not masked["cudnn"]
    single = reasons(*random_qkv(16, heads=2, width=64))
    assert single["flash"] == ("no float32",) and not single["efficient"]
    longer = reasons(*random_qkv(4, 16, width=64, dtype=np.float16), causal=True)
    assert longer["flash"] == ("causal only with as many queries as keys",)
    odd = reasons(*random_qkv(16, width=30, dtype=np.float16))
    assert odd["cudnn"] and odd["efficient"] and not odd["flash"] and not odd["math"]


def broken(**changes):
    """Return the text of a record of one time on this CPU, or of a frontier, spoilt."""
    times = {
        "mechanism": "full", "implementation": "NumPy", "n": 512, "mode": "forward", "knobs": {},
        "seconds": {"median": 1.0},
    }  # fmt: skip
    settings = {"heads": 1, "width": 64, "dtype": "float16"}
    return json.dumps(
        {"machine": {"gpu": "NVIDIA H200"}, "settings": settings, "measurements": [times | changes]}
    )


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("bench-x.json", "", "Expecting value"),
        ("bench-x.json", '{"machine": ', "Expecting value"),
        ("bench-x.json", "[]", "'list' object"),
        ("bench-x.json", broken(seconds={"median": 0.0}), "median must be above 0, got 0.0"),
        ("bench-x.json", broken(seconds={}), "no 'median'"),
        ("frontier.json", "{}", "no 'mechanisms'"),
        (
            "frontier.json",
            json.dumps({"mechanisms": {"full": {"before": dict.fromkeys(
                ("loss", "first", "second", "recall", "near duplicates", "needle"), 1.0
            )}}}),
            "no 'after'",
        ),
    ],
)  # fmt: skip
def test_a_record_that_is_not_whole_is_named(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(
        ValueError, match=f"^choosing: .*{name} is no whole record .*{says}"
    ) as error:
        choosing.choose(16_384, **USUAL, results=tmp_path)
    assert "\n" not in str(error.value)
