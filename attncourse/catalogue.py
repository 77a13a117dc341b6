"""The catalogue: what each mechanism is, which knobs it has and what comes with it.

The comparison table, the benchmark sweep, the conformance tests and README's table are made
from `MECHANISMS`. A new mechanism is one reference module, one kernel module and one entry here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

FEATURES = ("mask", "kernel", "backward", "step")


@dataclass(frozen=True)
class Knob:
    """One keyword-only argument of a mechanism, with the values a slider or a sweep may take.

    Attributes:
        name: The argument's name.
        value: A sensible value, used by sweeps and as the slider's start.
        low: The slider's smallest value.
        high: The slider's largest value.
        step: The slider's step.
        text: What the knob means, with its unit.
    """

    name: str
    value: int
    low: int
    high: int
    step: int
    text: str


@dataclass(frozen=True)
class Mechanism:
    """One attention mechanism.

    Attributes:
        stem: The module name in `reference` and `kernels`, and the key of the catalogue.
        family: "dense", "exact tiled", "pattern", "content", "kernel", "low rank",
            "learned scores", "recurrent", "variant" or "inference".
        title: The name a reader knows it by.
        paper: Authors, year, arXiv id, section.
        chapter: The chapter that teaches it, as two digits.
        exact: What the result equals: softmax attention, or softmax attention under its mask.
        memory: What the reference holds beyond q, k, v and out, in elements per head.
        knobs: Its keyword-only arguments other than `causal` and `scale`.
        has: Which of `FEATURES` it offers.
        collapse: Knobs at which it equals full attention, as a function of (Tq, Tk): all that have
            no default are among them.
        causal: Whether it can be causal; one that cannot says so when asked to.
        online: Whether causal output depends on earlier tokens only. LSH hides later keys and
            values, but sorts all tokens, so later ones influence which earlier ones are found.
        square: Whether it needs as many queries as keys.
        longest: The longest sequence at which sweeps and tests run the reference, where a call
            beyond takes minutes.
        roundings: How many roundings of its work the result may lose: as many as its exponents
            are large, where it takes the exponential of something large.
        arguments: For mechanisms whose knobs are arrays: turns (Tq, Tk, D, Dv, dtype, **knobs)
            into the keyword arguments of `attention`.
        twin_arguments: The same for the Triton twin, with a tensor instead of dtype; where not
            given, the arrays of `arguments` become tensors.
        variants: Further stems that belong to it, reference and twin of each with knobs that no
            slider sets.
        reference_module: Where the NumPy reference lives.
        kernel_module: Where the Triton twin lives.
    """

    stem: str
    family: str
    title: str
    paper: str
    chapter: str
    exact: str
    memory: str
    knobs: tuple[Knob, ...] = ()
    has: frozenset[str] = frozenset()
    collapse: Callable[[int, int], dict[str, Any]] | None = None
    causal: bool = True
    online: bool = True
    square: bool = False
    longest: int | None = None
    roundings: int = 8
    arguments: Callable[..., dict[str, Any]] | None = None
    twin_arguments: Callable[..., dict[str, Any]] | None = None
    variants: tuple[str, ...] = ()
    reference_module: str = ""
    kernel_module: str = ""

    def __post_init__(self) -> None:
        unknown = self.has - set(FEATURES)
        if unknown:
            raise ValueError(
                f"Mechanism {self.stem!r}: has must be among {FEATURES}, got {sorted(unknown)}"
            )

    @property
    def reference(self) -> ModuleType:
        """The NumPy module, imported on first use."""
        return importlib.import_module(self.reference_module or f"attncourse.reference.{self.stem}")

    @property
    def kernel(self) -> ModuleType:
        """The Triton module, imported on first use.

        Raises:
            LookupError: The mechanism has no Triton twin.
        """
        if "kernel" not in self.has:
            raise LookupError(f"{self.stem} has no Triton twin")
        return importlib.import_module(self.kernel_module or f"attncourse.kernels.{self.stem}")

    def keywords(
        self, n_queries: int, n_keys: int, width: int, value_width: int, dtype: Any, **knobs: Any
    ) -> dict[str, Any]:
        """Return what `attention` takes beyond q, k and v of these sizes, at these knobs."""
        if self.arguments is None:
            return knobs
        return self.arguments(n_queries, n_keys, width, value_width, dtype, **knobs)

    def tensors(
        self, n_queries: int, n_keys: int, width: int, value_width: int, like: Any, **knobs: Any
    ) -> dict[str, Any]:
        """Return the same for the Triton twin, arrays as tensors of `like`'s dtype and device."""
        if self.twin_arguments is not None:
            return self.twin_arguments(n_queries, n_keys, width, value_width, like, **knobs)
        made = self.keywords(n_queries, n_keys, width, value_width, "float32", **knobs)
        floating = {name for name, x in made.items() if getattr(x, "dtype", None) == "float32"}
        return {name: like.new_tensor(x) if name in floating else x for name, x in made.items()}

    @property
    def values(self) -> dict[str, int]:
        """A sensible value for each knob."""
        return {knob.name: knob.value for knob in self.knobs}


def _linformer_arguments(n_queries, n_keys, width, value_width, dtype, *, rank, **rest):
    from attncourse.reference import linformer

    mean = linformer.mean_pool(rank, n_keys).astype(dtype)
    return rest | {"key_projection": mean, "value_projection": mean}


def _synthesizer_arguments(n_queries, n_keys, width, value_width, dtype, *, hidden, **rest):
    from attncourse.reference import synthesizer

    layers = (layer.astype(dtype) for layer in _synthesizer_layers(n_keys, width, hidden))
    return rest | {"logits": synthesizer.dense(*layers)}


def _synthesizer_tensors(n_queries, n_keys, width, value_width, like, *, hidden, **rest):
    from attncourse.kernels import synthesizer

    layers = (like.new_tensor(layer) for layer in _synthesizer_layers(n_keys, width, hidden))
    return rest | {"logits": synthesizer.dense(*layers)}


def _synthesizer_layers(n_keys, width, hidden):
    from attncourse.inputs import stream

    generator = stream("synthesizer", 0)
    yield generator.standard_normal((width, hidden)) / width**0.5
    yield generator.standard_normal((hidden, n_keys)) / hidden**0.5


def _block_sparse_arguments(
    n_queries, n_keys, width, value_width, dtype, *, block, window_blocks, **rest
):
    from attncourse import layouts

    layout = layouts.band(n_queries, n_keys, block=block, window_blocks=window_blocks)
    return rest | {"layout": layout, "block": block}


def _relative_arguments(n_queries, n_keys, width, value_width, dtype, *, max_distance, **rest):
    from attncourse.reference import relative

    keys, values = relative.random_tables(max_distance, width, value_width, dtype=dtype)
    return rest | {"relative_keys": keys, "relative_values": values}


def _t5_arguments(n_queries, n_keys, width, value_width, dtype, **rest):
    from attncourse.reference import t5

    return rest | {"table": t5.random_table(dtype=dtype)}


def _latent_arguments(n_queries, n_keys, width, value_width, dtype, **rest):
    import numpy as np

    one = np.eye(value_width, dtype=dtype)  # keys and values are the latents, which is full
    return rest | {"key_up": one, "value_up": one}


def _scoring_arguments(n_queries, n_keys, width, value_width, dtype, *, hidden, **rest):
    from attncourse.reference import scoring

    drawn = scoring.random_parameters(width, hidden, dtype=dtype)
    return rest | dict(zip(("query_weights", "key_weights", "vector"), drawn, strict=True))


MECHANISMS: dict[str, Mechanism] = {
    mechanism.stem: mechanism
    for mechanism in (
        Mechanism(
            stem="full",
            family="dense",
            title="Scaled dot-product attention",
            paper="Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1",
            chapter="01",
            exact="softmax attention itself",
            memory="n²",
            has=frozenset({"mask", "kernel"}),
            collapse=lambda n_queries, n_keys: {},
        ),
        Mechanism(
            stem="chunked",
            family="exact tiled",
            title="Chunked attention",
            paper="Rabe, Staats 2021, arXiv:2112.05682, section 4",
            chapter="09",
            exact="softmax attention itself",
            memory="n · chunk",
            knobs=(Knob("chunk", 128, 1, 1024, 1, "queries handled together"),),
            collapse=lambda n_queries, n_keys: {"chunk": 16},
        ),
        Mechanism(
            stem="flash",
            family="exact tiled",
            title="FlashAttention",
            paper="Dao 2023, arXiv:2307.08691, section 3.1",
            chapter="09",
            exact="softmax attention itself",
            memory="block_q · block_k + n",
            knobs=(
                Knob("block_q", 256, 1, 1024, 1, "queries of a tile"),
                Knob("block_k", 256, 1, 1024, 1, "keys of a tile"),
            ),
            has=frozenset({"kernel", "backward"}),
            collapse=lambda n_queries, n_keys: {"block_q": 16, "block_k": 32},
        ),
        Mechanism(
            stem="relative",
            family="variant",
            title="Relative positions (Shaw)",
            paper="Shaw, Uszkoreit, Vaswani 2018, arXiv:1803.02155, section 3",
            chapter="03",
            exact="softmax attention with relative keys and values",
            memory="block² + block · max_distance",
            knobs=(Knob("max_distance", 16, 0, 128, 1, "distance at which positions are clipped"),),
            has=frozenset({"kernel"}),
            arguments=_relative_arguments,
        ),
        Mechanism(
            stem="t5",
            family="variant",
            title="Relative position bias (T5)",
            paper="Raffel et al. 2020, arXiv:1910.10683, section 2.1",
            chapter="03",
            exact="softmax attention with a bias for each distance",
            memory="block² + max_distance",
            knobs=(Knob("max_distance", 128, 17, 512, 1, "keys so far away all look alike"),),
            has=frozenset({"kernel"}),
            arguments=_t5_arguments,
        ),
        Mechanism(
            stem="scoring",
            family="variant",
            title="Additive attention (Bahdanau)",
            paper="Bahdanau, Cho, Bengio 2015, arXiv:1409.0473, appendix A.1.2",
            chapter="02",
            exact="softmax of additive scores",
            memory="n · (hidden + block) + block² · hidden",
            knobs=(Knob("hidden", 16, 1, 64, 1, "numbers inside of tanh for each pair"),),
            longest=4096,
            has=frozenset({"kernel"}),
            arguments=_scoring_arguments,
        ),
        Mechanism(
            stem="window",
            family="pattern",
            title="Window (local) attention, with dilation",
            paper="Beltagy, Peters, Cohan 2020, arXiv:2004.05150, section 3.1",
            chapter="04",
            exact="softmax attention under its mask",
            memory="block · (block + 2·window)",
            knobs=(
                Knob("window", 128, 0, 512, 1, "radius: keys on each side of a query"),
                Knob("dilation", 1, 1, 8, 1, "distance between two neighbouring keys, in tokens"),
            ),
            has=frozenset({"mask", "kernel", "backward"}),
            collapse=lambda n_queries, n_keys: {"window": max(n_queries, n_keys)},
        ),
        Mechanism(
            stem="strided",
            family="pattern",
            title="Strided attention",
            paper="Child, Gray, Radford, Sutskever 2019, arXiv:1904.10509, section 4.3",
            chapter="05",
            exact="softmax attention under its mask",
            memory="block · n/stride",
            knobs=(Knob("stride", 64, 1, 256, 1, "distance between two keys, in tokens"),),
            has=frozenset({"mask", "kernel"}),
            collapse=lambda n_queries, n_keys: {"stride": 1},
            variants=("offsets",),
        ),
        Mechanism(
            stem="random_keys",
            family="pattern",
            title="Random attention",
            paper="Zaheer et al. 2020, arXiv:2007.14062, section 2",
            chapter="05",
            exact="softmax attention under its mask",
            memory="n·r indices + block · r · D",
            knobs=(
                Knob("n_random", 32, 0, 128, 1, "keys drawn for each query, r"),
                Knob("seed", 0, 0, 99, 1, "which keys are drawn"),
            ),
            has=frozenset({"mask", "kernel"}),
            collapse=lambda n_queries, n_keys: {"n_random": n_keys},
        ),
        Mechanism(
            stem="block_sparse",
            family="pattern",
            title="Block-sparse attention",
            paper="Dong et al. 2024, arXiv:2412.05496",
            chapter="05",
            exact="softmax attention under its mask",
            memory="one row of blocks: block · listed",
            knobs=(
                Knob("block", 64, 1, 128, 1, "tokens in a block"),
                Knob("window_blocks", 1, 0, 8, 1, "listed blocks on each side of a block's own"),
            ),
            has=frozenset({"kernel", "backward"}),
            collapse=lambda n_queries, n_keys: {
                "block": 1,
                "window_blocks": max(n_queries, n_keys),
            },
            arguments=_block_sparse_arguments,
        ),
        Mechanism(
            stem="longformer",
            family="pattern",
            title="Longformer (window and global tokens)",
            paper="Beltagy, Peters, Cohan 2020, arXiv:2004.05150, section 3.1",
            chapter="05",
            exact="softmax attention under its mask",
            memory="block · (block + 2·window + g), g · n",
            knobs=(
                Knob("window", 128, 0, 512, 1, "radius: keys on each side of a query"),
                Knob("dilation", 1, 1, 8, 1, "distance between two neighbouring keys, in tokens"),
                Knob("global_tokens", 2, 0, 64, 1, "g: the first tokens, which see all"),
            ),
            has=frozenset({"mask", "kernel", "backward"}),
            collapse=lambda n_queries, n_keys: {"window": max(n_queries, n_keys)},
        ),
        Mechanism(
            stem="bigbird",
            family="pattern",
            title="BigBird (window, random and global blocks)",
            paper="Zaheer et al. 2020, arXiv:2007.14062, section 2 and appendix D",
            chapter="05",
            exact="softmax attention under its mask",
            memory="block² · (2·window + 1 + random + global), block · n",
            knobs=(
                Knob("block", 64, 1, 128, 1, "tokens in a block"),
                Knob("window_blocks", 1, 0, 8, 1, "radius: blocks on each side of a block's own"),
                Knob("random_blocks", 3, 0, 8, 1, "blocks drawn for each block of queries"),
                Knob("global_blocks", 2, 0, 8, 1, "the first blocks, which see all"),
                Knob("seed", 0, 0, 99, 1, "which blocks are drawn"),
            ),
            has=frozenset({"mask", "kernel", "backward"}),
            collapse=lambda n_queries, n_keys: {"block": 4, "random_blocks": n_keys},
        ),
        Mechanism(
            stem="sparse_transformer",
            family="pattern",
            title="Sparse Transformer (near and every stride-th key)",
            paper="Child, Gray, Radford, Sutskever 2019, arXiv:1904.10509, section 4.3",
            chapter="05",
            exact="softmax attention under its mask",
            memory="block · (block + 2·stride) or block · n/stride",
            knobs=(Knob("stride", 64, 1, 256, 1, "the near keys, and the step of the far ones"),),
            has=frozenset({"mask", "kernel"}),
            collapse=lambda n_queries, n_keys: {"stride": 1},
        ),
        Mechanism(
            stem="linear",
            family="kernel",
            title="Linear attention, elu + 1",
            paper="Katharopoulos, Vyas, Pappas, Fleuret 2020, arXiv:2006.16236, section 3.2",
            chapter="07",
            exact="attention with another kernel than the softmax's",
            memory="D·(Dv + 1) + chunk²",
            knobs=(Knob("chunk", 64, 1, 256, 1, "tokens handled together; no effect on values"),),
            has=frozenset({"kernel", "backward", "step"}),
        ),
        Mechanism(
            stem="performer",
            family="kernel",
            title="Performer (FAVOR+)",
            paper="Choromanski et al. 2021, arXiv:2009.14794, sections 2.3 and 2.4",
            chapter="07",
            exact="softmax attention, in the limit of many features",
            memory="m · (2·chunk + D + Dv)",
            knobs=(
                Knob("n_features", 256, 1, 1024, 1, "m: random directions"),
                Knob("chunk", 64, 1, 256, 1, "tokens handled together; no effect on values"),
            ),
            has=frozenset({"kernel"}),
            roundings=16,
        ),
        Mechanism(
            stem="linformer",
            family="low rank",
            title="Linformer",
            paper="Wang, Li, Khabsa, Fang, Ma 2020, arXiv:2006.04768, section 4",
            chapter="06",
            exact="softmax attention to `rank` mixtures of the keys",
            memory="rank · (2D + block)",
            knobs=(Knob("rank", 256, 1, 1024, 1, "mixed keys and values that are kept"),),
            has=frozenset({"kernel"}),
            collapse=lambda n_queries, n_keys: {"rank": n_keys},
            causal=False,
            arguments=_linformer_arguments,
        ),
        Mechanism(
            stem="pooled",
            family="low rank",
            title="Pooled attention",
            paper="Liu et al. 2018, arXiv:1801.10198, section 4.2.4",
            chapter="06",
            exact="softmax attention to one key per run of tokens",
            memory="2D·n/pool + block·n/pool",
            knobs=(Knob("pool", 4, 1, 64, 1, "tokens that become one key and value"),),
            has=frozenset({"kernel"}),
            collapse=lambda n_queries, n_keys: {"pool": 1},
        ),
        Mechanism(
            stem="synthesizer",
            family="learned scores",
            title="Synthesizer",
            paper="Tay et al. 2020, arXiv:2005.00743, section 3",
            chapter="06",
            exact="attention with logits that no key had a part in",
            memory="block · n",
            knobs=(Knob("hidden", 64, 1, 256, 1, "width of the map from a query to its logits"),),
            has=frozenset({"kernel"}),
            arguments=_synthesizer_arguments,
            twin_arguments=_synthesizer_tensors,
        ),
        Mechanism(
            stem="topk",
            family="content",
            title="Top-k attention",
            paper="Gupta, Dar, Goodman, Ciprut, Berant 2021, arXiv:2106.06899",
            chapter="08",
            exact="softmax attention to each query's best keys",
            memory="block · (n + keep · D)",
            knobs=(Knob("keep", 64, 1, 512, 1, "keys that each query keeps"),),
            collapse=lambda n_queries, n_keys: {"keep": max(n_keys, 1)},
        ),
        Mechanism(
            stem="block_topk",
            family="content",
            title="Block top-k attention (select blocks, then attend)",
            paper="Lu et al. 2025, arXiv:2502.13189, section 2.2",
            chapter="08",
            exact="softmax attention to the blocks that each query chooses",
            memory="(D + 32) · n/block + keep · block · D",
            knobs=(
                Knob("block", 64, 1, 128, 1, "keys in a block"),
                Knob("keep", 8, 1, 64, 1, "blocks that a query reads, its own included"),
                Knob("choose_every", 16, 1, 64, 1, "queries that share a choice"),
            ),
            has=frozenset({"kernel"}),
            collapse=lambda n_queries, n_keys: {
                "block": 8,
                "keep": max(n_keys, 1),
                "choose_every": 3,
            },
        ),
        Mechanism(
            stem="lsh",
            family="content",
            title="LSH attention (Reformer)",
            paper="Kitaev, Kaiser, Levskaya 2020, arXiv:2001.04451, section 2",
            chapter="08",
            exact="softmax attention to the keys that it finds",
            memory="n·D + n·rounds + 2·chunk²",
            knobs=(
                Knob("n_buckets", 64, 2, 512, 2, "even: directions of the hash, both ways"),
                Knob("n_rounds", 4, 1, 8, 1, "independent hashes"),
                Knob("chunk", 64, 1, 256, 1, "keys in a chunk; a query looks at two chunks"),
                Knob("seed", 0, 0, 99, 1, "which directions are drawn"),
            ),
            has=frozenset({"kernel"}),
            collapse=lambda n_queries, n_keys: {"n_buckets": 4, "n_rounds": 2, "chunk": n_keys},
            online=False,
        ),
        Mechanism(
            stem="segment",
            family="recurrent",
            title="Segment recurrence (Transformer-XL)",
            paper="Dai et al. 2019, arXiv:1901.02860, section 3.2",
            chapter="06",
            exact="softmax attention under its mask",
            memory="chunk · (chunk + memory)",
            knobs=(
                Knob("chunk", 128, 1, 512, 1, "tokens of a segment"),
                Knob("memory", 128, 0, 512, 1, "keys before the segment that it sees too"),
            ),
            has=frozenset({"mask", "kernel", "backward", "step"}),
            collapse=lambda n_queries, n_keys: {"chunk": n_keys, "memory": 0},
        ),
        Mechanism(
            stem="grouped",
            family="inference",
            title="Grouped-query and multi-query attention",
            paper="Ainslie et al. 2023, arXiv:2305.13245, section 2.2",
            chapter="12",
            exact="softmax attention itself",
            memory="block · n; k and v are never repeated",
            has=frozenset({"kernel", "backward"}),
            collapse=lambda n_queries, n_keys: {},
        ),
        Mechanism(
            stem="latent",
            family="inference",
            title="Multi-head latent attention (MLA)",
            paper="DeepSeek-AI 2024, arXiv:2405.04434, section 2.1",
            chapter="12",
            exact="softmax attention to keys and values made of latents",
            memory="block · n; keys and values are never built",
            has=frozenset({"mask"}),
            collapse=lambda n_queries, n_keys: {},
            arguments=_latent_arguments,
        ),
        Mechanism(
            stem="kv_cache",
            family="inference",
            title="Key/value cache",
            paper="Shazeer 2019, arXiv:1911.02150, section 2.4",
            chapter="12",
            exact="softmax attention itself",
            memory="the cache: n·(D + Dv); block · n",
            knobs=(Knob("chunk", 128, 1, 512, 1, "tokens a step; no effect on values"),),
            has=frozenset({"kernel", "step"}),
            collapse=lambda n_queries, n_keys: {"chunk": 7},
        ),
        Mechanism(
            stem="paged",
            family="inference",
            title="Paged key/value cache",
            paper="Kwon et al. 2023, arXiv:2309.06180, section 4.1",
            chapter="12",
            exact="softmax attention itself",
            memory="the pages: (n + page)·(D + Dv); block · n",
            knobs=(Knob("page", 64, 1, 256, 1, "tokens in a page; no effect on values"),),
            has=frozenset({"kernel", "step"}),
            collapse=lambda n_queries, n_keys: {"page": 7},
        ),
        Mechanism(
            stem="quantised_cache",
            family="inference",
            title="Key/value cache in int8",
            paper="Liu et al. 2024, arXiv:2402.02750",
            chapter="12",
            exact="softmax attention over rounded keys and values",
            memory="the cache: n·(D + Dv) bytes and scales; block · n",
            knobs=(Knob("group", 64, 1, 256, 1, "tokens whose keys share their scales"),),
            has=frozenset({"step"}),
            collapse=lambda n_queries, n_keys: {"group": max(n_keys, 1)},
        ),
    )
}


def table() -> list[dict[str, Any]]:
    """The catalogue as rows for people: one dict per mechanism, in the catalogue's order."""
    return [
        {
            "mechanism": mechanism.title,
            "module": mechanism.stem,
            "family": mechanism.family,
            "equals": mechanism.exact,
            "beyond q, k, v, out": mechanism.memory,
            "Triton": "forward, backward"
            if {"kernel", "backward"} <= mechanism.has
            else ("forward" if "kernel" in mechanism.has else "none"),
            "chapter": mechanism.chapter,
            "source": mechanism.paper,
        }
        for mechanism in MECHANISMS.values()
    ]


def markdown_table() -> str:
    """`table()` in Markdown."""
    rows = table()
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(str(cell) for cell in row.values()) + " |" for row in rows]
    return "\n".join(lines)
