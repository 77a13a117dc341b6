"""More sequences and heads than a grid has room for: each kernel, with a grid of three."""

import pytest
from covering import by_day

pytest.importorskip("triton")

from attncourse import MECHANISMS, measure, trace
from attncourse.kernels import INTERPRETED, grouped, synthesizer, window
from attncourse.kernels._parts import grids, tiles

import torch  # isort: skip
import triton  # isort: skip

B, H, N, D = 5, 7, 32, 16
LIMIT = 3
KERNELS = [stem for stem, mechanism in MECHANISMS.items() if "kernel" in mechanism.has]
BY_DAY = ["flash", "block_topk", "grouped"]  # each way to cut once: plain, by lists, heads shared
DEVICE = "cpu" if INTERPRETED else "cuda"


@pytest.fixture
def launched(monkeypatch):
    """The grids of all launches."""
    seen = []
    executor = (
        triton.runtime.interpreter.GridExecutor if INTERPRETED else triton.runtime.jit.JITFunction
    )
    real = executor.__call__ if INTERPRETED else executor.run

    def note(self, *args, **kwargs):
        grid = self.grid if INTERPRETED else kwargs["grid"]
        seen.append(grid)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(executor, "__call__" if INTERPRETED else "run", note)
    return seen


def limit(monkeypatch, most):
    monkeypatch.setattr(grids, "MAX_GRID", most)
    monkeypatch.setattr(tiles, "MAX_GRID", most)


def inputs(groups=H, batch=B, grad=False):
    generator = torch.Generator(DEVICE).manual_seed(0)
    return [
        torch.randn(batch, heads, N, D, generator=generator, device=DEVICE).requires_grad_(grad)
        for heads in (H, groups, groups)
    ]


@pytest.mark.parametrize("stem", by_day(BY_DAY, KERNELS))
def test_more_heads_and_sequences_than_a_grid_holds(stem, monkeypatch, launched):
    mechanism = MECHANISMS[stem]
    groups = 7 if stem in ("grouped", "kv_cache", "paged") else H
    q, k, v = inputs(groups)
    knobs = mechanism.tensors(N, N, D, D, q, **mechanism.values)
    if stem == "t5":
        knobs["table"] = torch.randn(32, H, device=DEVICE)
    right = mechanism.kernel.attention(q, k, v, **knobs)
    slices = 16 if stem in ("linear", "performer") else 1
    limit(monkeypatch, LIMIT * slices)
    launched.clear()
    out = mechanism.kernel.attention(q, k, v, **knobs)
    assert launched and all(max((*grid, 1, 1)[1:3]) <= LIMIT * slices for grid in launched)
    torch.testing.assert_close(out, right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "knob", by_day(["mask"], ["mask", "bias", "logits", "pooling_vector", "q_global"])
)
def test_knobs_that_differ_by_head_are_cut_as_the_heads_are(knob, monkeypatch):
    q, k, v = inputs()
    by_head = torch.randn(B, H, N, N, device=DEVICE)
    stem, knobs = {
        "mask": ("full", {"mask": by_head > 0}),
        "bias": ("full", {"bias": by_head[:1]}),
        "logits": ("synthesizer", {"logits": synthesizer.random(by_head[0])}),
        "pooling_vector": (
            "pooled", {"pool": 2, "kind": "learned", "pooling_vector": by_head[0, :, 0, :D]},
        ),
        "q_global": (
            "longformer",
            {"window": 2, "global_tokens": 1, "q_global": k, "k_global": v, "v_global": q},
        ),
    }[knob]  # fmt: skip
    attention = MECHANISMS[stem].kernel.attention
    right = attention(q, k, v, **knobs)
    limit(monkeypatch, LIMIT)
    torch.testing.assert_close(attention(q, k, v, **knobs), right)


@pytest.mark.parametrize(
    "stem", by_day(["flash"], ["flash", "window", "linear", "block_sparse", "grouped"])
)
def test_gradients_pass_through_the_parts(stem, monkeypatch, launched):
    mechanism = MECHANISMS[stem]
    results = []
    for most in (grids.MAX_GRID, 48 if stem == "linear" else LIMIT):
        limit(monkeypatch, most)
        launched.clear()
        tensors = inputs(grad=True)
        out = mechanism.kernel.attention(*tensors, **knobs(mechanism, tensors[0]))
        results.append(torch.autograd.grad(out.square().sum(), tensors))
        assert all(max((*grid, 1, 1)[1:3]) <= most for grid in launched)
    for part, whole in zip(*results, strict=True):
        torch.testing.assert_close(part, whole, atol=1e-4, rtol=1e-4)


def knobs(mechanism, q):
    return mechanism.tensors(N, N, D, D, q, **mechanism.values)


def test_a_dilated_window_takes_a_program_for_each_class_of_residues(monkeypatch, launched):
    q, k, v = inputs()
    right = window.attention(q, k, v, window=2, dilation=2)
    limit(monkeypatch, LIMIT)
    launched.clear()
    torch.testing.assert_close(window.attention(q, k, v, window=2, dilation=2), right)
    assert len(launched) == 2 * H and max(grid[1] for grid in launched) == 2


def test_heads_that_share_keys_stay_together(monkeypatch, launched):
    q = torch.randn(2, 8, N, D, device=DEVICE)
    k, v = (torch.randn(2, 4, N, D, device=DEVICE) for _ in range(2))
    right = grouped.attention(q, k, v)
    limit(monkeypatch, LIMIT)
    launched.clear()
    torch.testing.assert_close(grouped.attention(q, k, v), right)
    assert len(launched) == 4  # of 2 query heads and the key head that they share


@pytest.mark.parametrize("stem", ["kv_cache", "paged"])
def test_caches_of_more_sequences_and_heads_than_a_grid_holds(stem, monkeypatch, launched):
    kernel = MECHANISMS[stem].kernel
    q, k, v = inputs(groups=7, batch=4)
    how = {"capacity": N} if stem == "kv_cache" else {"page": 16, "n_pages": 8}
    outs = []
    for most in (grids.MAX_GRID, LIMIT):
        limit(monkeypatch, most)
        launched.clear()
        state = kernel.start(k, v, **how)
        for tokens in (slice(0, N - 1), slice(N - 1, N)):
            out, state = kernel.step(state, q[:, :, tokens], k[:, :, tokens], v[:, :, tokens])
        outs.append(out)
        assert all(max((*grid, 1, 1)[1:3]) <= most for grid in launched)
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-5)


def test_what_fits_is_not_cut():
    assert grids.cuts(65_535, 65_535, 65_535) is None and grids.cuts(0, 70_000, 0) is None
    ((batch, heads),) = grids.cuts(1, 70_000, 35_000)
    assert batch == slice(0, 65_535) and heads[0] == (slice(0, 65_534), slice(0, 32_767))
    assert grids.cuts(1, 1, 1, each=70_000) is None  # one head alone is too many


@pytest.mark.skipif(not INTERPRETED, reason="traffic is counted in the interpreter")
@pytest.mark.parametrize(
    "stem", by_day(["window", "kv_cache"], ["window", "kv_cache", "full", "linear", "grouped"])
)
def test_cost_counts_the_parts_and_their_joining(stem, monkeypatch):
    mechanism = MECHANISMS[stem]
    own = {"groups": None} if stem in ("grouped", "kv_cache") else {}
    q, k, v = inputs()
    limit(monkeypatch, LIMIT * (16 if stem == "linear" else 1))
    counted = mechanism.kernel.cost(B, H, N, N, D, **mechanism.values | own)
    out = B * H * N * D * 4
    traced = trace.record(mechanism.kernel.attention, q, k, v, **knobs(mechanism, q))
    expected = counted.bytes_read - out, counted.bytes_written - out
    assert (traced.bytes_loaded(), traced.bytes_stored()) == expected
    if stem == "window":
        peak = min(  # what an earlier test left may be let go in the middle of a call
            measure.peak_bytes(mechanism.kernel.attention, q, k, v, **knobs(mechanism, q))
            for _ in range(3)
        )
        assert counted.peak_bytes == 2 * out
        assert 2 * out <= peak <= 2.2 * out  # the interpreter keeps what it was given last
