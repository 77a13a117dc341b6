"""Probes: questions with a known answer, put to one attention call. Nothing is trained.

    probes.recall(Attention.of("window", window=64))           # 0 ... 1
    probes.near_duplicates(attend, likeness=0.9, family=4)     # keys that nearly agree
    probes.needle(attend, depth=0.0)                           # 0: at the very beginning
    probes.two_needles(attend, depths=(0.2, 0.6))              # the first says where the second is
    probes.majority(attend, share=0.6)                         # an average, which no copy gives
    probes.run(attend)                                         # all of them, by name

Tokens of noise have keys and values; some of the last tokens ask for earlier ones by their exact
key. A question is answered if, of all values, the wanted one is nearest to what attention returns.
So each probe is a share of questions, from 0 to 1; guessing answers 1 in n. Scores between
strangers spread by about 2, the right one stands at `SCORE`: full attention answers everything,
and what a mechanism misses is its own. `majority` is the other kind: there all keys count alike,
and guessing answers a half.

    probes.pairs(small, text, family=4)    # the same of a whole model: pairs of tokens
    probes.hidden(small, text, depth=0.5)  # and three tokens hidden in a text
    probes.quoted(small, text)             # and lines of a text that its end quotes, as losses

`attend` is any function of q, k and v, (H, T, D), that is causal: an `Attention` of
`attncourse.model.attention`, say. The H heads are draws of their own. The same arguments give the
same probes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from attncourse.inputs import check_count, stream
from attncourse.model.decoder import Model, Text

Attend: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

SCORE = 16.0  # of a query and its key, scaled by 1/√D: e¹⁶ is far more than n strangers weigh
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def recall(
    attend: Attend, *, n: int = 512, ask: int = 64, width: int = 64, draws: int = 4, seed: int = 0
) -> float:
    """Return the share of values that are found by the exact key.

    Args:
        attend: Causal attention, (H, T, D) to (H, T, D).
        n: Tokens in all. The last `ask` of them ask for as many of the others, drawn.
        ask: Questions, at most half of n.
        width: D.
        draws: H.
        seed: Of keys, values and questions.

    Raises:
        ValueError: More questions than other tokens, or a count below 1.
    """
    n, ask, draws, rng = _start("recall", n, ask, draws, seed)
    keys, values = _unit(rng, draws, n, width), _unit(rng, draws, n, width)
    return _answered(attend, keys, values, _places(rng, draws, n - ask, ask))


def near_duplicates(
    attend: Attend,
    *,
    likeness: float = 0.9,
    family: int = 4,
    n: int = 512,
    ask: int = 64,
    width: int = 64,
    draws: int = 4,
    seed: int = 0,
) -> float:
    """Return the share of values that are found among keys that nearly agree.

    Args:
        attend: Causal attention, (H, T, D) to (H, T, D).
        likeness: The cosine between two keys of a family, 0 to 1 (1 is excluded).
        family: Keys that nearly agree; its members stand at places drawn.
        n: Tokens in all.
        ask: Questions.
        width: D.
        draws: H.
        seed: Of everything drawn.

    Raises:
        ValueError: As `recall`, or a likeness outside 0 ... 1.
    """
    if not 0 <= likeness < 1:
        raise ValueError(f"probes.near_duplicates: likeness must be in 0 ... 1, got {likeness}")
    n, ask, draws, rng = _start("near_duplicates", n, ask, draws, seed)
    family = check_count("probes.near_duplicates", "family", family, least=1)
    parents = _unit(rng, draws, -(-n // family), width).repeat(family, axis=1)[:, :n]
    own = _unit(rng, draws, n, width)
    own -= (own * parents).sum(axis=-1, keepdims=True) * parents  # at right angles to the parent
    own /= np.linalg.norm(own, axis=-1, keepdims=True)
    keys = (likeness**0.5 * parents + (1 - likeness) ** 0.5 * own).astype(np.float32)
    order = np.stack([rng.permutation(n) for _ in range(draws)])
    keys = np.take_along_axis(keys, order[..., None], axis=1)
    values = _unit(rng, draws, n, width)
    return _answered(attend, keys, values, _places(rng, draws, n - ask, ask))


def needle(
    attend: Attend,
    depth: float = 0.5,
    *,
    n: int = 512,
    width: int = 64,
    draws: int = 32,
    seed: int = 0,
) -> float:
    """Return how often the last token finds one key among noise.

    Args:
        attend: Causal attention, (H, T, D) to (H, T, D).
        depth: Where the needle lies: 0 is the first token, 1 the last before the question.
        n: Tokens in all.
        width: D.
        draws: H: each asks once.
        seed: Of keys and values.

    Raises:
        ValueError: A depth outside 0 ... 1, or fewer than 2 tokens.
    """
    n, _, draws, rng = _start("needle", n, 1, draws, seed)
    place = _place("needle", depth, n)
    keys, values = _unit(rng, draws, n, width), _unit(rng, draws, n, width)
    return _answered(attend, keys, values, np.full((draws, 1), place))


def two_needles(
    attend: Attend,
    depths: Sequence[float] = (0.2, 0.6),
    *,
    n: int = 512,
    width: int = 64,
    draws: int = 32,
    seed: int = 0,
) -> float:
    """Return how often the last token finds a needle whose key only another needle knows.

    Two layers: in the first, the token asks for the first needle, whose value is the key of the
    second; with what it gets, brought to the length of a query, it asks again in the second layer.
    An error of the first answer spoils the second question.

    Args:
        attend: Causal attention, (H, T, D) to (H, T, D), in both layers.
        depths: Of the needle that is asked for, and of the one that it points to.
        n: Tokens in all.
        width: D.
        draws: H: each asks once.
        seed: Of keys and values.

    Raises:
        ValueError: Depths outside 0 ... 1, or at one token; fewer than 3 tokens.
    """
    n, _, draws, rng = _start("two_needles", n, 1, draws, seed)
    first, second = (_place("two_needles", depth, n) for depth in depths)
    if first == second:
        raise ValueError(f"probes.two_needles: depths must be of two tokens, got {tuple(depths)}")
    keys, values = _unit(rng, draws, n, width), _unit(rng, draws, n, width)
    pointers = _unit(rng, draws, n, width)
    pointers[:, first] = keys[:, second]
    pointer = _ask(attend, keys, pointers, keys[:, [first]])
    length = np.linalg.norm(pointer, axis=-1, keepdims=True)
    out = _ask(attend, keys, values, pointer / np.where(length > 0, length, 1))
    return _share(out, values, np.full((draws, 1), second))


def majority(
    attend: Attend,
    *,
    share: float = 0.6,
    n: int = 512,
    width: int = 64,
    draws: int = 32,
    seed: int = 0,
) -> float:
    """Return how often the last token tells what most of the others vote for.

    Each value is a vote, for or against one direction; no key is asked for more than another, so
    what is wanted is the average over all of them.

    Args:
        attend: Causal attention, (H, T, D) to (H, T, D).
        share: Of the tokens that vote as the majority does, above 0.5.
        n: Tokens in all.
        width: D.
        draws: H: each asks once.
        seed: Of keys, votes and what they are about.

    Raises:
        ValueError: A share that is no majority, or fewer than 2 tokens.
    """
    n, _, draws, rng = _start("majority", n, 1, draws, seed)
    if not 0.5 < share <= 1:
        raise ValueError(f"probes.majority: share must be above 0.5, at most 1, got {share}")
    keys, subject = _unit(rng, draws, n, width), _unit(rng, draws, 1, width)
    side = rng.choice(np.float32([-1, 1]), (draws, 1, 1))
    votes = np.where(np.arange(n) < max(share * n, n // 2 + 1), 1, -1).astype(np.float32)
    votes = np.stack([rng.permutation(votes) for _ in range(draws)])[..., None] * side
    out = _ask(attend, keys, votes * subject, _unit(rng, draws, 1, width) / np.float32(SCORE))
    return float(((out * subject * side).sum(axis=-1) > 0).mean())


def run(attend: Attend, *, n: int = 512, width: int = 64, seed: int = 0) -> dict[str, float]:
    """Return all probes by name; "needle" is the mean over `DEPTHS`, each also on its own.

    Args:
        attend: Causal attention, (H, T, D) to (H, T, D).
        n: Tokens in all.
        width: D.
        seed: Of everything drawn.
    """

    def ask(probe: Callable[..., float], *place: float) -> float:
        return probe(attend, *place, n=n, width=width, seed=seed)

    depths = {f"needle at {depth:.0%}": ask(needle, depth) for depth in DEPTHS}
    return {
        "recall": ask(recall),
        "near duplicates": ask(near_duplicates),
        "needle": float(np.mean([*depths.values()])),
        "two needles": ask(two_needles),
        "majority": ask(majority),
        **depths,
    }


def pairs(
    model: Model,
    text: Text,
    *,
    family: int = 1,
    n: int = 96,
    ask: int = 16,
    rows: int = 8,
    seed: int = 0,
) -> float:
    """Return the share of values that a model recalls by their keys, all of which it has read.

    A row is n keys of two tokens, each with a value of one, and then `ask` of these keys again. A
    question is answered if of all n values the model finds the right one likeliest; guessing
    answers 1 in n. Tokens are drawn, so nothing but the row helps.

    Args:
        model: Reads and answers.
        text: Its tokens are the ones that are drawn from.
        family: Keys that share their second token, and differ in the one before it.
        n: Pairs of a row, a multiple of `family`.
        ask: Questions of a row.
        rows: Rows.
        seed: Of everything drawn.

    Raises:
        ValueError: More tokens are needed than the text has different ones.
    """
    known, rng = np.unique(model.encode(text)), stream("model.probes.pairs", seed)
    needed = n + n // family + (n if family == 1 else family)
    if n % family or ask > n or needed > len(known):
        raise ValueError(
            f"probes.pairs: {n} pairs in families of {family} need {needed} different tokens, a "
            f"multiple of {family} and at most {n} questions; got {len(known)} and {ask}"
        )
    made, wanted = [], []
    for _ in range(rows):
        ids = rng.permutation(known)
        values, second = ids[:n], ids[n : n + n // family].repeat(family)
        first = ids[n + n // family : needed]
        first = first if family == 1 else np.tile(first, n // family)
        triples = np.stack([first, second, values], axis=-1)[rng.permutation(n)]  # (n, 3)
        asked = rng.permutation(n)[:ask]
        made.append(np.concatenate([triples, triples[asked]]).ravel())
        wanted.append((triples[:, 2], asked))
    logits = model.row_logits(np.stack(made))[:, 3 * n + 1 :: 3]  # (rows, ask, n_ids)
    best = [
        one[:, values].argmax(-1) == asked
        for one, (values, asked) in zip(logits, wanted, strict=True)
    ]
    return float(np.mean(best))


def hidden(
    model: Model, text: Text, depth: float, *, n: int = 480, rows: int = 16, seed: int = 0
) -> float:
    """Return how often a model recalls three tokens that stand somewhere in n tokens of text.

    At the end the first two of them stand again; it counts if the third is likeliest of all. They
    are drawn from tokens that the stretch of text does not hold.

    Args:
        model: Reads and answers.
        text: What they are hidden in, from places drawn; at least n tokens.
        depth: 0 is the beginning, 1 the end.
        n: Tokens of text.
        rows: Draws.
        seed: Of places and tokens.

    Raises:
        ValueError: A depth outside 0 ... 1, or a shorter text.
    """
    if not 0 <= depth <= 1:
        raise ValueError(f"probes.hidden: depth must be in 0 ... 1, got {depth}")
    ids, rng, made = model.encode(text), stream("model.probes.hidden", seed), []
    if len(ids) < n:
        raise ValueError(f"probes.hidden: text must have at least {n} tokens, got {len(ids)}")
    known, place = np.unique(ids), round(depth * n)
    for _ in range(rows):
        start = rng.integers(0, len(ids) - n + 1)
        hay = ids[start : start + n]
        three = rng.permutation(np.setdiff1d(known, hay))[:3]
        made.append(np.concatenate([hay[:place], three, hay[place:], three]))
    texts = np.stack(made)
    return float((model.row_logits(texts[:, :-1])[:, -1].argmax(-1) == texts[:, -1]).mean())


def quoted(
    model: Model,
    text: Text,
    *,
    n: int = 288,
    quotes: int = 8,
    size: int = 12,
    given: int = 4,
    seed: int = 0,
) -> tuple[float, float]:
    """Return a model's mean loss on a stretch of text, and on quotes from it that follow it.

    The quotes are stretches of its first third, in an order drawn. Each begins with a few tokens
    that count nowhere: they say what is quoted, and the rest stands far back, word by word.

    Args:
        model: Reads.
        text: The stretch begins at a place drawn; at least n tokens.
        n: Tokens of the stretch.
        quotes: How many.
        size: Tokens of a quote.
        given: How many of them do not count, fewer than `size`.
        seed: Of the place and the order.

    Returns:
        Both losses, in nats a token.

    Raises:
        ValueError: A shorter text, more quotes than a third holds, or quotes given as a whole.
    """
    ids, rng = model.encode(text), stream("model.probes.quoted", seed)
    if not (0 < given < size and 1 <= quotes <= n // 3 // size and n <= len(ids)):
        raise ValueError(
            f"probes.quoted: {quotes} quotes of {size} tokens, {given} of them given, need at "
            f"least 1 quote in a third of n = {n} tokens, and as many of text; got {len(ids)}"
        )
    start = rng.integers(0, len(ids) - n + 1)
    page = ids[start : start + n]
    parts = rng.permutation(page[: n // 3 // size * size].reshape(-1, size))[:quotes]
    losses = model.row_losses(np.concatenate([page, parts.ravel()])[None])[0]
    asked = losses[n - 1 :].reshape(quotes, size)[:, given:]
    return float(losses[: n - 1].mean()), float(asked.mean())


def _start(
    name: str, n: int, ask: int, draws: int, seed: int
) -> tuple[int, int, int, np.random.Generator]:
    where = f"probes.{name}"
    n, ask = check_count(where, "n", n, least=2), check_count(where, "ask", ask, least=1)
    draws = check_count(where, "draws", draws, least=1)
    if 2 * ask > n:
        raise ValueError(f"{where}: ask must be at most half of n = {n}, got {ask}")
    return n, ask, draws, stream(f"model.{where}", check_count(where, "seed", seed))


def _unit(rng: np.random.Generator, draws: int, n: int, width: int) -> np.ndarray:
    """Return vectors of length 1 in random directions, float32 (draws, n, width)."""
    x = rng.standard_normal((draws, n, width), np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _places(rng: np.random.Generator, draws: int, n: int, ask: int) -> np.ndarray:
    """Return which tokens are asked for, none twice: int (draws, ask)."""
    return np.stack([rng.permutation(n)[:ask] for _ in range(draws)])


def _place(name: str, depth: float, n: int) -> int:
    if not 0 <= depth <= 1:
        raise ValueError(f"probes.{name}: depth must be in 0 ... 1, got {depth}")
    return round(depth * (n - 2))


def _answered(attend: Attend, keys: np.ndarray, values: np.ndarray, places: np.ndarray) -> float:
    questions = np.take_along_axis(keys, places[..., None], axis=1)
    return _share(_ask(attend, keys, values, questions), values, places)


def _ask(attend: Attend, keys: np.ndarray, values: np.ndarray, questions: np.ndarray) -> np.ndarray:
    """Return what the last tokens get, (H, ask, D), whose queries are `questions` of length 1.

    Earlier tokens ask for themselves, as a token of a text may; nobody looks at what they get.
    """
    ask = questions.shape[1]
    size = (SCORE * keys.shape[-1] ** 0.5) ** 0.5  # such that q · k / √D = SCORE
    queries = np.concatenate([keys[:, :-ask], questions], axis=1)
    return attend(queries * np.float32(size), keys * np.float32(size), values)[:, -ask:]


def _share(out: np.ndarray, values: np.ndarray, places: np.ndarray) -> float:
    """Return how many of out (H, ask, D) are nearest to the values at `places`."""
    distance = (values * values).sum(axis=-1)[:, None] - 2 * out @ values.swapaxes(-1, -2)
    return float((distance.argmin(axis=-1) == places).mean())
