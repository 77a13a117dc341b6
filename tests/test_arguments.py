"""No public function of the references writes into what it is given."""

from types import SimpleNamespace

import numpy as np
import pytest

from attncourse import graph, softmax, spectra
from attncourse.inputs import random_qkv
from attncourse.reference import (
    block_sparse,
    block_topk,
    flash,
    full,
    linear,
    linformer,
    longformer,
    lsh,
    performer,
    pooled,
    quantised_cache,
    relative,
    scoring,
    strided,
    synthesizer,
    topk,
    window,
)

TILES = {"block_q": 4, "block_k": 5, "causal": True}
LSH = {"n_buckets": 4, "n_rounds": 2, "chunk": 4}


def arrays():
    """Read-only arrays in float64, the dtype of the work: what converts would be a copy."""
    q, k, v = random_qkv(12, width=8, dtype=np.float64)
    weights = full.weights(q, k)
    out, lse = flash.forward(q, k, v, **TILES)
    keys, values = relative.random_tables(3, 8, 8, dtype=np.float64)
    given = {"q": q, "k": k, "v": v, "g": v[..., ::-1].copy(), "weights": weights, "out": out}
    given |= {
        "lse": lse,
        "mask": weights[0, 0] > 0.05,
        "bias": weights.copy(),
        "square": k[0, 0, :8],
    }
    given |= {"table": np.ones((32, 2)), "line": k[0, 0, 0].copy(), "keys": keys, "values": values}
    given |= {
        "heads": np.ones((1, 1, 8)),
        "tall": linformer.mean_pool(4, 12),
        "few": np.array([3, 1]),
    }
    given |= {
        "place": np.arange(12),
        "directions": performer.draw_features(4, 8).astype(np.float64),
    }
    given |= {
        "rotations": lsh.draw_rotations(8, n_buckets=4, n_rounds=2),
        "kept": np.eye(12, dtype=int),
    }
    for array in given.values():
        array.flags.writeable = False
    return given


CALLS = {
    "full.attention": lambda a: full.attention(a.q, a.k, a.v, mask=a.mask, bias=a.bias),
    "full.backward": lambda a: full.backward(a.g, a.q, a.k, a.v, mask=a.mask, bias=a.bias),
    "flash.backward": lambda a: flash.backward(a.g, a.q, a.k, a.v, out=a.out, lse=a.lse, **TILES),
    "flash.merge": lambda a: flash.merge(a.out, a.lse, a.v, a.lse),
    "window.backward": lambda a: window.backward(a.g, a.q, a.k, a.v, window=2),
    "window.dynamic_window": lambda a: window.dynamic_window(a.weights, mass=0.5),
    "strided.learned_stride": lambda a: strided.learned_stride(a.weights, mass=0.5),
    "longformer.attention": lambda a: longformer.attention(
        a.q, a.k, a.v, window=2, global_tokens=a.few, q_global=a.g, k_global=a.k, v_global=a.v
    ),
    "block_sparse.attention": lambda a: block_sparse.attention(
        a.q, a.k, a.v, layout=a.mask, block=1, causal=True
    ),
    "topk.fit_predictor": lambda a: topk.fit_predictor(a.q, a.k, rank=2),
    "topk.attention": lambda a: topk.attention(
        a.q, a.k, a.v, keep=3, predictor=(a.square, a.square)
    ),
    "topk.select": lambda a: topk.select(a.q, a.k, keep=3),
    "topk.mask_of": lambda a: topk.mask_of(a.kept, 12),
    "topk.recall": lambda a: topk.recall(a.kept, a.kept),
    "block_topk.select": lambda a: block_topk.select(a.q, a.k, block=3, keep=2, bound=True),
    "block_topk.mask_of": lambda a: block_topk.mask_of(a.kept, 36, block=3, causal=True),
    "lsh.found": lambda a: lsh.found(a.q, a.k, **LSH),
    "lsh.unit_keys": lambda a: lsh.unit_keys(a.q),
    "lsh.hash_vectors": lambda a: lsh.hash_vectors(a.q, a.rotations),
    "lsh.collision_rate": lambda a: lsh.collision_rate(a.q, a.k, a.rotations),
    "linear.elu_plus_one": lambda a: linear.elu_plus_one(a.q),
    "linear.recurrent": lambda a: linear.recurrent(a.q, a.k, a.v),
    "linear.weights": lambda a: linear.weights(a.q, a.k, causal=True),
    "linear.backward": lambda a: linear.backward(a.g, a.q, a.k, a.v, causal=True),
    "performer.feature_map": lambda a: performer.feature_map(a.q, a.directions),
    "performer.attention": lambda a: performer.attention(
        a.q, a.k, a.v, n_features=4, features="trigonometric", causal=True
    ),
    "linformer.max_pool": lambda a: linformer.max_pool(a.k, rank=4),
    "linformer.fit": lambda a: linformer.fit(a.q, a.k, key_projection=a.tall),
    "pooled learned": lambda a: pooled.attention(
        a.q, a.k, a.v, pool=3, kind="learned", pooling_vector=a.heads
    ),
    "pooled adaptive": lambda a: pooled.attention(a.q, a.k, a.v, pool=3, kind="adaptive"),
    "pooled max": lambda a: pooled.attention(a.q, a.k, a.v, pool=3, kind="max", causal=True),
    "synthesizer random": lambda a: synthesizer.attention(
        a.q, a.k, a.v, logits=synthesizer.random(a.weights), causal=True
    ),
    "relative.attention": lambda a: relative.attention(
        a.q, a.k, a.v, relative_keys=a.keys, relative_values=a.values
    ),
    "relative.rotate": lambda a: relative.rotate(a.q, a.place),
    "relative.t5_bias": lambda a: relative.t5_bias(a.place, a.place, a.table),
    "relative.alibi_bias": lambda a: relative.alibi_bias(a.place, a.place, a.line),
    "scoring.bilinear": lambda a: scoring.bilinear(a.q, a.k, a.square, a.square),
    "scoring.additive": lambda a: scoring.additive(a.q, a.k, a.square, a.square, a.line),
    "quantised_cache.quantise": lambda a: quantised_cache.quantise(a.k, -1),
    "quantised_cache.error_bound": lambda a: quantised_cache.error_bound(a.q, a.k, a.v),
    "softmax.softmax": lambda a: softmax.softmax(a.weights, a.mask),
    "softmax.scaled": lambda a: softmax.scaled(a.q, 0.5),
    "spectra.energy_curve": lambda a: spectra.energy_curve(a.weights),
    "spectra.locality": lambda a: spectra.locality(a.weights, radius=2),
    "spectra.row_entropy": lambda a: spectra.row_entropy(a.weights),
    "graph.reach": lambda a: graph.reach(a.mask, 3),
    "graph.hops": lambda a: graph.hops(a.mask),
    "graph.islands": lambda a: graph.islands(a.mask),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_call_leaves_its_arguments_as_they_were(call):
    given = arrays()
    before = {name: array.copy() for name, array in given.items()}
    call(SimpleNamespace(**given))
    for name, array in given.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
