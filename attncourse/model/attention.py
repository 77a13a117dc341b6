"""One mechanism of the catalogue, ready to stand in a layer."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attncourse.catalogue import MECHANISMS
from attncourse.cost import Cost
from attncourse.reference import quantised_cache


@dataclass(frozen=True)
class Attention:
    """Causal attention by one mechanism at given knobs.

    Attributes:
        stem: Its name in the catalogue.
        knobs: Its keyword arguments, those of the catalogue's sliders among them.
    """

    stem: str = "full"
    knobs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, stem: str, **knobs: Any) -> Attention:
        """Return the mechanism with the catalogue's values for knobs that are not given.

        `grouped` gets a knob that its function does not need: groups, how many heads of keys and
        values are left; each is the mean of those it stands for.
        """
        if stem not in MECHANISMS:
            raise ValueError(f"model.swap: {stem!r} is none of {', '.join(MECHANISMS)}")
        mechanism = MECHANISMS[stem]
        if not mechanism.causal:
            raise ValueError(
                f"model.swap: {stem} cannot be causal, and a model that reads from left to right "
                "must be"
            )
        known = {*inspect.signature(mechanism.reference.attention).parameters, *mechanism.values}
        known = (known | ({"groups"} if stem == "grouped" else set())) - {"q", "k", "v", "causal"}
        if set(knobs) - known:
            raise ValueError(
                f"model.swap: {stem} has no knob {', '.join(sorted(set(knobs) - known))}; "
                f"it has {', '.join(sorted(known)) or 'none'}"
            )
        return cls(stem, mechanism.values | knobs)

    def __call__(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return causal attention (..., H, Tq, Dv)."""
        mechanism = MECHANISMS[self.stem]
        knobs = dict(self.knobs)
        if self.stem == "grouped":
            groups = knobs.pop("groups", k.shape[-3])
            k, v = (_means(x, groups) for x in (k, v))
        made = {name: knobs.pop(name) for name in mechanism.values if name in knobs}
        sizes = q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1]
        arguments = mechanism.keywords(*sizes, q.dtype, **made) | knobs
        return mechanism.reference.attention(q, k, v, **arguments, causal=True)

    def cost(self, n: int, *, heads: int, width: int, dtype_bytes: int = 2) -> Cost:
        """Return what reading n tokens takes in one layer of so many heads of this width."""
        cost = MECHANISMS[self.stem].reference.cost
        taken = inspect.signature(cost).parameters
        knobs = {name: value for name, value in self.knobs.items() if name in taken}
        return cost(1, heads, n, n, width, **knobs, causal=True, dtype_bytes=dtype_bytes)

    def kept(self, n: int, *, heads: int, width: int, dtype_bytes: int = 2) -> int:
        """Return the bytes that generation holds of n tokens, in one layer of so many heads.

        These are the keys and values that the next token may see, or the sums that stand for them,
        in float32. Patterns that let somebody later see each key, and choices by content, keep all;
        what helps to choose is not counted.

        Args:
            n: Tokens read so far.
            heads: H.
            width: D, of keys and values.
            dtype_bytes: Of one number of a key or value.
        """
        knob, whole = self.knobs, 2 * width * dtype_bytes  # bytes of a token
        if self.stem == "linear":
            return heads * width * (width + 1) * 4
        if self.stem == "performer":
            return heads * knob["n_features"] * (width + 1) * 4
        if self.stem == "grouped":
            return knob.get("groups", heads) * n * whole
        if self.stem == "quantised_cache":
            full = max(-(-n // knob["group"]) - 1, 0) * knob["group"]
            rounded = quantised_cache.size_bytes(full, heads, width, group=knob["group"])
            return rounded + heads * (n - full) * whole
        tokens = n
        if self.stem in ("window", "longformer"):
            near = knob["window"] * knob["dilation"]
            tokens = min(n, near + knob.get("global_tokens", 0))
        elif self.stem == "segment":
            tokens = min(n, n % knob["chunk"] + knob["memory"])
        elif self.stem == "pooled":
            tokens = n // knob["pool"] + n % knob["pool"]
        return heads * tokens * whole

    def __str__(self) -> str:
        """Return the name, with the knobs that have a number or a word."""
        plain = {n: v for n, v in self.knobs.items() if isinstance(v, str) or np.ndim(v) == 0}
        return " ".join([self.stem, *(f"{name}={value}" for name, value in plain.items())])


def _means(x: np.ndarray, groups: int) -> np.ndarray:
    """Return (..., groups, T, D): the mean of each run of heads of x, (..., H, T, D)."""
    heads = x.shape[-3]
    if groups < 1 or heads % groups:
        raise ValueError(f"model.swap: groups must divide the {heads} heads, got {groups}")
    return x.reshape(*x.shape[:-3], groups, heads // groups, *x.shape[-2:]).mean(axis=-3)
