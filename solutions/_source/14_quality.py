# %% [markdown]
# # 14 Exercises: what approximation costs
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("14.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% [markdown]
# A loss is −log p of the token that came, in nats; lower is better. A `window` is a radius: a token
# sees itself and as many before it.

# %% role="setup"
import itertools

import numpy as np

from attncourse.grading import check, hint

# %% role="spec"
"""What the specs of this chapter share."""

import functools
import itertools
import math
import statistics

import numpy as np

from attncourse import model
from attncourse.grading.spec import Case
from attncourse.grading.writing import Mistake, Spec, case, draws, edit
from attncourse.reference import full, linear, pooled, window


def arrays(name, *lists):
    """Return a case whose lists are arrays; what is no list stays as it is."""
    return case(name, *(np.array(x) if isinstance(x, list) else x for x in lists))


# %% [markdown] role="prompt" exercise="14.1"
# ## 14.1 Nats, bits, perplexity
#
# *10 minutes · difficulty 1 of 3 · 2 points*
# · [section](../notebooks/14_quality.ipynb#Nats,-bits,-perplexity)
#
# A model read a text cut into the tokens `pieces`, a list of strings. `losses` has one number less:
# the first token was given, not predicted, and its characters do not count.

# %% [markdown] role="prompt" exercise="14.1"
# Return three floats: the perplexity e^(mean loss), the bits a character and the bits a byte of
# UTF-8. Bits are nats / ln 2. Only the last two do not depend on how the text was cut.
#
# `text_scores(np.array([np.log(16), 0.0]), ["a", "bc", "dé"])`: `(4.0, 1.0, 0.8)`.


# %% role="answer" exercise="14.1"
def text_scores(losses, pieces):
    """Return perplexity, bits a character, bits a byte; losses (T - 1,) in nats, T pieces."""
    # BEGIN SOLUTION
    text = "".join(pieces[1:])
    bits = losses.sum() / np.log(2)
    return float(np.exp(losses.mean())), float(bits / len(text)), float(bits / len(text.encode()))
    # END SOLUTION


# %% role="check" exercise="14.1"
check("14.1")

# %% [markdown] role="hints" exercise="14.1"
# 1. Perplexity needs the mean of the losses, bits a character their sum. Divided by what?
# 2. The losses belong to pieces[1:]. Joined, these are a text: len() counts its characters, and
#    len(text.encode()) its bytes.
# 3. bits = losses.sum() / np.log(2); return np.exp(losses.mean()), bits over characters, bits over
#    bytes, each as a float.


# %% role="spec" exercise="14.1"
def scores_in_base_two(losses, pieces):
    characters, size = (sum(map(count, pieces[1:])) for count in (len, utf8))
    bits = math.fsum(losses) * math.log2(math.e)
    return 2 ** (bits / len(losses)), bits / characters, bits / size


def utf8(piece):
    return len(piece.encode("utf-8"))


def scores_by_mean(losses, pieces):
    """Bits a token over characters a token."""
    per_token = np.mean(losses) / np.log(2)
    a_token = [np.mean([count(piece) for piece in pieces[1:]]) for count in (len, utf8)]
    return float(np.power(2, per_token)), *(float(per_token / each) for each in a_token)


def random_text(rng):
    pieces = ["the ", "tom", "é", "日本", "return", "ß, ", "x", "→", "    "]
    count = int(rng.integers(4, 40))
    return rng.exponential(2.5, count - 1), [str(piece) for piece in rng.choice(pieces, count)]


Spec(
    kind="number",
    tolerance=1e-6,
    cases=[
        arrays("two tokens of one character", [1.0], ["a", "b"]),
        case("ASCII", np.array([2.0, 1.0, 3.0]), ["def", " ", "main", "():"]),
        case("two bytes a character", np.array([2.0, 0.5]), ["ab", "é", "ßab"]),
        case("a long first token", np.array([0.25, 4.0]), ["class scheduler", "日本語", ":"]),
        case("one token that nobody expected", np.array([0.5, 40.0, 0.5]), ["i", "j", "klm", "no"]),
        case("every token was certain", np.zeros(3), ["one", "two", "three", "four"]),
        case("3000 tokens", np.linspace(0.5, 4.5, 3000), ["ab"] * 3001),
        *draws(4, random_text, "text"),
    ],
    mistakes=[
        edit("np.exp(losses.mean())", "np.exp(losses).mean()",
             says="your perplexity is the mean of e^loss: one unexpected token decides it",
             next="take the mean of the losses first, then e to its power"),
        edit(" / np.log(2)", "",
             says="your bits are nats",
             next="a bit is ln 2 nats: divide by np.log(2)"),
        edit("len(text))", "len(losses))", "len(text.encode())", "len(losses)",
             says="your bits are those of a token",
             next="divide the sum by the number of characters, or of bytes"),
        edit("pieces[1:]", "pieces",
             says="your text includes the first token, which nobody predicted",
             next="the losses belong to pieces[1:]"),
        edit("float(bits / len(text)), float(bits / len(text.encode()))",
             "float(bits / len(text.encode())), float(bits / len(text))",
             says="your bits a byte come before those a character",
             next="return perplexity, bits a character, bits a byte"),
        edit("text.encode()", "text",
             says="your bytes are characters",
             next="é takes two bytes of UTF-8: len(text.encode())"),
        edit("/ np.log(2)", "* np.log(2)",
             says="your bits are multiplied by ln 2",
             next="a bit is less than a nat, so there are more of them: divide by ln 2"),
        edit("np.exp(losses.mean())", "2 ** losses.mean()",
             says="your perplexity is 2 to the loss in nats",
             next="2 belongs to bits: e to the mean in nats"),
        edit("np.exp(losses.mean())", "np.exp(losses.sum())",
             says="your perplexity is e to the sum: the more tokens, the larger",
             next="e to the mean loss"),
        edit("np.exp(losses.mean())", "np.prod(np.exp(losses)) ** (1 / len(losses))",
             says="your product of e^loss overflows on a long text",
             next="add the losses instead: e to their mean"),
        edit("np.exp(losses.mean())", "np.exp(losses.sum() / len(text))",
             says="your perplexity is that of a character",
             next="divide the sum by the number of predicted tokens"),
        edit("np.exp(losses.mean())", "np.exp(losses.sum() / len(pieces))",
             says="your mean counts the first token, which has no loss",
             next="there are len(pieces) - 1 losses"),
        edit("pieces[1:]", "pieces[:-1]",
             says="your text leaves out the last token instead of the first",
             next="the losses belong to pieces[1:]"),
        edit("bits / len(text))", "np.mean([x / np.log(2) / len(p) for x, p in "
             "zip(losses, pieces[1:])]))",
             "bits / len(text.encode())", "np.mean([x / np.log(2) / len(p.encode()) for x, p in "
             "zip(losses, pieces[1:])])",
             says="your bits a character are a mean over tokens, short ones counting as much as "
             "long",
             next="divide the sum of all losses by the length of the whole text"),
    ],
    alternatives=[scores_in_base_two, scores_by_mean],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="14.2"
# ## 14.2 A probe for copying
#
# *12 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/14_quality.ipynb#Four-probes)
#
# `row_losses` is a model: a function of ids `(B, T)`, integers, that returns the losses of all but
# the first token of each row, `(B, T - 1)`. `segments` `(B, n)`, n ≥ 2, are ids in an order that no
# language explains.

# %% [markdown] role="prompt" exercise="14.2"
# Let the model read each segment twice in a row. Return two floats: its mean loss the first time
# and the second. Leave out the first token of both: nothing says that the segment begins again.


# %% role="answer" exercise="14.2"
def copying_probe(row_losses, segments):
    """Return the mean loss (first time, second time) of segments (B, n) that stand twice."""
    # BEGIN SOLUTION
    n = segments.shape[1]
    losses = row_losses(np.concatenate([segments, segments], axis=1))
    return float(losses[:, : n - 1].mean()), float(losses[:, n:].mean())
    # END SOLUTION


# %% role="check" exercise="14.2"
check("14.2")

# %% [markdown] role="hints" exercise="14.2"
# 1. One row holds both times, or the model cannot look back. Which token does losses[:, 0] belong
#    to?
# 2. ids are (B, 2n), losses (B, 2n - 1): losses[:, i] is that of token i + 1. The second time
#    begins with token n.
# 3. losses = row_losses(np.concatenate([segments, segments], axis=1)); the first time is
#    losses[:, :n - 1], the second losses[:, n:].


# %% role="spec" exercise="14.2"
def bigrams(ids, reach):
    """A model: it recalls what came after the same token, up to `reach` tokens back.

    To a token that it cannot recall it gives the more, the larger its id is.
    """
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise ValueError(f"row_losses: ids must be integers (B, T), got {ids.dtype} {ids.shape}")
    token, after = ids[:, :-1, None], ids[:, 1:, None]
    back = np.subtract.outer(np.arange(ids.shape[1] - 1), np.arange(ids.shape[1] - 1))
    like = (token == token.swapaxes(1, 2)) & (back > 0) & (back <= reach)
    hits = like & (after == after.swapaxes(1, 2))
    alone = (after[..., 0] + 1) / 1275  # 50 ids
    return -np.log((alone + 20 * hits.sum(axis=-1)) / (1 + 20 * like.sum(axis=-1)))


def drive_probe(answer, segments, reach):
    return answer(functools.partial(bigrams, reach=reach), segments)


def probe_token_by_token(segments, reach):
    rows = np.tile(segments, 2)
    ahead = np.hstack([np.full((len(rows), 1), np.nan), bigrams(rows, reach)])  # as many as tokens
    first, second = np.split(ahead, 2, axis=1)
    return tuple(float(losses[:, 1:].mean()) for losses in (first, second))


def probe_row_by_row(row_losses, segments):
    times = [[], []]
    for segment in segments:
        [losses] = row_losses(np.array([[*segment, *segment]]))
        times[0] += list(losses[: len(segment) - 1])
        times[1] += list(losses[-len(segment) + 1 :])
    return tuple(map(statistics.fmean, times))


def read_apart(row_losses, segments):
    losses = row_losses(np.concatenate([segments, segments]))
    return tuple(float(half.mean()) for half in np.split(losses, 2))


def segments_case(name, reach, rows, size, n_ids=50):
    def make(rng):
        ids = rng.permuted(np.tile(np.arange(n_ids), (rows, 1)), axis=1)
        return case(name, ids[:, :size], reach)

    return make


def random_segments(rng):
    rows, size = (int(x) for x in rng.integers((2, 5), (6, 30)))
    return rng.integers(0, 20, (rows, size)), int(rng.choice([size // 2, 2 * size]))


Spec(
    kind="number",
    drive=drive_probe,
    reference=probe_token_by_token,
    cases=[
        segments_case("one segment of 2", 9, 1, 2),
        segments_case("one segment of 7", 9, 1, 7),
        segments_case("3 segments of 5", 9, 3, 5),
        segments_case("a model that cannot look back so far", 9, 4, 11),
        segments_case("8 segments of 30", 99, 8, 30),
        *draws(4, random_segments, "segments"),
    ],
    mistakes=[
        edit("losses[:, n:]", "losses[:, n - 1 :]",
             says="your second time includes its first token, which nothing announces",
             next="token n is the first of the second time, and its loss is losses[:, n - 1]"),
        edit(": n - 1]", ": n]",
             says="your first time includes the first token of the second",
             next="the first time has n - 1 losses: those of the tokens 1 to n - 1"),
        edit(": n - 1]", "1:n]", "n:]", "n + 1 :]",
             says="your losses are counted as if losses[:, i] were that of token i",
             next="the first token of a row has no loss: losses[:, i] is that of token i + 1"),
        edit("np.concatenate([segments, segments], axis=1)", "np.repeat(segments, 2, axis=1)",
             says="your rows repeat each token at once, not the segment as a whole",
             next="np.concatenate([segments, segments], axis=1)"),
        Mistake(read_apart,
                says="your second time cannot see the first: it is a row of its own",
                next="put both times into one row, axis=1"),
        edit("float(losses[:, : n - 1].mean()), float(losses[:, n:].mean())",
             "float(losses[:, n:].mean()), float(losses[:, : n - 1].mean())",
             says="your two times are in the wrong order",
             next="return the first time, then the second"),
        edit(".mean()", ".sum()",
             says="your losses are sums",
             next="return means: losses a token"),
        edit("losses[:,", "losses[0,",
             says="your means are those of the first segment alone",
             next="take the mean over all rows"),
        edit("float(losses[:, n:].mean())",
             "float(losses[:, n:].mean() - losses[:, : n - 1].mean())",
             says="your second number is the difference",
             next="return the mean loss of the second time itself"),
        edit("segments.shape[1]", "len(segments)",
             says="your n is the number of segments, not of their tokens",
             next="segments are (B, n): n is segments.shape[1]"),
    ],
    alternatives=[
        probe_row_by_row,
        edit("np.concatenate([segments, segments], axis=1)", "np.tile(segments, (1, 2))",
             "n = segments.shape[1]", "n = segments[0].size"),
    ],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: try it on the course's model</summary>
#
#     from attncourse import model
#
#     small, text = model.load(), "".join(model.held_out())
#     segments = model.repeated(small, text, n=64)[:, :64]
#     for one in (small, small.swap("window", window=16)):
#         print(copying_probe(one.row_losses, segments))
#
# Within 16 tokens there is nothing to copy from: the second time costs nearly what the first does.
#
# </details>

# %% [markdown] role="prompt" exercise="14.3"
# ## 14.3 Break it
#
# *25 minutes · difficulty 3 of 3 · 4 points*
# · [section](../notebooks/14_quality.ipynb#Four-probes)
#
# Mislead a mechanism: return q, k, v, each `(n, width)`, on which full attention answers the last
# query rightly and the mechanism answers nearly the opposite. All attention is causal; a softmax
# divides its scores by √width.

# %% [markdown] role="prompt" exercise="14.3"
# - Rows of v have norm 1, rows of q and k at most `norm`; norm² is at least 25·√width.
# - Full attention's output for the last query lies within 0.01 of one row of v.
# - The mechanism's output lies 1.5 or more away from it. Zeros would be 1 away.

# %% [markdown] role="prompt" exercise="14.3"
# | `mechanism` | `knob` |
# |---|---|
# | "window" | the radius, below n − 1 |
# | "linear", with φ(x) = elu(x) + 1 | 0 |
# | "pooled", the query's own run token by token | tokens in a run, at most (n − 1) / 2 |


# %% role="answer" exercise="14.3"
def hard_inputs(mechanism, n, width, norm, knob):
    """Return q, k, v, each (n, width), whose last query the mechanism answers wrongly."""
    # BEGIN SOLUTION
    axis = np.eye(1, width)
    q, k, v = np.full(n, 1.0), np.full(n, -1.0), np.full(n, -1.0)
    if mechanism == "pooled":
        k[:] = 0.5
        k[:knob] = -1.0
    k[0] = v[0] = 1.0
    if mechanism == "linear":
        q, k = -q, -k
    return q[:, None] * norm * axis, k[:, None] * norm * axis, v[:, None] * axis
    # END SOLUTION


# %% role="check" exercise="14.3"
check("14.3")

# %% [markdown] role="hints" exercise="14.3"
# 1. Let the query ask for one key, the needle, and let all other values say the opposite of its
#    value. Where can the mechanism not see it, or not tell it from the others?
# 2. A window does not see the first token. A mean hides a needle among keys that point away; the
#    other runs must then fit the query better. φ is steep above 0 and flat below.
# 3. On one axis: query 1, needle 1, all other keys -1. Linear: all signs of q and k turned. Pooled:
#    the others 0.5, those in the needle's run -1. Values 1 for the needle, -1 else.


# %% role="spec" exercise="14.3"
BREAKABLE = {
    "window": lambda q, k, v, knob: window.attention(q, k, v, window=knob, causal=True),
    "linear": lambda q, k, v, knob: linear.attention(q, k, v, causal=True),
    "pooled": lambda q, k, v, knob: pooled.attention(q, k, v, pool=knob, causal=True),
}


def misled(n, width, norm, knob, mechanism):
    return {
        "q, k and v": f"finite numbers, ({n}, {width}) each",
        "norms": f"values 1, queries and keys at most {norm:g}",
        "full attention": "finds one value",
        mechanism: "is 1.5 away from it or more",
    }


def drive_misled(answer, n, width, norm, knob, mechanism):
    """Return what `misled` does, but the first that is not so as it is."""
    fine, given = misled(n, width, norm, knob, mechanism), answer(mechanism, n, width, norm, knob)
    if not isinstance(given, tuple | list) or len(given) != 3:
        return fine | {"q, k and v": f"{type(given).__name__}, not three arrays"}
    q, k, v = (np.asarray(x, float) for x in given)
    if (shapes := [x.shape for x in (q, k, v)]) != [(n, width)] * 3:
        return fine | {"q, k and v": f"shapes {shapes}"}
    if not np.isfinite([q, k, v]).all():
        return fine | {"q, k and v": "not all numbers are finite"}
    of_q, of_k, of_v = (np.linalg.norm(x, axis=-1) for x in (q, k, v))
    if max(of_q.max(), of_k.max()) > norm * (1 + 1e-6) or abs(of_v - 1).max() > 1e-6:
        values = f"{of_v.min():.3g} to {of_v.max():.3g}"
        return fine | {
            "norms": f"values {values}, queries to {of_q.max():.3g}, keys to {of_k.max():.3g}"
        }
    right = full.attention(q, k, v, causal=True)[-1]
    if (nearest := np.linalg.norm(v - right, axis=-1).min()) > 0.01:
        return fine | {"full attention": f"is {nearest:.2g} away from the nearest value"}
    away = np.linalg.norm(BREAKABLE[mechanism](q, k, v, knob)[-1] - right)
    return fine | ({mechanism: f"is {away:.2f} away from it"} if away < 1.5 else {})


def broken_elsewhere(mechanism, n, width, norm, knob):
    """Another direction, another needle, and queries that ask only at the end."""
    towards = np.resize([3.0, -4.0, 1.0], width)
    towards /= np.linalg.norm(towards)
    k, needle = np.full(n, -0.6), 0 if mechanism == "window" else 1
    if mechanism == "pooled":
        k[:] = 0.45
        k[needle // knob * knob : needle // knob * knob + knob] = -0.9
    v = np.outer(np.where(np.arange(n) == needle, -1, 1), towards)
    k[needle] = 1
    q, k = np.outer(np.arange(n) == n - 1, towards * norm), np.outer(k, towards * norm)
    return (q, k, v) if mechanism != "linear" else (-abs(q), -np.sign(towards) * k, v)


def ordinary(mechanism, n, width, norm, knob):
    q, k, v = np.random.default_rng(n).standard_normal((3, n, width))
    return q, k, v / np.linalg.norm(v, axis=-1, keepdims=True)


def misled_case(mechanism, n, width, knob):
    knobs = {"window": f"window {knob}", "pooled": f"runs of {knob}", "linear": "linear"}
    norm = math.ceil(50 * width**0.25) / 10
    name = f"{knobs[mechanism]}, {n} tokens, width {width}, norm {norm:g}"
    return Case(name, (n, width, norm, knob), {"mechanism": mechanism})


def random_misled(mechanism):
    def make(rng):
        n, width = (int(x) for x in rng.integers((20, 3), (150, 40)))
        knob = int(rng.integers(2, (n - 1) // 2)) if mechanism != "linear" else 0
        return misled_case(mechanism, n, width, knob)

    return make


Spec(
    kind="number",
    drive=drive_misled,
    reference=misled,
    cases=[
        misled_case("window", 5, 2, 1),
        misled_case("window", 40, 16, 38),
        misled_case("linear", 7, 2, 0),
        misled_case("linear", 90, 33, 0),
        misled_case("pooled", 9, 2, 2),
        misled_case("pooled", 31, 4, 3),
        misled_case("pooled", 100, 16, 16),
        *map(random_misled, BREAKABLE),
    ],
    mistakes=[
        Mistake(ordinary,
                says="your random vectors ask for nothing: full attention mixes many values",
                next="let one key point where the query points, as long as `norm` allows"),
        edit("k[0] = v[0]", "k[-1] = v[-1]",
             says="your needle is the last token, which each of them sees as it is",
             next="put it at the beginning"),
        edit("v[:, None] * axis", "np.where(v[:, None] > 0, axis, np.roll(axis, 1))",
             says="your other values stand at a right angle to the needle's: that is √2 away",
             next="let them say the opposite: -1 times the needle's value"),
        edit("        q, k = -q, -k\n", "        pass\n",
             says="your query points up, where φ grows: linear attention still finds the needle",
             next="turn the signs of q and k: below 0 all features are nearly the same"),
        edit("        k[:knob] = -1.0\n", "",
             also=[edit("        k[:] = 0.5\n", "")],
             says="your needle's run still fits the query better than the other runs",
             next="let the needle's neighbours point away, and all other keys a little towards it"),
        edit("k[:] = 0.5", "k[:] = 0.9",
             says="your other keys are nearly as good as the needle: full attention mixes them in",
             next="half as long is far enough"),
        edit("* norm *", "*",
             says="your queries and keys have norm 1: the softmax stays flat",
             next="make them as long as `norm` allows"),
        edit("np.eye(1, width)", "np.ones((1, width))",
             says="your rows have `norm` in each place: they are √width times too long",
             next="let the squares of a row add up to norm², of a value to 1"),
        edit("v[:, None] *", "v[:, None] * norm *",
             says="your values are as long as queries and keys may be",
             next="rows of v have norm 1"),
        edit("np.full(n, -1.0), np.full(n, -1.0)", "np.full(n, -1.0), np.full(n, 1.0)",
             says="your values are all the same: no mechanism can go wrong",
             next="let the needle's value be the opposite of all others"),
    ],
    alternatives=[
        broken_elsewhere,
        edit("np.eye(1, width)", "np.full((1, width), width**-0.5)"),
    ],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="14.4"
# ## 14.4 The frontier
#
# *12 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/14_quality.ipynb#The-frontier)
#
# Point i holds `held[i]` bytes and has the loss `losses[i]`. It beats another if it holds no more
# and loses no more, and one of the two is less. Which points does nobody beat?

# %% [markdown] role="prompt" exercise="14.4"
# Return a mask. Equal points do not beat each other. A loss is NaN where a run broke: such a point
# beats nobody and is not on the frontier.
#
# `frontier(np.array([4, 2, 4, 8]), np.array([1.0, 2.0, 3.0, 1.0]))`: True, True, False, False.


# %% role="answer" exercise="14.4"
def frontier(held, losses):
    """Return which points nobody beats, bool (points,); held int and losses float (points,)."""
    # BEGIN SOLUTION
    no_worse = (held[:, None] <= held) & (losses[:, None] <= losses)
    better = (held[:, None] < held) | (losses[:, None] < losses)
    beaten = (no_worse & better).any(axis=0)
    return ~beaten & ~np.isnan(losses)
    # END SOLUTION


# %% role="check" exercise="14.4"
check("14.4")

# %% [markdown] role="hints" exercise="14.4"
# 1. Write down what "i beats j" is in three comparisons. Does a point beat itself?
# 2. held[:, None] <= held compares each point, a row, with each, a column. Which axis says that
#    somebody beats j?
# 3. no_worse = both <=; better = one of the two <; beaten = (no_worse & better).any(axis=0). Return
#    the others, without np.isnan(losses).


# %% role="spec" exercise="14.4"
def by_sweep(held, losses):
    """Go from few bytes to many, and keep what is lower than all before."""
    best, stays = (0, np.inf), np.zeros(len(held), bool)
    for i in np.lexsort((losses, held)):
        if losses[i] < best[1] or (held[i], losses[i]) == best:
            best, stays[i] = (held[i], losses[i]), True
    return stays


def by_each(held, losses):
    points = list(zip(held.tolist(), losses.tolist(), strict=True))
    return np.array([
        not any(h <= mine[0] and x <= mine[1] and (h, x) != mine for h, x in points)
        and mine[1] == mine[1]
        for mine in points
    ])  # fmt: skip


def one_of_equals(held, losses):
    best, stays = np.inf, np.zeros(len(held), bool)
    for i in np.lexsort((losses, held)):
        if losses[i] < best:
            best, stays[i] = losses[i], True
    return stays


def with_running_minimum(held, losses):
    order = np.lexsort((losses, held))
    before = np.minimum.accumulate(np.concatenate(([np.inf], losses[order][:-1])))
    stays, same = np.empty(len(held), bool), np.zeros(len(held), bool)
    same[1:] = (np.diff(held[order]) == 0) & (np.diff(losses[order]) == 0)
    lower = losses[order] < before
    for i in np.flatnonzero(same):
        lower[i] = lower[i - 1]
    stays[order] = lower
    return stays


def below_the_one_before(held, losses):
    stays, order = ~np.isnan(losses), np.lexsort((losses, held))
    stays[order[1:]] &= losses[order[1:]] < losses[order[:-1]]
    return stays


def lower_hull(held, losses):
    stays, hull = np.zeros(len(held), bool), []
    for i in np.flatnonzero(by_sweep(held, losses))[np.argsort(held[by_sweep(held, losses)])]:
        while len(hull) > 1:
            a, b = hull[-2:]
            turn = (held[b] - held[a]) * (losses[i] - losses[a])
            if turn > (held[i] - held[a]) * (losses[b] - losses[a]):
                break
            hull.pop()
        hull.append(i)
    stays[hull] = True
    return stays


def random_points(rng):
    count = int(rng.integers(5, 25))
    losses = rng.integers(20, 34, count) / 8
    losses[rng.random(count) < 0.1] = np.nan
    return rng.integers(1, 9, count) * 1024, losses


Spec(
    kind="mask",
    cases=[
        arrays("one point", [1], [2.5]),
        arrays("fewer bytes, higher loss", [2, 1], [2.0, 3.0]),
        arrays("equal bytes", [4, 4, 2], [3.0, 2.5, 4.0]),
        arrays("equal losses", [8, 2, 4], [2.5, 2.5, 3.0]),
        arrays("two equal points", [4, 2, 4, 8], [2.5, 3.0, 2.5, 2.75]),
        arrays("a run that broke, with the fewest bytes", [1, 4, 2], [math.nan, 2.5, 3.0]),
        arrays("a run that broke, beside one that did not", [4, 4, 2], [2.5, math.nan, 3.0]),
        arrays("two that broke", [4, 2, 4, 1], [math.nan, 3.0, 2.5, math.nan]),
        arrays("between two others, above their line", [1, 5, 9], [4.0, 3.5, 2.0]),
        arrays("beaten by one far before it", [1, 3, 4, 5], [2.0, 4.0, 3.0, 1.0]),
        *draws(4, random_points, "points"),
    ],
    mistakes=[
        edit("held[:, None] <= held", "held[:, None] < held",
             "losses[:, None] <= losses", "losses[:, None] < losses",
             says="your points beat others only if they are better in both",
             next="equal bytes and a lower loss beat as well: no worse in both, better in one"),
        edit(" & better", "",
             says="your points beat themselves, and equal ones beat each other",
             next="ask for one of the two to be really less"),
        edit(" & ~np.isnan(losses)", "",
             says="your frontier includes runs that broke",
             next="nothing compares with NaN, so nobody beats it: leave it out by np.isnan"),
        edit("no_worse = ", "losses = np.nan_to_num(losses)\n    no_worse = ",
             " & ~np.isnan(losses)", " & (losses > 0)",
             says="your NaN has become a loss of 0, which beats everyone",
             next="a run that broke beats nobody: keep the NaN, or make it ∞"),
        Mistake(one_of_equals,
                says="your frontier has only one of two equal points",
                next="neither beats the other: keep both"),
        Mistake(with_running_minimum,
                says="your running minimum is NaN from the first broken run on",
                next="leave the broken runs out before you sort, or use np.fmin"),
        Mistake(below_the_one_before,
                says="your points are compared with their neighbour alone",
                next="compare with the lowest loss of all that hold no more bytes"),
        Mistake(lower_hull,
                says="your frontier is the convex hull: points above the line of two others are "
                "gone",
                next="nobody mixes two mechanisms to reach the line: only a point beats a point"),
        edit("axis=0", "axis=1",
             says="your mask keeps those that beat nobody",
             next="a column says by whom a point is beaten: any(axis=0)"),
        edit("losses[:, None] <= losses", "losses[:, None] >= losses",
             "losses[:, None] < losses", "losses[:, None] > losses",
             says="your frontier prefers high losses",
             next="a loss is better if it is lower"),
        edit("~beaten & ~", "beaten & ~",
             says="your mask is that of the beaten points",
             next="return those that nobody beats"),
        edit("(no_worse & better)", "better",
             says="your points are beaten by all that are better in one of the two",
             next="who beats may not be worse in the other"),
    ],
    alternatives=[by_sweep, by_each],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="14.5"
# ## 14.5 Is it better?
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/14_quality.ipynb#What-a-benchmark-can-see)
#
# Seed i draws the batches for a model before a change and after it: their losses `before[i]` and
# `after[i]` rise and fall together. Judge the differences, after minus before. A seed whose run
# broke, before or after, has NaN there and does not count.

# %% [markdown] role="prompt" exercise="14.5"
# Return the mean difference, the ends of its 95 % interval and a verdict. For m differences they
# are mean ± `t[m]` · s / √m: Student's factor, and the sample deviation s, over m − 1. The verdict
# is "better" or "worse" if the whole interval is below or above 0, else "cannot tell".

# %% [markdown] role="prompt" exercise="14.5"
# One difference has no interval: both ends are None, and nothing can be told from it. If none is
# left, since all seeds have NaN, the mean is None, too: `(None, None, None, "cannot tell")`.
#
# before 3.0, 2.0; after 2.75, 1.75: `(-0.25, -0.25, -0.25, "better")`.


# %% role="answer" exercise="14.5"
def is_it_better(before, after, t):
    """Return mean difference, low and high end, verdict; losses (seeds,), t by count of pairs."""
    # BEGIN SOLUTION
    differences = after - before
    differences = differences[~np.isnan(differences)]
    if len(differences) == 0:
        return None, None, None, "cannot tell"
    mean, m = float(differences.mean()), len(differences)
    if m == 1:
        return mean, None, None, "cannot tell"
    half = t[m] * differences.std(ddof=1) / m**0.5
    low, high = float(mean - half), float(mean + half)
    return mean, low, high, "better" if high < 0 else "worse" if low > 0 else "cannot tell"
    # END SOLUTION


# %% role="check" exercise="14.5"
check("14.5")

# %% [markdown] role="hints" exercise="14.5"
# 1. Which spread matters: that of the losses over the seeds, or that of what the change did?
# 2. Subtract first, then leave out NaN; only then count. NumPy's std divides by m unless told
#    otherwise.
# 3. half = t[m] * differences.std(ddof=1) / m**0.5; better if mean + half < 0, worse if
#    mean - half > 0.


# %% role="spec" exercise="14.5"
# Student's t, 97.5 % of which lies below, by the number of differences.
T = np.array([np.nan, np.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306])


def verdict(low, high):
    return "cannot tell" if low <= 0 <= high else "better" if low < 0 else "worse"


def by_pairs(before, after, t):
    pairs = [b - a for a, b in zip(before.tolist(), after.tolist(), strict=True) if a + b == a + b]
    mean = statistics.fmean(pairs) if pairs else None
    if len(pairs) < 2:
        return mean, None, None, "cannot tell"
    half = float(t[len(pairs)]) * statistics.stdev(pairs) / math.sqrt(len(pairs))
    return mean, mean - half, mean + half, verdict(mean - half, mean + half)


def by_variance(before, after, t):
    whole = np.isfinite(before) & np.isfinite(after)
    change, m = (after - before)[whole], int(whole.sum())
    mean = change.sum() / m if m else None
    if m <= 1:
        return mean, *[None] * 2, "cannot tell"
    error = np.sqrt(((change - mean) ** 2).sum() / (m * (m - 1)))
    ends = mean + error * t[m] * np.array([-1, 1])
    return mean, *ends, verdict(*ends)


def unpaired(before, after, t):
    """Add the variances of both sides, as if their seeds had nothing to do with each other."""
    before, after = (x[~np.isnan(x)] for x in (before, after))
    if not before.size * after.size:
        return None, None, None, "cannot tell"
    mean, m = float(after.mean() - before.mean()), min(len(before), len(after))
    if m == 1:
        return mean, None, None, "cannot tell"
    half = t[m] * float(np.sqrt(before.var(ddof=1) / len(before) + after.var(ddof=1) / len(after)))
    return mean, mean - half, mean + half, verdict(mean - half, mean + half)


def seeds(name, before, change):
    return case(name, np.array(before), np.array(before) + np.array(change), T)


def random_seeds(rng):
    m = int(rng.integers(3, 9))
    before, change = rng.normal(3, 0.3, m), rng.normal(rng.choice([-0.1, 0, 0.1]), 0.04, m)
    before[rng.random(m) * np.minimum(1, np.arange(m)) > 0.85] = np.nan
    return before, before + change, T


Spec(
    kind="number",
    tolerance=1e-7,
    cases=[
        seeds("one seed", [2.5], [-0.25]),
        seeds("two seeds, the same difference", [3.0, 2.0], [-0.25, -0.25]),
        seeds("three seeds, no difference", [3.0, 2.0, 2.5], [0, 0, 0]),
        seeds("a small change, seeds far apart", [2.5, 3.0, 3.75], [-0.02, -0.018, -0.021]),
        seeds("the first seed says the opposite", [2.5, 3.0, 2.75, 3.5], [0.03, -0.2, -0.1, -0.15]),
        seeds("worse", [2.5, 2.25, 3.0], [0.3, 0.28, 0.33]),
        seeds("worse, four seeds", [2.5, 2.25, 3.0, 2.0], [0.1, 0.08, 0.12, 0.11]),
        seeds("cannot tell", [2.5, 2.25, 3.0, 2.75, 2.0], [-0.3, 0.1, -0.2, 0.15, -0.1]),
        seeds("a broken run", [2.5, np.nan, 2.0, 3.5], [-0.1, 0, -0.12, -0.09]),
        seeds("broken before and after", [2.5, np.nan, 2.0, 3.5], [-0.1, 0, np.nan, -0.09]),
        seeds("all broken, before or after", [np.nan, 2.0], [0, np.nan]),
        *draws(4, random_seeds, "seeds"),
    ],
    mistakes=[
        Mistake(unpaired,
                says="your interval is that of two groups: the spread over the seeds hides the "
                "change",
                next="subtract seed by seed, and take the spread of the differences"),
        edit("differences = after - before\n",
             "differences = (after - before)[~np.isnan(after - before)][:1]\n",
             says="your verdict is that of the first seed alone",
             next="take the mean over all seeds"),
        edit("ddof=1", "ddof=0",
             says="your deviation is that of a population: over m, not m - 1",
             next="the mean was taken from the same numbers: std(ddof=1)"),
        edit(" / m**0.5", "",
             says="your interval is that of a single difference, not of their mean",
             next="the mean of m varies less: divide s by √m"),
        edit("after - before", "before - after",
             says="your differences are before minus after",
             next="after minus before: negative if the loss fell"),
        edit('return mean, None, None, "cannot tell"',
             'return mean, None, None, "better" if mean < 0 else "worse"',
             says="your verdict trusts a single seed",
             next='from one difference, return "cannot tell"'),
        edit('"better" if high < 0 else "worse" if low > 0 else "cannot tell"',
             '"better" if mean < 0 else "worse" if mean > 0 else "cannot tell"',
             says="your verdict looks at the mean and not at the interval",
             next='"cannot tell" unless both ends lie on one side of 0'),
        edit('return None, None, None, "cannot tell"\n    mean',
             'return np.nan, None, None, "cannot tell"\n    mean',
             says="your result is NaN where no seed is left",
             next="look at how many differences are left before you take their mean"),
        edit("t[m]", "1.96",
             says="your factor is 1.96, which needs many seeds",
             next="with m differences it is t[m]"),
        edit("t[m]", "t[max(2, m - 1)]",
             says="your factor is that of one difference fewer",
             next="t is listed by the number of differences: t[m]"),
        edit('"better" if high < 0 else "worse"', '"worse" if high < 0 else "better"',
             says="your verdict takes a falling loss for worse",
             next="lower is better"),
        edit("high < 0", "high <= 0", "low > 0", "low >= 0",
             says="your verdict is sure of an interval that touches 0",
             next="the whole interval must lie below 0, or above"),
        edit("len(differences)", "len(before)",
             says="your m counts the runs that broke",
             next="count the differences that are left"),
        edit("    differences = differences[~np.isnan(differences)]\n",
             "    differences = np.nan_to_num(differences)\n",
             says="your broken runs count as no difference",
             next="leave them out"),
        edit("    differences = differences[~np.isnan(differences)]\n", "",
             says="your broken runs make everything NaN",
             next="leave out the seeds in which one of the two is NaN"),
        edit("after - before", "(after - before) / before",
             says="your differences are shares of the loss before",
             next="return them in nats: after minus before"),
    ],
    alternatives=[by_pairs, by_variance],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="14.6"
# ## 14.6 A mechanism for each layer
#
# *20 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/14_quality.ipynb#Hybrids)
#
# Each of the four layers of the course's model gets a mechanism: 0 full, 1 window 64, 2 window 16,
# 3 runs of 16 pooled, 4 linear.

# %% [markdown] role="prompt" exercise="14.6"
# `excess[l, m]` is by how much the loss rose, on one text, when layer l alone had mechanism m, and
# `held[m]` are the bytes that a head keeps of 512 tokens, in float16.

# %% [markdown] role="prompt" exercise="14.6"
# Return a list with the mechanism of each layer: of the plans whose bytes add up to `budget` or
# less, the one that loses least if the excess of the layers adds up.
#
# Does it? Your plan is put into the model, which reads *another* text. Its loss there may be 0.03
# nats above that of our plan.


# %% role="answer" exercise="14.6"
def plan_layers(excess, held, budget):
    """Return a mechanism, int, for each layer; excess (layers, mechanisms), held (mechanisms,)."""
    # BEGIN SOLUTION
    layers, mechanisms = excess.shape
    plans = np.array(list(itertools.product(range(mechanisms), repeat=layers)))
    sums = excess[np.arange(layers), plans].sum(axis=1)
    sums[held[plans].sum(axis=1) > budget] = np.inf
    return plans[sums.argmin()].tolist()
    # END SOLUTION


# %% role="check" exercise="14.6"
check("14.6")

# %% [markdown] role="hints" exercise="14.6"
# 1. Four layers of five mechanisms are 625 plans: few enough to try each. Which two sums does a
#    plan have?
# 2. itertools.product(range(5), repeat=4) gives all plans. Leave out those over the budget, and
#    take the one with the smallest sum of excess[l, plan[l]].
# 3. With plans an array (625, 4): sums = excess[np.arange(4), plans].sum(axis=1), ∞ where
#    held[plans].sum(axis=1) > budget; the plan is plans[sums.argmin()].tolist().


# %% role="spec" exercise="14.6"
CHOICES = [("full", {}), ("window", {"window": 64}), ("window", {"window": 16}),
           ("pooled", {"pool": 16}), ("linear", {})]  # fmt: skip
# What a head of width 32 keeps of 512 tokens, in float16: rows of a key and a value, or a state.
HELD = 2 * np.array([*(64 * rows for rows in (512, 65, 17, 512 // 16 + 16)), 32 * 33])
TUNED_ON, GRADED_ON = (0, 1), (3,)  # of the texts that the model never saw


@functools.cache
def small():
    return model.load()


@functools.cache
def some_of(texts):
    return np.stack([small().encode(model.held_out()[text][:2000])[200:393] for text in texts])


@functools.cache
def loss_of(plan, texts):
    """Return the loss of the model with a mechanism for each layer, on 192 tokens of each text."""
    changed = small()
    for layer, choice in enumerate(plan):
        stem, knobs = CHOICES[choice]
        changed = changed.swap(stem, layers=layer, **knobs)
    return float(changed.row_losses(some_of(texts)).mean())


@functools.cache
def excess_of_each():
    layers, choices = range(small().shape.n_layers), range(len(CHOICES))
    losses = [
        [loss_of(tuple(m * (i == layer) for i in layers), TUNED_ON) for m in choices]
        for layer in layers
    ]
    return np.array(losses) - losses[0][0]


def by_knapsack(excess, held, budget):
    """Layer by layer, keep the best plan for each number of bytes."""
    best = {0: (0.0, [])}
    for row in excess.tolist():
        longer = {}
        for (kept, (lost, plan)), m in itertools.product(best.items(), range(len(row))):
            total = kept + int(held[m])
            if total <= budget and lost + row[m] < longer.get(total, (math.inf,))[0]:
                longer[total] = lost + row[m], [*plan, m]
        best = longer
    return min(best.values())[1]


def by_branches(excess, held, budget):
    if not len(excess):
        return []
    rest = (len(excess) - 1) * held.min()
    plans = [
        [m, *by_branches(excess[1:], held, budget - held[m])]
        for m in range(len(held))
        if held[m] + rest <= budget
    ]
    return min(plans, key=lambda plan: sum(excess[i, m] for i, m in enumerate(plan)))


def first_come(excess, held, budget):
    """Give the first layer what helps it most, the next one what is left."""
    left, plan = budget - len(excess) * held.min(), []
    for row in excess:
        plan.append(int(np.where(held - held.min() <= left, row, np.inf).argmin()))
        left -= held[plan[-1]] - held.min()
    return plan


def planned(excess, held, budget):
    ours = loss_of(tuple(by_knapsack(excess, held, budget)), GRADED_ON)
    return {
        "plan": "a list of 4 mechanisms, 0 to 4",
        "bytes": f"at most {budget:,}",
        "loss on another text": f"at most {ours + 0.03:.3f}",
    }


def drive_plan(answer, excess, held, budget):
    """Return what `planned` does, but the first that is not so as it is."""
    fine, plan = planned(excess, held, budget), answer(excess, held, budget)
    if not isinstance(plan, list) or [m for m in plan if m in range(5)] != plan or len(plan) != 4:
        return fine | {"plan": str(plan)}
    if (kept := sum(int(held[m]) for m in plan)) > budget:
        return fine | {"bytes": f"{kept:,} by {plan}"}
    lost = loss_of(tuple(map(int, plan)), GRADED_ON)
    if lost > loss_of(tuple(by_knapsack(excess, held, budget)), GRADED_ON) + 0.03:
        return fine | {"loss on another text": f"{lost:.3f} by {plan}"}
    return fine


def budget_case(low, high=None):
    def make(rng):
        budget = low if high is None else int(rng.integers(low, high))
        kind = "" if high is None else "random, "
        return case(f"{kind}{budget:,} bytes", excess_of_each(), HELD, budget)

    return make


Spec(
    kind="number",
    drive=drive_plan,
    reference=planned,
    cases=[
        *map(budget_case, (14_784, 20_000, 26_000, 33_000, 90_000, 140_000)),
        budget_case(15_000, 40_000),
        budget_case(80_000, 160_000),
    ],
    mistakes=[
        edit("itertools.product(range(mechanisms), repeat=layers)",
             "[m] * layers for m in range(mechanisms)",
             says="your layers all get the same mechanism",
             next="layers need not agree: try all 5·5·5·5 plans"),
        edit("held[plans].sum(axis=1) > budget", "held[plans].max(axis=1) > budget // layers",
             says="your layers each get an equal share of the bytes",
             next="let the bytes of all layers together stay within the budget"),
        Mistake(first_come,
                says="your first layers take what helps them, and the last get what is left",
                next="compare whole plans: the last layers lose most"),
        edit("    sums[held[plans].sum(axis=1) > budget] = np.inf\n", "",
             says="your plan takes the best mechanism everywhere, whatever it holds",
             next="leave out plans whose bytes add up to more than the budget"),
        edit("held[plans].sum(axis=1)", "held[plans].max(axis=1)",
             says="your bytes are those of one layer, not of all",
             next="add up held[m] over the layers"),
        edit("excess[np.arange(layers), plans].sum(axis=1)", "-held[plans].sum(axis=1) * 1.0",
             says="your plan spends as many bytes as it may, wherever they go",
             next="minimise the excess; bytes are only a limit"),
        edit("excess[np.arange(layers), plans].sum(axis=1)", "held[plans].sum(axis=1) * 1.0",
             says="your plan holds as little as it can",
             next="bytes may be spent up to the budget: minimise the excess"),
        edit(".tolist()", "[::-1].tolist()",
             says="your plan is upside down: the last layer gets what suits the first",
             next="the first number of the list belongs to layer 0"),
        edit("plans].sum(axis=1)\n    sums", "plans].max(axis=1)\n    sums",
             says="your plan minds only the layer that loses most",
             next="add up what the layers lose"),
        edit("argmin", "argmax", "= np.inf", "= -np.inf",
             says="your plan is the one that loses most",
             next="take the smallest sum"),
        edit("> budget", ">= budget",
             says="your plan may not use the whole budget",
             next="the bytes may add up to `budget` itself"),
    ],
    alternatives=[by_knapsack, by_branches],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="14.V12"
# ## 14.V12 The window that suffices
#
# *15 minutes · difficulty 2 of 3 · 2 points*
# · [section](../notebooks/14_quality.ipynb#How-far-must-it-look?)
#
# Exercise 8 of chapter E: perplexity falls up to a window of 256 to 512, then no more (claim C180),
# and the best window goes with the average length of the data's dependencies. Which window suffices
# by each of the two?

# %% [markdown] role="prompt" exercise="14.V12"
# `windows` rise; `perplexities` belong to them. Return two of the windows, as ints:
#
# 1. the smallest from which on all perplexities, its own too, are at most `percent` % above that of
#    the widest;
# 2. the smallest beyond which lie at most `percent` % of the `distances` from tokens back to what
#    they depend on; None if there is none.


# %% role="answer" exercise="14.V12"
def windows_that_suffice(windows, perplexities, distances, percent):
    """Return the window by perplexity and the one by distance; arrays (windows,), (tokens,)."""
    # BEGIN SOLUTION
    high = np.flatnonzero(perplexities > perplexities[-1] * (1 + percent / 100))
    measured = int(windows[high[-1] + 1 if len(high) else 0])
    missed = np.array([np.mean(distances > window) for window in windows])
    reaching = windows[missed <= percent / 100]
    return measured, int(reaching[0]) if len(reaching) else None
    # END SOLUTION


# %% role="check" exercise="14.V12"
check("14.V12")

# %% [markdown] role="hints" exercise="14.V12"
# 1. A perplexity may dip and rise again: look from the widest window down. How far must a window
#    reach if nearly all dependencies count, not the average one?
# 2. The first answer comes right after the last window whose perplexity is too high. A window w
#    reaches a distance d if d <= w.
# 3. high = np.flatnonzero(perplexities > perplexities[-1] * (1 + percent / 100)): take
#    windows[high[-1] + 1], or windows[0]. Then the first w with
#    np.mean(distances > w) <= percent / 100.


# %% role="spec" exercise="14.V12"
def suffice_from_above(windows, perplexities, distances, percent):
    measured, reaching = windows[-1], None
    for reach, perplexity in zip(windows[::-1], perplexities[::-1], strict=True):
        if perplexity > (1 + percent / 100) * perplexities[-1]:
            break
        measured = reach
    for reach in windows[::-1]:
        if 100 * (distances > reach).sum() <= percent * len(distances):
            reaching = int(reach)
    return int(measured), reaching


def suffice_by_sorting(windows, perplexities, distances, percent):
    worst = np.maximum.accumulate(perplexities[::-1])[::-1]  # of this window and all wider
    measured = int(windows[np.argmax(worst <= perplexities[-1] * (1 + percent / 100))])
    may_miss = math.floor(percent * len(distances) / 100)
    longest = np.sort(distances)[::-1][min(may_miss, len(distances) - 1)]
    longest = longest if may_miss < len(distances) else 0
    place = np.searchsorted(windows, longest)
    return measured, int(windows[place]) if place < len(windows) else None


def suffice_by_percentile(windows, perplexities, distances, percent):
    measured, _ = suffice_from_above(windows, perplexities, distances, percent)
    place = np.searchsorted(windows, np.percentile(distances, 100 - percent))
    return measured, int(windows[place]) if place < len(windows) else None


def random_study(rng):
    count = int(rng.integers(4, 9))
    windows = np.sort(rng.choice(np.arange(4, 513, 4), count, replace=False))
    perplexities = 10 + 40 * np.exp(-windows / 100) + rng.normal(0, 0.4, count)
    distances = rng.geometric(1 / rng.integers(10, 120), int(rng.integers(30, 200)))
    return windows, perplexities, distances, float(rng.choice([2.5, 7.5, 12.5, 30.0]))


MEASURED = "int(windows[high[-1] + 1 if len(high) else 0])"
WIDE = [8, 16, 32, 64, 128]

Spec(
    kind="number",
    cases=[
        arrays("one window", [8], [5.0], [3], 12.5),
        arrays("two windows", [8, 16], [5.0, 4.0], [9, 3], 12.5),
        arrays("exactly 25 % above, exactly 25 % missed", [8, 16, 32], [6, 5.0, 4], [40, 9, 3, 4],
               25.0),
        arrays("it dips and rises again", WIDE, [12.0, 8.25, 9.5, 8.5, 8.0], [1, 5, 30, 70], 12.5),
        arrays("the best is not the widest", WIDE, [12.0, 9.0, 7.0, 7.5, 8.0], [100, 60, 9], 10.0),
        arrays("always good enough", WIDE, [8.2, 8.1, 8.0, 8.0, 8.0], [8, 8, 4, 2], 12.5),
        arrays("most near, a few far", WIDE, [20.0, 19.5, 19.0, 12.0, 10.0],
               [1] * 40 + [3] * 20 + [100] * 8, 5.0),
        arrays("some beyond every window", WIDE, [20.0, 18.0, 16.0, 14.0, 13.0],
               [4] * 10 + [500] * 5, 10.0),
        arrays("one step is small, the next is not", WIDE, [20.0, 15.0, 14.9, 11.0, 10.9],
               [20, 22, 30, 33], 5.0),
        arrays("symbols that repeat after 32 and after 128", [8, 16, 32, 64, 128, 256],
               [40.0, 39.0, 12.0, 11.8, 4.0, 4.0], [32] * 50 + [128] * 50, 5.0),
        *draws(4, random_study, "study"),
    ],
    mistakes=[
        edit(MEASURED, "int(windows[np.argmax(perplexities <= perplexities[-1] "
             "* (1 + percent / 100))])",
             says="your window is the first good one, though a wider one is worse again",
             next="from it on, all perplexities must be low: begin at the widest"),
        edit(MEASURED, "int(windows[np.argmin(perplexities)])",
             says="your window is the one with the lowest perplexity",
             next="the smallest that comes within `percent` % is enough"),
        edit("perplexities[-1] * (1", "perplexities.min() * (1",
             "high[-1] + 1 if len(high)", "min(high[-1] + 1, len(windows) - 1) if len(high)",
             says="your bound is taken from the lowest perplexity",
             next="compare with the widest window, which is last"),
        edit("high = np.flatnonzero(perplexities > perplexities[-1] * (1 + percent / 100))",
             "gains = 1 - perplexities[1:] / perplexities[:-1]\n"
             "    high = np.flatnonzero(gains <= percent / 100)[:1]\n"
             "    high = high - 1 if len(high) else [len(windows) - 2]",
             says="your window is the first after which one step gains little: it may be a ledge",
             next="compare with the widest window, not with the next one"),
        edit("perplexities[-1] * (1 + percent / 100)", "perplexities[-1] + percent / 100",
             says="your bound is an absolute one: percent of 1, not of the perplexity",
             next="multiply: perplexities[-1] * (1 + percent / 100)"),
        edit("missed = np.array([np.mean(distances > window) for window in windows])",
             "missed = np.where(windows >= np.mean(distances), 0, 1)",
             says="your reach is the average distance, as chapter E says: much may lie beyond it",
             next="count the share of distances beyond each window"),
        edit("missed = np.array([np.mean(distances > window) for window in windows])",
             "missed = np.where(windows >= np.median(distances), 0, 1)",
             says="your reach is the median distance: half of them lie beyond",
             next="count the share of distances beyond each window"),
        edit("missed = np.array([np.mean(distances > window) for window in windows])",
             "missed = np.where(windows >= distances.max(), 0, 1)",
             says="your window reaches every distance",
             next="`percent` % of them may be missed"),
        Mistake(suffice_by_percentile,
                says="your percentile lies between two distances: it is interpolated",
                next="count for each window: np.mean(distances > window)"),
        edit("distances > window", "distances >= window",
             says="your window does not reach the token exactly that far back",
             next="a radius w reaches d = w: missed are distances > w"),
        edit("missed <= percent / 100", "missed < percent / 100",
             says="your share may not be exactly `percent` %",
             next="at most percent: use <="),
        edit("perplexities > perplexities", "perplexities >= perplexities",
             "int(windows[high[-1] + 1 if", "int(windows[min(high[-1] + 1, len(windows) - 1) if",
             says="your perplexity may not be exactly `percent` % above",
             next="at most percent above is low enough: too high is only >"),
        edit("missed <= percent / 100", "missed <= 1 - percent / 100",
             says="your window reaches only `percent` % of the distances",
             next="all but `percent` %: the share that is missed is at most that"),
        edit("else None", "else int(windows[-1])",
             says="your widest window stands for one that does not exist",
             next="return None if no window reaches far enough"),
    ],
    alternatives=[suffice_from_above, suffice_by_sorting],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: what C180 is a statement about</summary>
#
# Symbols that repeat after 32 and after 128 steps, half of them each, lie 80 back on average. No
# plateau is there: a window of 80 misses one half. Perplexity stops falling where the data's
# dependencies end, and "256 to 512" names no data.
#
# </details>

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run
# `attncourse grade exercises/14_quality.ipynb`. It runs a copy of the notebook from the top and
# prints the score; your file is not changed.
