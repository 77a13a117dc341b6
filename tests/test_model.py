import dataclasses
import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse import MECHANISMS, model
from attncourse.model import corpus, tokenizer, weights
from attncourse.model.attention import Attention
from attncourse.reference import full, window
from attncourse.softmax import softmax

SMALL = model.Shape(n_ids=300, n_layers=2, n_heads=2, width=8, hidden=12, context=16)
TRAINED = dataclasses.replace(SMALL, context=32)
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def shipped():
    return model.load()


@pytest.fixture(scope="module")
def small():
    return weights.model(drawn(SMALL), SMALL)


def drawn(shape, scale=0.4):
    rng = np.random.default_rng(0)
    arrays = {
        name: (scale * rng.standard_normal(size)).astype(np.float32)
        for name, size in weights.shapes(shape).items()
    }
    pairs = [(a, b) for a in range(256) for b in range(256)]
    return arrays | {"merges": np.array(pairs[1000 : 1000 + shape.n_ids - 256], np.int16)}


# tokenizer


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_text_comes_back(text):
    learned = tokenizer.learn("the cat sat on the mat; the hat sat", 270)
    ids = learned.encode(text)
    assert learned.decode(ids) == text.encode("utf-8", "replace").decode("utf-8", "replace")
    assert ids.dtype == np.int32


def test_the_most_frequent_pair_is_merged_first():
    learned = tokenizer.learn("aab aab aab xyz", 258)
    assert learned.pieces([256]) == ["aa"]  # as frequent as "ab", and its ids are smaller
    assert len(learned) == 258


def test_merging_by_hand():
    assert tokenizer.merge([1, 1, 1, 2, 1, 1], (1, 1), 9) == [9, 1, 2, 9]


def test_counts_after_many_merges_are_those_of_a_fresh_count():
    text = "".join(corpus.held_out()[:1])
    learned = tokenizer.learn(text, 400)
    chunks = [list(chunk.encode()) for chunk in tokenizer.CHUNK.findall(text)]
    for number, pair in enumerate(map(tuple, learned.merges.tolist())):
        counts = {}
        for ids in chunks:
            for one in itertools.pairwise(ids):
                counts[one] = counts.get(one, 0) + 1
        assert counts[pair] == max(counts.values())
        chunks = [tokenizer.merge(ids, pair, 256 + number) for ids in chunks]


# weights


def test_a_file_is_read_by_the_safetensors_library_too(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    arrays = drawn(SMALL)
    weights.save(tmp_path / "a.safetensors", arrays, SMALL, licence="MIT")
    read = safetensors.load_file(tmp_path / "a.safetensors")
    assert read.keys() == arrays.keys()
    assert all(np.array_equal(read[name], arrays[name]) for name in arrays)
    back, metadata = weights.read(tmp_path / "a.safetensors")
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)
    assert metadata["licence"] == "MIT"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: b"", "too short"),
        (lambda data: b"x" * 100, "header is longer"),
        (lambda data: data[:-4], "which does not fit"),
        (lambda data: data[:-4] + b"\xff\xff\xff\xff", "not finite|no model"),
        (lambda data: data.replace(b"[0, ", b"[4, ", 1), "which does not fit"),
        (lambda data: data.replace(b"F32", b"F64", 1), "is F64"),
        (lambda data: data.replace(b'"norm"', b'"nrom"', 1), "norm must have shape"),
        (lambda data: data.replace(b'\\"width\\": 8', b'\\"width\\": 4', 1), "must have shape"),
        (lambda data: data.replace(b'"shape": "{', b'"shapx": "{', 1), "no model of this course"),
        (
            lambda data: data.replace(b'layers\\": 2', b'layers\\": 0', 1),
            "n_layers must be at least",
        ),
        (lambda data: data.replace(b'heads\\": 2', b'heads\\": 0', 1), "n_heads must be at least"),
        (lambda data: data.replace(b'heads\\": 2', b'heads\\": 3', 1), "heads of an even width"),
        (lambda data: data.replace(b'ids\\": 300', b'ids\\": 1.5', 1), "n_ids must be an integer"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, spoil, says):
    path = tmp_path / "a.safetensors"
    weights.save(path, drawn(SMALL), SMALL)
    before = path.read_bytes()
    path.write_bytes(spoil(before))
    assert path.read_bytes() != before
    with pytest.raises(ValueError, match=says) as caught:
        model.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*b\.safetensors.*model\.train"):
        model.load(tmp_path / "b.safetensors")


# decoder


def by_hand(arrays, shape, ids):
    """The decoder in float64, token by token and head by head."""
    a = {name: array.astype(float) for name, array in arrays.items()}

    def norm(x, gain):
        return x / np.sqrt(np.mean(x * x) + 1e-5) * gain

    def turned(x, position):
        pairs = x[0::2] + 1j * x[1::2]
        angle = position * shape.base ** (-np.arange(0, len(x), 2) / len(x))
        pairs = pairs * np.exp(1j * angle)
        return np.stack([pairs.real, pairs.imag], axis=-1).ravel()

    xs = [a["embedding"][i] * np.sqrt(shape.width) for i in ids]
    for layer in range(shape.n_layers):
        w = {n.split(".")[-1]: a[n] for n in a if n.startswith(f"layers.{layer}.")}
        d = shape.head_width
        qs, ks, vs = [], [], []
        for position, x in enumerate(xs):
            q, k, v = np.split(w["qkv"] @ norm(x, w["attention_norm"]), 3)
            cut = [slice(h * d, (h + 1) * d) for h in range(shape.n_heads)]
            qs.append([turned(q[c], position) for c in cut])
            ks.append([turned(k[c], position) for c in cut])
            vs.append([v[c] for c in cut])
        for i in range(len(xs)):
            heads = []
            for h in range(shape.n_heads):
                scores = np.array([qs[i][h] @ ks[j][h] for j in range(i + 1)]) / np.sqrt(d)
                p = np.exp(scores - scores.max())
                heads.append(sum(p[j] / p.sum() * vs[j][h] for j in range(i + 1)))
            x = xs[i] + w["out"] @ np.concatenate(heads)
            xs[i] = x + w["down"] @ np.maximum(w["up"] @ norm(x, w["mlp_norm"]), 0) ** 2
    return np.stack([a["embedding"] @ norm(x, a["norm"]) for x in xs])


def test_the_decoder_is_the_one_written_by_hand(small):
    ids = np.random.default_rng(1).integers(0, 300, 11)
    right = by_hand(drawn(SMALL), SMALL, ids)
    np.testing.assert_allclose(small.logits(ids), right, rtol=2e-4, atol=2e-4)


def test_the_torch_twin_has_the_same_numbers_and_gradients_reach_all_of_it(small):
    torch = pytest.importorskip("torch")
    from attncourse.model.network import Network

    network = Network(SMALL)
    state = {n: torch.from_numpy(a.copy()) for n, a in small.weights.items()}
    network.load_state_dict(state)
    rows = np.random.default_rng(1).integers(0, 300, (3, 14))
    loss = network.loss(torch.from_numpy(rows))
    assert loss.item() == pytest.approx(small.row_losses(rows).mean(), rel=1e-5)
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())


def test_a_text_is_read_in_pieces_of_the_context(small):
    ids = np.random.default_rng(2).integers(0, 300, 38)  # 2 pieces of 16, and 5 tokens more
    pieces = [ids[0:17], ids[16:33], ids[32:38]]
    right = np.concatenate([small.row_losses(piece[None])[0] for piece in pieces])
    np.testing.assert_allclose(small.losses(ids), right, rtol=1e-5)
    assert small.losses(ids[:2]).shape == (1,)
    assert small.loss(ids) == pytest.approx(right.mean())


def test_no_token_sees_a_later_one(small):
    ids = np.arange(12)
    changed = ids.copy()
    changed[7] = 250
    before, after = small.logits(ids), small.logits(changed)
    np.testing.assert_array_equal(before[:7], after[:7])
    assert not np.allclose(before[7:], after[7:])


@pytest.mark.parametrize("stem", ["full", "window", "linear", "pooled", "grouped"])
def test_generation_with_a_cache_is_generation_without(shipped, stem):
    knobs = {"window": {"window": 3}, "grouped": {"groups": 1}, "pooled": {"pool": 2}}.get(stem, {})
    swapped = shipped.swap(stem, **knobs)
    ids = shipped.encode(model.page())[:60]
    past = [None] * 4
    parts = [swapped._forward(ids[None, :50], past), swapped._forward(ids[None, 50:], past)]
    together = np.concatenate(parts, axis=1)[0]
    np.testing.assert_allclose(together, swapped.logits(ids), atol=2e-3)
    texts = {swapped.generate(ids, 12, cache=cache) for cache in (True, False)}
    assert len(texts) == 1 and len(set(texts.pop())) > 2


def test_draws_depend_on_the_seed_and_nothing_else(small):
    texts = [small.generate("ab", 8, temperature=1.0, seed=seed) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_maps_are_the_weights(small):
    ids = np.arange(10)
    maps = small.attention_maps(ids)
    assert maps.shape == (2, 2, 10, 10)
    np.testing.assert_allclose(maps.sum(axis=-1), 1, rtol=1e-5)
    assert (maps[..., ~np.tri(10, dtype=bool)] == 0).all()
    for layer, (q, k, _) in enumerate(small.qkv(ids)):
        scores = q @ k.mT / 2  # √D
        right = softmax(scores, full.mask(10, 10, causal=True))
        np.testing.assert_allclose(maps[layer], right, atol=1e-6)
    near = small.swap("window", window=2, layers=1).attention_maps(ids)
    assert (near[1][..., np.tri(10, k=-3, dtype=bool)] == 0).all()
    np.testing.assert_array_equal(near[0], maps[0])


def test_a_silent_head_adds_nothing(small):
    arrays = drawn(SMALL)
    arrays["layers.1.out"][:, 4:] = 0  # what head 1 writes
    right = weights.model(arrays, SMALL).logits(np.arange(9))
    np.testing.assert_allclose(small.without((1, 1)).logits(np.arange(9)), right, rtol=1e-6)
    assert small.without((0, 0)).without((-1, 1)).silent == {(0, 0), (1, 1)}


# swap


def test_what_collapses_to_full_attention_changes_nothing(small):
    ids = np.random.default_rng(3).integers(0, 300, 16)
    right = small.logits(ids)
    for stem, mechanism in MECHANISMS.items():
        if mechanism.collapse and mechanism.causal and mechanism.exact != "other":
            knobs = mechanism.collapse(16, 16)
            if stem in {"relative", "t5", "scoring", "synthesizer"}:
                continue
            np.testing.assert_allclose(
                small.swap(stem, **knobs).logits(ids), right, rtol=1e-3, atol=1e-3, err_msg=stem
            )
    np.testing.assert_allclose(small.swap("grouped", groups=2).logits(ids), right, rtol=1e-4)


@pytest.mark.parametrize("stem", [s for s, m in MECHANISMS.items() if m.causal])
def test_each_causal_mechanism_of_the_catalogue_goes_in(small, stem):
    swapped = small.swap(stem)
    loss = swapped.loss(np.arange(40))
    assert np.isfinite(loss)
    attend = swapped.attention[0]
    assert attend.cost(64, heads=2, width=4).flops > 0
    assert str(attend).startswith(stem)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.swap("windows"), "'windows' is none of full, "),
        (lambda m: m.swap("linformer"), "linformer cannot be causal"),
        (lambda m: m.swap("window", radius=3), "window has no knob radius; it has dilation, "),
        (lambda m: m.swap("window", layers=2), "layer must be -2 ... 1, got 2"),
        (lambda m: m.swap("grouped", groups=3).loss("abc"), "groups must divide the 2 heads"),
        (lambda m: m.without((0, 2)), "head must be 0 ... 1, got 2"),
        (lambda m: m.without((0, -1)), "head must be at least 0"),
        (lambda m: m.loss("a"), "at least 2 tokens, got 1"),
        (lambda m: m.logits(""), "at least 1 token, got none"),
        (lambda m: m.attention_maps(np.zeros(0, int)), "at least 1 token, got none"),
        (lambda m: model.compare(m, {"new": model.load()}), "'new' has another vocabulary"),
        (lambda m: m.loss(np.array([1, 300])), "ids must be 0 ... 299, got 1 ... 300"),
        (lambda m: m.generate("a", -1), "n must be at least 0"),
        (lambda m: m.generate("a", 1, temperature=-1), "temperature must be at least 0"),
        (lambda m: model.trials(m, "window", window=3), "one knob must be a list"),
    ],
)
def test_what_cannot_be_is_said(small, call, says):
    with pytest.raises(ValueError, match=says.replace("...", r"\.\.\.")):
        call(small)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.swap("window", layers=[True, False]), "layer must be an integer, got True"),
        (lambda m: m.swap("window", layers=1.5), "layer must be an integer, got 1.5"),
        (lambda m: m.without(0), r"each head must be \(layer, head\), got 0"),
        (lambda m: m.without((0, 0.5)), "head must be an integer"),
    ],
)
def test_a_place_that_is_no_place_is_said(small, call, says):
    with pytest.raises(TypeError, match=says):
        call(small)


def test_half_a_surrogate_pair_is_read_as_a_question_mark(small):
    assert small.decode(small.encode("a\ud800b")) == "a?b"


def test_ids_that_are_no_integers_are_refused(small):
    with pytest.raises(TypeError, match="string or a row of integer ids"):
        small.loss(np.array([1.0, 2.0]))


def test_a_swap_keeps_what_is_silent_and_what_was_swapped_before(small):
    both = small.without((1, 1)).swap("window", window=2, layers=0)
    assert both.silent == {(1, 1)}
    assert [attend.stem for attend in both.attention] == ["window", "full"]
    assert [attend.stem for attend in both.swap("linear", layers=-1).attention] == [
        "window",
        "linear",
    ]


def test_heads_that_share_keys_share_their_mean():
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 4, 9, 6))
    means = [np.repeat(x.reshape(2, 2, 9, 6).mean(axis=1), 2, axis=0) for x in (k, v)]
    right = full.attention(q, *means, causal=True)
    np.testing.assert_allclose(Attention.of("grouped", groups=2)(q, k, v), right, atol=1e-12)


def test_temperature_decides_how_even_the_draws_are(shipped):
    cold, hot = (shipped.generate("def ", 60, temperature=t, seed=0) for t in (0.01, 5.0))
    assert cold == shipped.generate("def ", 60)
    assert len(set(hot)) > len(set(cold))
    for least in (1e-300, 5e-324):
        assert shipped.generate("def ", 3, temperature=least) == shipped.generate("def ", 3)
    assert len(shipped.generate("def ", 3, temperature=np.inf)) > 0


# scores


def test_a_head_that_looks_back_one_token_is_found():
    shape = model.Shape(n_ids=300, n_layers=1, n_heads=2, width=8, hidden=4, context=16)
    one = weights.model(drawn(shape), shape)

    def shifted(q, k, v):  # head 0 sees the token before, head 1 the one after the last like it
        out = np.zeros_like(v)
        out[..., 0, 1:, :] = v[..., 0, :-1, :]
        out[..., 1, 5:, :] = v[..., 1, :-5, :]
        return out

    object.__setattr__(one, "attention", (shifted,))
    text = np.arange(6)
    np.testing.assert_allclose(model.previous(one, text, n=6)[0], [1, 0])
    np.testing.assert_allclose(model.induction(one, text, n=6)[0], [0, 1])


def test_repeated_segments_stand_twice_and_come_from_the_text(small):
    rows = model.repeated(small, np.arange(100), n=20, rows=5)
    np.testing.assert_array_equal(rows[:, :20], rows[:, 20:])
    for row in np.sort(rows[:, :20]):
        np.testing.assert_array_equal(np.diff(row), 1)
    with pytest.raises(ValueError, match="at least 20 tokens, got 3"):
        model.repeated(small, np.arange(3), n=20)


# training


def test_a_run_that_was_cut_ends_like_one_that_was_not(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from attncourse.model import train

    text = corpus.held_out()[0]
    monkeypatch.setattr(corpus, "library", lambda: {"a.py": text})
    monkeypatch.setattr(corpus, "held_out", lambda: [text])
    monkeypatch.setattr(train, "EVERY", 2)

    def run(name):
        return train.Run(4, 0.5, 0, tmp_path / name, TRAINED)

    whole = run("whole")
    whole.train()
    cut = run("cut")
    step = cut._step
    cut._step = lambda: step() if cut.step < 3 else sys.exit("the machine went down")
    with pytest.raises(SystemExit, match="went down"):
        cut.train()
    again = run("cut")
    assert again.step == 2
    again.train()
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array, err_msg=name)
    assert [entry["step"] for entry in again.log] == [2, 4]
    assert whole.log[-1]["held_out"] == again.log[-1]["held_out"]
    with pytest.raises(SystemExit, match="remove it to start anew"):
        train.Run(5, 0.5, 0, tmp_path / "cut", TRAINED)
    monkeypatch.setattr(corpus, "library", lambda: {"a.py": text[1:]})
    with pytest.raises(SystemExit, match="remove it to start anew"):
        run("cut")  # another Python's library


@pytest.mark.parametrize(
    "arguments",
    [
        ["--steps", "5"],
        ["--repeats", "0", "--out", "x"],
        ["--seed", "1", "--log", "y"],
        ["--steps", "0"],
    ],
)
def test_training_with_other_settings_leaves_the_courses_model_alone(arguments, capsys):
    pytest.importorskip("torch")
    from attncourse.model import train

    with pytest.raises(SystemExit):
        train.main(arguments)
    assert "--steps must be" in (said := capsys.readouterr().err) or "--out and --log" in said


def test_a_batch_repeats_what_it_says():
    ids = np.arange(5000)
    plain = corpus.batch(ids, step=3, rows=4, length=64, repeats=0.0, seed=0)
    assert plain.shape == (4, 65)
    assert (np.diff(plain) == 1).all()
    twice = corpus.batch(ids, step=3, rows=40, length=64, repeats=1.0, seed=0)
    missing = [65 - len(np.unique(row)) for row in twice]
    assert min(missing) >= 16 and max(missing) <= 32
    again = corpus.batch(ids, step=3, rows=40, length=64, repeats=1.0, seed=0)
    np.testing.assert_array_equal(twice, again)


def test_the_directions_of_a_step_are_as_good_as_orthogonal():
    torch = pytest.importorskip("torch")
    from attncourse.model.muon import orthogonal

    for size in ((3, 8, 5), (3, 5, 8), (1, 4, 4)):
        x = torch.from_numpy(np.random.default_rng(0).standard_normal(size))
        values = torch.linalg.svdvals(orthogonal(x))
        assert 0.5 < values.min() and values.max() < 1.3
        u, _, vh = torch.linalg.svd(x, full_matrices=False)
        turned = u.mT @ orthogonal(x) @ vh.mT
        assert (turned - torch.diag_embed(turned.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-6


def test_habits_of_heads_that_see_themselves_alone(small):
    found = model.habits(small.swap("window", window=0), np.arange(10), near=1)
    exact = {"distance": 0, "there": 1, "near": 1, "back": 0, "spread": 1}
    assert found.keys() == exact.keys()
    for name, value in exact.items():
        np.testing.assert_allclose(found[name], np.full((2, 2), value), atol=1e-5)


def test_habits_by_hand(small):
    maps = small.attention_maps(np.arange(10)).astype(float)
    found = model.habits(small, np.arange(10), near=3)
    rows = [[(maps[1, 0, i, j], i - j) for j in range(i + 1)] for i in range(10)]
    assert found["near"][1, 0] == pytest.approx(
        np.mean([sum(p for p, d in r if d < 3) for r in rows])
    )
    assert found["back"][1, 0] == pytest.approx(np.mean([sum(p * d for p, d in r) for r in rows]))
    spread = [np.exp(-sum(p * np.log(p) for p, _ in r if p)) for r in rows]
    assert found["spread"][1, 0] == pytest.approx(np.mean(spread))
    at = [np.mean([p for r in rows for p, d in r if d == back]) for back in range(6)]
    assert found["distance"][1, 0] == np.argmax(at)
    assert found["there"][1, 0] == pytest.approx(max(at))


def test_habits_refuse_one_token_and_no_neighbour(small):
    with pytest.raises(ValueError, match="text must have at least 2 tokens, got 1"):
        model.habits(small, np.arange(1))
    with pytest.raises(ValueError, match="near must be at least 1, got 0"):
        model.habits(small, np.arange(4), near=0)


def test_steps_differ_and_every_second_repeat_is_shuffled():
    ids = np.arange(50_000)
    settings = {"rows": 100, "length": 64, "repeats": 1.0, "seed": 0}
    one, other = (corpus.batch(ids, step=step, **settings) for step in (0, 1))
    assert (one != other).mean() > 0.9
    shuffled = [(np.diff(row) < 0).sum() > 2 for row in one]  # a plain repeat steps back once
    assert 0.35 < np.mean(shuffled) < 0.65


def test_muon_takes_the_steps_of_torchs_own():
    torch = pytest.importorskip("torch")
    from attncourse.model.muon import Muon

    rng = np.random.default_rng(0)
    start = torch.from_numpy(rng.standard_normal((12, 5)).astype(np.float32))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    steps = Muon([ours], lr=0.02), torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1)
    for _ in range(5):
        gradient = torch.from_numpy(rng.standard_normal((12, 5)).astype(np.float32))
        for parameter, optimizer in zip((ours, theirs), steps, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - start).abs().max()
    assert (ours - theirs).abs().max() < 0.03 * moved  # torch's works in bfloat16


def test_no_held_out_module_is_trained_on():
    names = corpus.library()
    assert len(names) > 300
    assert not {f"{name}.py" for name in corpus.HELD_OUT} & names.keys()
    assert not [name for name in names if "site-packages" in name or "/test" in name]


# what ships


def test_the_shipped_file_is_small_and_quick_to_read():
    assert weights.SHIPPED.stat().st_size < 2_000_000
    start = time.process_time()
    loaded = model.load()
    assert time.process_time() - start < 0.5
    assert sum(array.size for array in loaded.weights.values()) == 918_656


def test_the_shipped_weights_are_those_of_the_log(shipped):
    record = json.loads((ROOT / "results" / "model.json").read_text())
    last = record["log"][-1]
    assert last["step"] == record["settings"]["steps"]
    unseen = corpus.tokens(corpus.held_out(), shipped.tokenizer)
    assert shipped.loss(unseen[: 16 * 512 + 1]) == pytest.approx(last["held_out"], abs=2e-3)
    first, second = model.copying(shipped, unseen)
    assert (first, second) == pytest.approx((last["first_pass"], last["second_pass"]), abs=0.01)


def test_training_again_elsewhere_gave_the_same_model_but_for_rounding():
    first, again = (
        json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("model", "model-again")
    )
    assert first["settings"] == again["settings"] and first["shape"] == again["shape"]
    first, again = first["log"][-1], again["log"][-1]
    assert again["held_out"] == pytest.approx(first["held_out"], abs=0.05)
    for habit in ("previous", "induction"):  # the same heads, each about as much
        np.testing.assert_allclose(again[habit], first[habit], atol=0.05)


def test_the_shipped_model_knows_python_and_copies(shipped):
    unseen = corpus.tokens(corpus.held_out(), shipped.tokenizer)
    assert shipped.loss(unseen[:4097]) < 2.9
    first, second = model.copying(shipped, unseen)
    assert second < first - 4
    assert model.previous(shipped, unseen, rows=2).max() > 0.8
    assert model.induction(shipped, unseen, rows=2).max() > 0.3


def test_a_trial_says_what_a_window_loses(shipped):
    found = model.trials(shipped, "window", window=[16, 512])
    assert found[512].copied == pytest.approx(1, abs=1e-3)
    assert found[512].loss == pytest.approx(found[512].full_loss, abs=1e-4)
    assert found[16].copied < 0.1
    assert found[16].loss > found[16].full_loss + 0.1
    assert found[16].costs[16_384].flops < found[16].full_costs[16_384].flops / 50
    assert "instead of" in str(found[16])
    assert len(found[16].pieces) == len(found[16].excess)
    assert "".join(found[16].pieces) == model.page()


def test_a_trial_is_what_its_parts_are(shipped):
    changed = shipped.swap("window", window=16, layers=[0, 3])
    found = model.trial(shipped, "window", window=16, layers=[0, 3])
    losses = changed.losses(model.page()) - shipped.losses(model.page())
    np.testing.assert_allclose(found.excess[1:], losses)
    for n in (512, 16_384):
        near = window.cost(1, 4, n, n, 32, window=16, causal=True, dtype_bytes=2)
        whole = full.cost(1, 4, n, n, 32, causal=True, dtype_bytes=2)
        assert found.costs[n].flops == 2 * near.flops + 2 * whole.flops
        assert found.costs[n].bytes_read == 2 * near.bytes_read + 2 * whole.bytes_read
        assert found.costs[n].bytes_written == 2 * near.bytes_written + 2 * whole.bytes_written
        assert found.costs[n].peak_bytes == max(near.peak_bytes, whole.peak_bytes)
    said = [f"{found.costs[n].flops / n / 1e6:.3g}" for n in (512, 16_384)]
    copied = "hardly any" if found.copied < 0.1 else f"{found.copied:.0%}"
    assert str(found) == (
        f"On 2,048 tokens of other unseen text {found.loss:.2f} nats a token instead of "
        f"{found.full_loss:.2f}; {copied} of the copying is left. Million FLOPs of attention a "
        f"token: {said[0]} instead of 1.05 at n = 512 and {said[1]} instead of 33.6 at n = 16,384."
    )


def test_a_trial_says_its_cost_where_it_is_that_of_before_too(shipped):
    said = str(model.compare(shipped, {"": shipped})[""])
    assert said.endswith("a token: 1.05 at n = 512 and 33.6 at n = 16,384, as before.")


def test_a_silent_head_is_not_counted(shipped):
    near = shipped.swap("window", window=16, layers=[0])
    heads = {"one": [(1, 1)], "layer 1": [(1, head) for head in range(4)]}
    found = model.compare(near, {name: near.without(*some) for name, some in heads.items()})
    for n in (512, 16_384):
        of_layer = full.cost(1, 4, n, n, 32, causal=True, dtype_bytes=2)
        for name, share in (("one", 4), ("layer 1", 1)):
            for part in ("flops", "bytes_read", "bytes_written"):
                saved = getattr(found[name].full_costs[n], part) - getattr(
                    found[name].costs[n], part
                )
                assert saved == getattr(of_layer, part) // share


def test_trials_show_how_far_they_are(shipped, monkeypatch):
    told = []

    def progress(items, words, *, expect_seconds):
        told.append((len(items), words, expect_seconds))
        return items

    monkeypatch.setattr(sys.modules[model.trial.__module__], "progress", progress)
    model.trials(shipped, "window", window=[1, 2, 3, 4])
    assert told == [(4, "trying", 2.0)]


def test_a_trial_of_a_model_that_does_not_copy_says_so(shipped):
    deaf = shipped.without(*[(layer, head) for layer in range(4) for head in range(4)])
    found = model.compare(deaf, {"": deaf.swap("window", window=4)})[""]
    assert np.isnan(found.copied) and "there was no copying to lose" in str(found)


def test_the_name_of_attention_says_knobs_of_numpy_too():
    assert str(Attention("window", {"window": np.int64(4)})) == "window window=4"


def test_attention_of_a_layer_is_that_of_the_reference():
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 20, 4)).astype(np.float32)
    right = window.attention(q, k, v, window=3, causal=True)
    np.testing.assert_array_equal(Attention.of("window", window=3)(q, k, v), right)


@pytest.mark.parametrize("page", [1, 7, 64])
def test_texts_written_together_in_pages_are_those_written_alone(page):
    small = model.load()
    prompts = ["def heappush(heap, item):", "import", "class Popen:\n    def __init__("]
    made = model.write_together(small, prompts, 9, page=page)
    assert made.texts == [small.generate(prompt, 9) for prompt in prompts]
    lengths = [len(small.encode(prompt)) + 9 for prompt in prompts]  # START too, and not the last
    for tables in made.tables:
        assert [table.length for table in tables] == lengths
    pages = sum(-(-length // page) for length in lengths)
    assert made.bytes_held == pages * page * 4 * 2 * 4 * 32 * 4


def test_texts_cannot_be_written_together_without_room_or_with_other_attention():
    small = model.load()
    with pytest.raises(MemoryError, match=r"paged\.allocate: .* pages asked for"):
        model.write_together(small, ["import", "from"], 5, page=2, n_pages=3)
    with pytest.raises(ValueError, match=r"model\.write_together: attention must be full"):
        model.write_together(small.swap("window", window=8), ["import"], 2)
    assert model.write_together(small, [], 3).texts == []


def test_tuning_starts_from_the_means_of_heads_and_leaves_the_model_alone(monkeypatch):
    pytest.importorskip("torch")
    from attncourse.model import tune

    monkeypatch.setattr(tune, "ROWS", 1)
    monkeypatch.setattr(tune, "CONTEXTS", 3)
    small = model.load()
    before = {name: array.copy() for name, array in small.weights.items()}
    ids = np.concatenate([small.encode(text) for text in model.held_out()])
    grouped = small.swap("grouped", groups=2)
    learned, found = tune.tune(grouped, ids, 1)
    assert found["step"] == [0, 1] and found["held_out"][0] != found["held_out"][1]
    texts = [small.encode(text)[: 3 * 512 // 5] for text in model.held_out()]
    unseen = np.concatenate(texts)[: 2 * 513].reshape(2, 513)
    for one, loss in zip((grouped, learned), found["held_out"], strict=True):
        assert loss == pytest.approx(one.row_losses(unseen).mean(), abs=2e-3)
    assert all(np.array_equal(before[name], array) for name, array in small.weights.items())


def test_the_recorded_tuning_is_of_the_course_s_settings():
    pytest.importorskip("torch")
    from attncourse.model import tune

    record = json.loads((ROOT / "results" / "grouped_tuning.json").read_text())
    settings = {"steps": tune.STEPS, "rows": tune.ROWS, "rate": tune.RATE, "seed": tune.SEED}
    assert record["settings"] == settings and [*record["runs"]] == ["4", "2", "1"]
    for run in record["runs"].values():
        assert run["step"] == [*range(0, tune.STEPS + 1, tune.EVERY)]
        assert len(run["held_out"]) == len(run["step"])
