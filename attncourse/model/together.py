"""Several texts written together, their keys and values in the pages of one pool a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attncourse.inputs import check_count
from attncourse.model.decoder import Attend, Model
from attncourse.model.tokenizer import START
from attncourse.reference.paged import PagedCache, PagePool, PageTable
from attncourse.reference.relative import rotate


@dataclass(frozen=True)
class Together:
    """Texts that were written side by side.

    Attributes:
        texts: What was added to each.
        pools: The pages of each layer.
        tables: For each layer the table of each text.
    """

    texts: list[str]
    pools: list[PagePool]
    tables: list[list[PageTable]]

    @property
    def bytes_held(self) -> int:
        """Bytes of the pages that some text holds, all layers together."""
        each = [(pool.keys[0].nbytes + pool.values[0].nbytes, pool.owners) for pool in self.pools]
        return sum(size * int((owners > 0).sum()) for size, owners in each)


def write_together(
    model: Model, texts: Sequence[str], n: int, *, page: int = 16, n_pages: int | None = None
) -> Together:
    """Return what follows each text, a token of each at every step: what `generate` gives for one.

    The texts have any lengths, and nothing is padded: a step multiplies the weights with one token
    of each text, and attention looks up each text's own pages.

    Args:
        model: With full attention in each layer.
        texts: What to go on from.
        n: Tokens to add to each, the likeliest ones.
        page: Tokens in a page.
        n_pages: Pages of each layer; as many as are needed if not given.

    Raises:
        ValueError: Other attention than full: pages are read by full attention.
        MemoryError: Too few pages.
    """
    n = check_count("model.write_together", "n", n)
    page = check_count("model.write_together", "page", page, least=1)
    if any(attention.stem != "full" for attention in model.attention):
        raise ValueError("model.write_together: attention must be full in each layer")
    shape = model.shape
    ids = [[START, *map(int, model.encode(text))] for text in texts]
    starts = [len(row) for row in ids]
    if n_pages is None:
        n_pages = sum(-(-(start + n) // page) for start in starts)
    pools = [
        PagePool(n_pages, page, shape.n_heads, shape.head_width) for _ in range(shape.n_layers)
    ]
    tables = [[PageTable(pool) for _ in ids] for pool in pools]

    def attend_of(rows: Sequence[int]) -> Attend:
        """Attention of one whole prompt, or of one token of each of these texts."""

        def attend(i: int, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
            held = [tables[i][row] for row in rows]
            if q.shape[-2] > 1:
                q, k = (rotate(x, base=shape.base) for x in (q, k))
            else:  # the texts take the place of the tokens, each at a position of its own
                positions = np.array([table.length for table in held])
                q, k = (
                    rotate(x.swapaxes(0, 2), positions, base=shape.base).swapaxes(0, 2)
                    for x in (q, k)
                )
            cache = PagedCache(pools[i], held)
            cache.append(k, v)
            return cache.attend(q, causal=True)

        return attend

    everyone = range(len(ids))
    for step in range(n if ids else 0):
        if step == 0:
            last = [model.layers(np.array([ids[i]]), attend_of([i]))[0, -1] for i in everyone]
        else:
            last = model.layers(np.array([[row[-1]] for row in ids]), attend_of(everyone))[:, -1]
        for row, logits in zip(ids, last, strict=True):
            row.append(int(logits.argmax()))
    added = [model.decode(row[start:]) for row, start in zip(ids, starts, strict=True)]
    return Together(added, pools, tables)
