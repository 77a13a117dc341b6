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
        family: "dense", "exact tiled", "pattern", "content", "kernel" or "low rank".
        title: The name a reader knows it by.
        paper: Authors, year, arXiv id, section.
        chapter: The chapter that teaches it, as two digits.
        exact: What the result equals: softmax attention, or softmax attention under its mask.
        memory: What the reference holds beyond q, k, v and out, in elements per head.
        knobs: Its keyword-only arguments other than `causal` and `scale`.
        has: Which of `FEATURES` it offers.
        collapse: Knobs at which it equals full attention, as a function of (Tq, Tk).
        causal: Whether it can be causal; one that cannot says so when asked to.
        square: Whether it needs as many queries as keys.
        arguments: For mechanisms whose knobs are arrays: turns (Tq, Tk, D, Dv, dtype, **knobs)
            into the keyword arguments of `attention`.
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
    square: bool = False
    arguments: Callable[..., dict[str, Any]] | None = None
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

    @property
    def values(self) -> dict[str, int]:
        """A sensible value for each knob."""
        return {knob.name: knob.value for knob in self.knobs}


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
