"""The model: a small decoder in NumPy, whose attention is any mechanism of the catalogue.

Each layer adds two things to its input x, (..., T, width): attention over what is there, and an MLP
that sees each token by itself.

    x += out @ concat(attend(rotate(q), rotate(k), v)),   q, k, v = qkv @ norm(x)
    x += down @ max(0, up @ norm(x))²

Paper:
    Vaswani et al. 2017, arXiv:1706.03762, for the decoder; Xiong et al. 2020, arXiv:2002.04745,
    for norms before instead of after; Su et al. 2021, arXiv:2104.09864, for `rotate`; So et al.
    2021, arXiv:2109.08668, for the squared ReLU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from attncourse.inputs import check_count, stream
from attncourse.model.attention import Attention
from attncourse.model.tokenizer import START, Tokenizer
from attncourse.reference.relative import rotate
from attncourse.softmax import softmax

Text: TypeAlias = "str | np.ndarray"
Attend: TypeAlias = Callable[[int, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
ROWS = 4  # contexts that are read together: the logits and scores of more would fill the cache


@dataclass(frozen=True)
class Shape:
    """The sizes of a model.

    Raises:
        TypeError, ValueError: A size that no model has; heads that do not divide the width.

    Attributes:
        n_ids: How many different tokens it knows.
        n_layers: Layers.
        n_heads: Heads of each layer.
        width: Numbers that stand for a token between the layers; `n_heads` · D.
        hidden: Width of the MLP.
        context: Tokens that it was trained to read at a time.
        base: Of `rotate`.
    """

    n_ids: int = 1024
    n_layers: int = 4
    n_heads: int = 4
    width: int = 128
    hidden: int = 512
    context: int = 512
    base: float = 10_000.0

    def __post_init__(self) -> None:
        """Refuse sizes that no model has."""
        least = {"n_ids": 256, "context": 1, "n_layers": 1, "n_heads": 1, "width": 1, "hidden": 1}
        for name, lowest in least.items():
            count = check_count("model.Shape", name, getattr(self, name), least=lowest)
            object.__setattr__(self, name, count)  # a plain int, whatever came
        if self.width % (2 * self.n_heads):
            raise ValueError(
                f"model.Shape: width must be {self.n_heads} heads of an even width, "
                f"got {self.width}"
            )
        if isinstance(self.base, str) or not 0 < self.base < float("inf"):
            raise ValueError(f"model.Shape: base must be a positive number, got {self.base!r}")

    @property
    def head_width(self) -> int:
        """D, the width of a query or key."""
        return self.width // self.n_heads


@dataclass(frozen=True)
class Model:
    """A trained decoder. Nothing changes it: `swap` and `without` return another.

    Text is a string, or the ids that `encode` makes of it.

    Attributes:
        shape: Its sizes.
        weights: float32 arrays by name.
        tokenizer: What turns text into ids.
        attention: What each layer attends with.
        silent: Heads whose output is taken as zero: (layer, head).
    """

    shape: Shape
    weights: dict[str, np.ndarray]
    tokenizer: Tokenizer
    attention: tuple[Attention, ...]
    silent: frozenset[tuple[int, int]] = frozenset()

    def encode(self, text: Text) -> np.ndarray:
        """Return the ids of a text, int (T,); ids are checked and returned."""
        if isinstance(text, str):
            return self.tokenizer.encode(text)
        ids = np.asarray(text)
        if ids.dtype.kind not in "iu" or ids.ndim != 1:
            raise TypeError(
                "model.encode: text must be a string or a row of integer ids, got "
                f"{type(text).__name__} of {ids.dtype} with shape {ids.shape}"
            )
        if ids.size and not 0 <= ids.min() <= ids.max() < self.shape.n_ids:
            raise ValueError(
                f"model.encode: ids must be 0 ... {self.shape.n_ids - 1}, "
                f"got {ids.min()} ... {ids.max()}"
            )
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of some ids."""
        return self.tokenizer.decode(ids)

    def swap(
        self, stem: str, *, layers: int | Sequence[int] | None = None, **knobs: object
    ) -> Model:
        """Return the model with another mechanism in place of its attention.

        Args:
            stem: A mechanism of the catalogue, such as "window".
            layers: Where; everywhere if not given. -1 is the last.
            **knobs: The mechanism's; the catalogue's values where not given.

        Raises:
            ValueError: No such mechanism, layer or knob, or one that cannot be causal.
        """
        new = Attention.of(stem, **knobs)
        if layers is None:
            layers = range(self.shape.n_layers)
        changed = list(self.attention)
        for layer in layers if isinstance(layers, Iterable) else [layers]:
            changed[self._layer("swap", layer)] = new
        return dataclasses.replace(self, attention=tuple(changed))

    def without(self, *heads: tuple[int, int]) -> Model:
        """Return the model with some heads silenced: each a pair (layer, head)."""
        silent = set(self.silent)
        for pair in heads:
            if np.shape(pair) != (2,):
                raise TypeError(f"model.without: each head must be (layer, head), got {pair!r}")
            layer, head = pair
            head = check_count("model.without", "head", head)
            if head >= self.shape.n_heads:
                raise ValueError(
                    f"model.without: head must be 0 ... {self.shape.n_heads - 1}, got {head}"
                )
            silent.add((self._layer("without", layer), head))
        return dataclasses.replace(self, silent=frozenset(silent))

    def logits(self, text: Text) -> np.ndarray:
        """Return what the model gives to each id as the next one: float32 (T, n_ids)."""
        return self._forward(self._some(text), [None] * self.shape.n_layers)[0]

    def losses(self, text: Text) -> np.ndarray:
        """Return -log p of each token but the first, given those before it, in nats: (T - 1,).

        Text beyond the context is read in pieces of `shape.context` tokens, each from its start.
        """
        ids = self.encode(text)
        if len(ids) < 2:
            raise ValueError(f"model.losses: text must have at least 2 tokens, got {len(ids)}")
        size = self.shape.context
        rows = [ids[i : i + size + 1] for i in range(0, len(ids) - 1, size)]
        last = [rows.pop()[None]] if len(rows[-1]) <= size else []
        pieces = [np.stack(rows[i : i + ROWS]) for i in range(0, len(rows), ROWS)] + last
        return np.concatenate([self.row_losses(piece).ravel() for piece in pieces])

    def row_logits(self, rows: np.ndarray) -> np.ndarray:
        """Return what the model gives to each id after those of each row, (B, T, n_ids)."""
        return self._forward(rows, [None] * self.shape.n_layers)

    def row_losses(self, rows: np.ndarray) -> np.ndarray:
        """Return -log p of all but the first id of each row, (B, T - 1) for int (B, T), any T."""
        logits = self.row_logits(rows[:, :-1])
        highest = logits.max(axis=-1)
        total = np.log(np.exp(logits - highest[..., None]).sum(axis=-1)) + highest
        return total - np.take_along_axis(logits, rows[:, 1:, None], axis=-1)[..., 0]

    def loss(self, text: Text) -> float:
        """Return the mean of `losses`, in nats a token."""
        return float(self.losses(text).mean())

    def attention_maps(self, text: Text) -> np.ndarray:
        """Return the weight that each token gives to each: float32 (n_layers, H, T, T).

        Attention is linear in its values: with the identity in their place its output is the
        weights. Of `relative`, which adds to the output, these are not the weights alone; of
        `quantised_cache` they are rounded.
        """
        maps = []
        for attend, (q, k, _) in zip(self.attention, self.qkv(text), strict=True):
            one = np.broadcast_to(np.eye(q.shape[-2], dtype=q.dtype), (*q.shape[:-1], q.shape[-2]))
            maps.append(attend(q, k, one))
        return np.stack(maps)

    def qkv(self, text: Text) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return what attention gets in each layer, (H, T, D); q and k turned by position."""
        seen: list = [[] for _ in range(self.shape.n_layers)]
        self._forward(self._some(text), [None] * self.shape.n_layers, seen)
        return [tuple(x[0] for x in layer) for layer in seen]

    def generate(
        self, text: Text, n: int, *, temperature: float = 0.0, seed: int = 0, cache: bool = True
    ) -> str:
        """Return what follows a text.

        Args:
            text: What to go on from; "" begins a document.
            n: How many tokens to add.
            temperature: 0 takes the likeliest token each time, 1 draws as often as the model says.
            seed: Of the draws.
            cache: Keep the keys and values of earlier tokens instead of making them anew each time.

        Raises:
            ValueError: A negative temperature or number of tokens.
        """
        n = check_count("model.generate", "n", n)
        if not temperature >= 0:
            raise ValueError(f"model.generate: temperature must be at least 0, got {temperature}")
        ids = [START, *map(int, self.encode(text))]
        start = len(ids)
        rng = stream("model.generate", seed)
        past: list = [None] * self.shape.n_layers
        for _ in range(n):
            known = 0 if past[0] is None or not cache else past[0][0].shape[-2]
            past = past if cache else [None] * self.shape.n_layers
            last = self._forward(np.array([ids[known:]]), past)[0, -1]
            if temperature == 0:
                ids.append(int(last.argmax()))
            else:
                with np.errstate(over="ignore"):  # far below the highest is never drawn
                    scores = (last - last.max()).astype(float) / temperature
                ids.append(int(rng.choice(len(last), p=softmax(scores))))
        return self.decode(ids[start:])

    def layers(self, ids: np.ndarray, attend: Attend) -> np.ndarray:
        """Return the logits (B, T, n_ids) of ids (B, T), with attention by a function.

        Args:
            ids: int (B, T).
            attend: Called for each layer with its number and with q, k and v, (B, H, T, D), not
                yet turned by their positions; returns (B, H, T, D).
        """
        weights, shape = self.weights, self.shape
        x = weights["embedding"][ids] * np.float32(shape.width**0.5)  # (B, T, width)
        for i in range(shape.n_layers):
            name = f"layers.{i}."
            qkv = _norm(x, weights[name + "attention_norm"]) @ weights[name + "qkv"].T
            q, k, v = qkv.reshape(*ids.shape, 3, shape.n_heads, -1).transpose(2, 0, 3, 1, 4)
            out = attend(i, q, k, v)  # (B, H, T, D)
            for layer, head in self.silent:
                if layer == i:
                    out[:, head] = 0
            x = x + out.swapaxes(1, 2).reshape(*ids.shape, -1) @ weights[name + "out"].T
            hidden = np.maximum(_norm(x, weights[name + "mlp_norm"]) @ weights[name + "up"].T, 0)
            x = x + (hidden * hidden) @ weights[name + "down"].T
        return _norm(x, weights["norm"]) @ weights["embedding"].T

    def _forward(self, ids: np.ndarray, past: list, seen: list | None = None) -> np.ndarray:
        """Return the logits (B, T, n_ids) of ids (B, T).

        Args:
            ids: New tokens.
            past: For each layer the keys and values before them, or None; it gets those after them.
            seen: For each layer a list that gets its q, k and v.
        """

        def attend(i: int, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
            before = 0 if past[i] is None else past[i][0].shape[-2]
            positions = np.arange(before, before + ids.shape[-1])
            q, k = (rotate(y, positions, base=self.shape.base) for y in (q, k))
            if past[i] is not None:
                k, v = (np.concatenate(pair, axis=-2) for pair in zip(past[i], (k, v), strict=True))
            past[i] = k, v
            if seen is not None:
                seen[i] += q, k, v
            return self.attention[i](q, k, v)

        return self.layers(ids, attend)

    def _some(self, text: Text) -> np.ndarray:
        """Return the ids of a text that has some, (1, T)."""
        ids = self.encode(text)
        if not len(ids):
            raise ValueError("model: text must have at least 1 token, got none")
        return ids[None]

    def _layer(self, where: str, layer: int) -> int:
        n = self.shape.n_layers
        if isinstance(layer, bool | np.bool_) or not isinstance(layer, int | np.integer):
            raise TypeError(f"model.{where}: layer must be an integer, got {layer!r}")
        if not -n <= layer < n:
            raise ValueError(f"model.{where}: layer must be {-n} ... {n - 1}, got {layer}")
        return int(layer) % n


def _norm(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Return x over its root mean square, times a gain for each column."""
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(1e-5)) * gain
