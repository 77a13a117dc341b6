# %% [markdown]
# # 15 Exercises: which attention?
#
# 1. Replace `raise NotImplementedError` by your answer and run the cell (Shift + Enter).
# 2. Run the check cell below it. It says what is wrong, and where.
# 3. Stuck? Run `hint("15.1")` in a new cell: three hints, each says more.
#
# No exercise needs the answer of another.

# %% [markdown]
# What fits, what is fast, what may be lost: each of the first exercises is one of these questions,
# the others put them together. `exact` means the result of full attention, but for rounding.

# %% role="setup"
import math

import numpy as np

from attncourse import model
from attncourse.cost import DEVICES
from attncourse.grading import check, hint
from attncourse.model import probes

# %% role="spec"
"""What the specs of this chapter share."""

import bisect
import difflib
import functools
import itertools
import math
import pickle
from dataclasses import replace

import numpy as np

from attncourse import model
from attncourse.catalogue import MECHANISMS
from attncourse.cost import DEVICES
from attncourse.grading.spec import Case
from attncourse.grading.writing import Mistake, Spec, case, draws, edit
from attncourse.model import probes

# %% [markdown] role="prompt" exercise="15.1"
# ## 15.1 What fits
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/15_choosing.ipynb#First:-does-it-fit?)
#
# Each of `layers` layers has `heads` heads for queries and `groups` for keys and values, all of
# width `d`; a number takes two bytes. Return the most tokens of a text that `memory` bytes hold, a
# tuple of three ints: prompt, decoding, training.

# %% [markdown] role="prompt" exercise="15.1"
# - Decoding: keys and values of all layers, in whole pages of `block` tokens.
# - Prompt: the same, and for each head of *one* layer the scores of min(`block`, n) queries and n
#   keys.
# - Training: no pages, but q, k, v and out of all layers; a float32 for each layer, head and token;
#   the prompt's scores.

# %% [markdown] role="prompt" exercise="15.1"
# Memory may be 10¹⁸ bytes: the ints are exact, and counting up to them takes too long.
#
# `longest_texts(36, 1, 2, 1, 1, 2)`: `(2, 8, 1)`.


# %% role="answer" exercise="15.1"
def longest_texts(memory, layers, heads, groups, d, block):
    """Return the longest text in tokens: as a prompt, while decoding, in training."""

    # BEGIN SOLUTION
    def held(n):
        cache = 4 * layers * groups * d * (-(-n // block) * block)
        scores = 2 * heads * min(block, n) * n
        kept = layers * n * (4 * (heads + groups) * d + 4 * heads)
        return scores + cache, cache, scores + kept

    def longest(phase):
        past = 1
        while held(past)[phase] <= memory:
            past *= 2
        n = past // 2  # fits
        while past - n > 1:
            middle = (n + past) // 2
            n, past = (middle, past) if held(middle)[phase] <= memory else (n, middle)
        return n

    return tuple(longest(phase) for phase in range(3))
    # END SOLUTION


# %% role="check" exercise="15.1"
check("15.1")

# %% [markdown] role="hints" exercise="15.1"
# 1. First write a function that says how many bytes n tokens take. It never falls. How does one
#    find a word in a dictionary?
# 2. Pages: -(-n // block) * block tokens. Double n until it no longer fits; then halve the stretch
#    between the last n that fits and the first that does not.
# 3. cache 4·layers·groups·d·(tokens of the pages); scores 2·heads·min(block, n)·n; training
#    layers·n·(4·(heads + groups)·d + 4·heads) + scores. While past - n > 1, try the middle.


# %% role="spec" exercise="15.1"
def by_bisect(memory, layers, heads, groups, d, block):
    def scores(n):
        return 2 * n * min(n, block) * heads

    def cache(n):
        return 4 * layers * groups * d * (n + -n % block)

    def kept(n):
        return layers * n * (2 * d * (2 * heads + 2 * groups) + 4 * heads)

    ways = (lambda n: cache(n) + scores(n)), cache, lambda n: kept(n) + scores(n)
    tokens = range(1, memory + 2)
    return tuple(bisect.bisect_right(tokens, memory, key=way) for way in ways)


def by_formulas(memory, layers, heads, groups, d, block):
    """Solve for n within a block and beyond one; only the page of a prompt is searched."""
    token, score = 4 * layers * groups * d, 2 * heads

    def up_to(rest, a_token):
        """Return the largest n with score · min(block, n) · n + a_token · n at most rest."""
        n = (math.isqrt(a_token**2 + 4 * score * rest) - a_token) // (2 * score)
        return n if n < block else rest // (score * block + a_token)

    def begun(page):
        first = (page - 1) * block + 1
        return page * block * token + score * first * min(block, first)

    page = bisect.bisect_right(range(1, memory + 2), memory, key=begun)
    prompt = min(page * block, up_to(memory - page * block * token, 0)) if page else 0
    training = up_to(memory, layers * (4 * (heads + groups) * d + 4 * heads))
    return prompt, memory // (token * block) * block, training


def nearly_full(rng):
    """Draw a model, a length and a phase, and just as much memory, or one byte less."""
    layers, groups, d, block = (int(x) for x in rng.integers((1, 1, 3, 3), (40, 9, 130, 300)))
    heads, n = groups * int(rng.integers(1, 9)), int(rng.integers(1, 10 ** rng.integers(2, 8)))
    cache = 4 * layers * groups * d * -(-n // block) * block
    scores = 2 * heads * min(block, n) * n
    kept = layers * n * 4 * ((heads + groups) * d + heads)
    memory = (cache + scores, cache, kept + scores)[rng.integers(3)]
    return memory - int(rng.integers(2)), layers, heads, groups, d, block


Spec(
    kind="number",
    cases=[
        case("one token fits exactly", 6, 1, 1, 1, 1, 1),
        case("the example", 36, 1, 2, 1, 1, 2),
        case("nothing fits", 99, 3, 2, 1, 29, 7),
        case("a page lacks a byte", 4 * 2 * 3 * 5 * 21 - 1, 2, 6, 3, 5, 7),
        case("a page to the byte", 4 * 2 * 3 * 5 * 21, 2, 6, 3, 5, 7),
        case("all in one block", 300_000, 3, 4, 2, 5, 1009),
        case("many blocks", 3_000_000, 3, 10, 5, 7, 11),
        case("blocks of 1", 123_457, 2, 6, 2, 3, 1),
        case("32 layers on 24 GB", 24 * 10**9, 32, 32, 8, 128, 127),
        case("10¹⁸ bytes", 10**18, 3, 5, 1, 2, 13),
        case("pages of one token, a byte is lacking", 10**18 - 1, 1, 1, 1, 1, 1),
        case("all in one block, a byte is lacking", 10**18 + 18 * 10**9 - 1, 1, 2, 1, 1, 10**10),
        *draws(4, nearly_full),
    ],
    mistakes=[
        edit("(-(-n // block) * block)", "n",
             says="your pages end where the text ends",
             next="a page begun is a page taken: round n up to whole pages"),
        edit("4 * layers * groups * d", "4 * layers * heads * d",
             says="your cache has a key and a value for each head of queries",
             next="of keys and values there are `groups`"),
        edit("min(block, n) * n", "n * n",
             says="your scores are those of all queries at once",
             next="only min(block, n) rows of them stand at a time"),
        edit("min(block, n)", "block",
             says="your scores have `block` rows even for a shorter text",
             next="a text of n tokens has min(block, n) queries"),
        edit("2 * heads * min", "2 * layers * heads * min",
             says="your scores are those of all layers",
             next="one layer after the other: its scores make room for the next one's"),
        edit("2 * heads * min", "2 * groups * min",
             says="your scores are those of `groups` heads",
             next="each head of queries has scores of its own"),
        edit("+ 4 * heads)", "+ 2 * heads)",
             says="your float32 takes two bytes",
             next="one number of four bytes a layer, head and token"),
        edit("4 * (heads + groups) * d", "8 * heads * d",
             says="your training keeps k and v for each head of queries",
             next="q and out have `heads` heads, k and v have `groups`"),
        edit("scores + kept", "kept",
             says="your training has no scores",
             next="the prompt's scores of one layer stand beside what is kept"),
        edit("cache = 4 *", "cache = 2 *",
             says="your cache holds keys and no values",
             next="two arrays, and two bytes a number: 4"),
        edit("kept = layers * n", "kept = layers * (-(-n // block) * block)",
             says="your training takes whole pages",
             next="pages belong to the cache: training keeps n tokens"),
        edit("+ 4 * heads)", "+ 4 * groups)",
             says="your float32 are those of `groups` heads",
             next="each head of queries has its own"),
        edit("(4 * (heads + groups) * d + 4 * heads)", "4 * (heads + groups) * d + 4 * heads * n",
             says="your float32 are those of one layer",
             next="each layer keeps its own"),
        edit("scores = 2 * heads", "scores = heads",
             says="your scores take half of their bytes",
             next="two bytes a number, and all n keys, also those that a mask would hide"),
        edit("        return n\n", "        return max(n, 1)\n",
             says="your n is at least 1, even if nothing fits",
             next="then it is 0"),
        edit("kept = layers * n", "kept = n",
             says="your training keeps one layer",
             next="the backward pass needs q, k, v and out of each of them"),
        edit("scores + cache, cache", "scores + cache // layers, cache",
             says="your prompt keeps the keys and values of one layer",
             next="decoding will need those of all layers"),
        edit("<= memory", "< memory",
             says="your text must leave a byte free",
             next="what fits exactly fits: <="),
        edit("        return n\n", "        return n // block * block\n",
             says="your n are whole pages in each phase",
             next="a page may be begun: try every n"),
        edit("        return n\n", "        return past\n",
             says="your n is the first that does not fit",
             next="return the one before"),
        edit("scores + cache, cache, scores + kept", "cache, scores + cache, scores + kept",
             says="your decoding comes before the prompt",
             next="return prompt, decoding, training"),
        edit("(-(-n // block) * block)", "(int(np.ceil(n / block)) * block)",
             says="your division makes floats, which know 16 digits",
             next="divide whole numbers by //"),
    ],
    alternatives=[by_bisect, by_formulas],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="15.2"
# ## 15.2 Where they cross
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/15_choosing.ipynb#Then:-is-it-fast-enough?)
#
# Measured points cross in [13.5](13_measuring.ipynb); here two formulas do. `ours` and `theirs` are
# triples of whole picoseconds: (to start, for each token, for each pair). A text of n tokens takes
#
#     start + token · n + pair · n²

# %% [markdown] role="prompt" exercise="15.2"
# Return the n, an int of at least 1, from which on ours is faster: at n and at every longer text.
# Equal is not faster. Return None if there is no such n. It may lie at 10¹², and it is exact.
#
# A window against full attention, `crossing((50, 7, 0), (10, 1, 1))`: `11`. At 10 both take 120.


# %% role="answer" exercise="15.2"
def crossing(ours, theirs):
    """Return the length from which ours is faster for good; triples (start, token, pair)."""
    # BEGIN SOLUTION
    start, token, pair = (b - a for a, b in zip(ours, theirs, strict=True))  # what ours saves
    if (pair, token, start) <= (0, 0, 0):  # the highest power that differs has the last word
        return None
    last = 0  # no longer text is slower
    if pair and (inside := token**2 - 4 * pair * start) >= 0:
        last = (math.isqrt(inside) - token) // (2 * pair)
    elif token and not pair:
        last = -start // token
    slower = last > 0 and start + token * last + pair * last**2 <= 0
    return last + 1 if slower else 1
    # END SOLUTION


# %% role="check" exercise="15.2"
check("15.2")

# %% [markdown] role="hints" exercise="15.2"
# 1. What does ours save at length n? Which of the three numbers decides when n is very large, and
#    which if that one is 0?
# 2. theirs - ours = start + token·n + pair·n². Who wins for good: the sign of pair; if 0, of token;
#    if 0, of start. Then find the last n at which nothing is saved.
# 3. With pair > 0: last = (math.isqrt(token² - 4·pair·start) - token) // (2·pair). If at that n
#    something is saved, both roots lie between two whole numbers: the answer is 1, else last + 1.


# %% role="spec" exercise="15.2"
def saved(ours, theirs, n):
    def seconds(way):
        return way[0] + n * (way[1] + n * way[2])

    return seconds(theirs) - seconds(ours)


def last_power(ours, theirs):
    return next((b - a for a, b in list(zip(ours, theirs, strict=True))[::-1] if a != b), 0)


def crossing_by_search(ours, theirs):
    """From where the saving is least it only rises: search there."""
    if last_power(ours, theirs) <= 0:
        return None
    bend, slope = theirs[2] - ours[2], theirs[1] - ours[1]
    low = max(1, -slope // (2 * bend)) if bend else 1
    low += saved(ours, theirs, low + 1) < saved(ours, theirs, low)
    if saved(ours, theirs, low) > 0:
        return 1
    step = 1
    while saved(ours, theirs, low + step) <= 0:
        step *= 2
    beyond = range(low, low + step + 1)
    return low + bisect.bisect_left(beyond, True, key=lambda n: saved(ours, theirs, n) > 0)


def crossing_by_bits(ours, theirs):
    """Walk down from far beyond, in steps that halve, as long as nothing is lost on the way."""
    if last_power(ours, theirs) <= 0:
        return None
    bend, slope = theirs[2] - ours[2], theirs[1] - ours[1]
    lowest = max(1, -slope // (2 * bend)) if bend else 1  # near it ours saves least
    if min(saved(ours, theirs, lowest), saved(ours, theirs, lowest + 1)) > 0:
        return 1
    n = lowest + 2**100
    for power in reversed(range(100)):
        while n - 2**power > lowest and saved(ours, theirs, n - 2**power) > 0:
            n -= 2**power
    return n


def first_win(ours, theirs):
    """Return the first length at which ours is faster, whatever follows."""
    for n in range(1, 3000):
        if saved(ours, theirs, n) > 0:
            return n
    return crossing_by_search(ours, theirs)


def random_ways(rng):
    pair, where = int(rng.integers(1, 50)), rng.integers(1, 2000, 2)
    more, start = (int(x) for x in rng.integers(1, 10**4, 2))
    kinds = (
        ((start, more, 0), (start // 3, more // 7, pair)),
        ((start, more, 3), (start + int(where[0]), more // 2, 3)),
        ((start, int(pair * where.sum()), 0), (start + int(pair * where.prod()), 0, pair)),
    )
    ours, theirs = kinds[rng.integers(3)]
    return (theirs, ours) if rng.random() < 0.15 else (ours, theirs)


ROOT = "(math.isqrt(inside) - token) // (2 * pair)"

Spec(
    kind="number",
    cases=[
        case("nothing differs", (1, 1, 1), (1, 1, 1)),
        case("the example", (50, 7, 0), (10, 1, 1)),
        case("between two lengths", (50, 7, 0), (10, 1, 2)),
        case("always, by the start alone", (3, 5, 2), (4, 5, 2)),
        case("never, by the start alone", (4, 5, 2), (3, 5, 2)),
        case("from the first token on", (3, 4, 0), (2, 3, 3)),
        case("equal at one token", (3, 4, 0), (2, 3, 2)),
        case("a line, equal at 12", (100, 3, 7), (40, 8, 7)),
        case("a line that falls behind", (40, 8, 7), (100, 3, 7)),
        case("faster, slower, faster", (0, 100, 0), (1000, 10, 1)),
        case("faster, then equal once", (0, 10, 0), (25, 0, 1)),
        case("both roots between 2 and 3", (0, 50, 0), (62, 0, 10)),
        case("faster, then slower for good", (0, 3, 1), (90, 1, 0)),
        case("never equal", (0, 1, 0), (9, 1, 1)),
        case("a large start, a steep line", (7, 10**6, 1), (7 + 10**5, 10**6 - 3, 1)),
        case("a line, beyond 10¹²", (10**19, 3, 7), (1, 3 + 10**7, 7)),
        case("beyond 10¹²", (10**9, 5 * 10**12 + 3, 2), (0, 2, 3)),
        case("where floats end", (10**24 - 1, 1, 0), (0, 1, 1)),
        case("better in all three", (1, 1, 1), (3, 9, 2)),
        *draws(5, random_ways),
    ],
    mistakes=[
        Mistake(first_win,
                says="your length is the first at which ours is faster, whatever follows",
                next="it must be faster at every longer text too"),
        edit("slower = last > 0 and start + token * last + pair * last**2 <= 0",
             "slower = last > 0",
             says="your roots lie between two whole lengths, where nobody reads",
             next="look whether ours is slower at that whole length"),
        edit("slower = last > 0 and start + token * last + pair * last**2 <= 0",
             "slower = last > 0 and start + token * last + pair * last**2 < 0",
             says="your answer counts equal as faster, but only at the end",
             next="equal is not faster: the next length is the first"),
        edit("last + 1 if slower", "last if slower",
             says="your length is the last at which ours is not faster",
             next="the one after it is asked"),
        edit("if (pair, token, start) <= (0, 0, 0)", "if pair <= 0",
             says="your answer gives up where both take the same for a pair",
             next="then the tokens decide, and if they agree too, the start"),
        edit("if (pair, token, start) <= (0, 0, 0)", "if min(pair, token, start) < 0",
             says="your answer is None as soon as ours is worse in one of the three",
             next="for long texts the highest power that differs decides alone"),
        edit("if (pair, token, start) <= (0, 0, 0)", "if (pair, token, start) < (0, 0, 0)",
             says="your ours is faster than what takes the same",
             next="equal is not faster: None"),
        edit("math.isqrt(inside) - token", "-math.isqrt(inside) - token",
             says="your root is the smaller of the two",
             next="ours may win, lose and win again: take the larger root"),
        edit(ROOT, "int((inside**0.5 - token) / (2 * pair))",
             says="your root is a float, which knows 16 digits",
             next="math.isqrt and // stay exact"),
        edit("last = -start // token", "last = int(-start / token)",
             says="your line is divided as floats, which know 16 digits",
             next="// stays exact"),
        edit("    last = 0 ", "    if pair and token**2 < 4 * pair * start:\n"
             "        return None\n    last = 0 ",
             says="your answer is None where the two never take the same",
             next="no root, and pair > 0: ours is faster at every n, so 1"),
        edit("if (pair, token, start) <= (0, 0, 0)", "if (pair, token) <= (0, 0)",
             says="your answer gives up where only the start differs",
             next="with the same for tokens and pairs, the smaller start is always faster"),
        edit("else 1\n", "else 0\n",
             says="your first length is 0",
             next="a text has at least one token: 1"),
        edit("(b - a for", "(a - b for",
             says="your saving is what ours costs more",
             next="theirs minus ours"),
        edit("        return None\n", "        return 0\n",
             says="your answer is 0 where there is no such length",
             next="return None"),
        edit("strict=True))  # what ours saves", "strict=True))\n    start = 0",
             says="your answer forgets what it takes to start",
             next="the first number of each triple counts too"),
        edit("else 1\n", "else None\n",
             says="your answer is None where ours is always faster",
             next="then it is faster from n = 1 on"),
        edit("last > 0 and start", "start",
             says="your answer may be below 1",
             next="a text has at least one token"),
    ],
    alternatives=[crossing_by_search, crossing_by_bits],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="15.3"
# ## 15.3 Choose, and say why
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/15_choosing.ipynb#The-guide,-computed)
#
# A candidate is a dict: `bytes`, `seconds`, `loss` (nats above full attention, NaN if never
# measured), `keeps` (a frozenset of abilities, as "copying") and `exact`. Return the place of the
# one to take, or None, and a list with the reason of each.

# %% [markdown] role="prompt" exercise="15.3"
# Out, by the first that holds, is what takes more bytes than `memory` ("memory"), what lacks an
# ability that is `needed`, a frozenset ("ability"), and what loses more than `tolerance`, or nobody
# knows how much ("loss").

# %% [markdown] role="prompt" exercise="15.3"
# Of the rest take the fastest exact one, unless the fastest of all is at least 1.5 times as fast:
# then take that, and also if none is exact. Of equally fast ones the first. Its reason is "taken";
# of one that is faster, and not by enough, "gain"; of the others "slow".


# %% role="answer" exercise="15.3"
def choose_attention(candidates, memory, needed, tolerance):
    """Return the place of the one to take, or None, and the reasons: a list of strings."""

    # BEGIN SOLUTION
    def reason(each):
        if each["bytes"] > memory:
            return "memory"
        if not needed <= each["keeps"]:
            return "ability"
        return "slow" if each["loss"] <= tolerance else "loss"  # NaN is not <= anything

    reasons = [reason(each) for each in candidates]
    left = [i for i, why in enumerate(reasons) if why == "slow"]
    if not left:
        return None, reasons
    seconds = [each["seconds"] for each in candidates]
    exact = [i for i in left if candidates[i]["exact"]] or left
    fastest, safe = (min(some, key=seconds.__getitem__) for some in (left, exact))
    taken = fastest if 1.5 * seconds[fastest] <= seconds[safe] else safe
    for i in left:
        reasons[i] = "taken" if i == taken else "gain" if seconds[i] < seconds[taken] else "slow"
    return taken, reasons
    # END SOLUTION


# %% role="check" exercise="15.3"
check("15.3")

# %% [markdown] role="hints" exercise="15.3"
# 1. Two steps: who is out, and why; then who of the rest is taken. What does NaN > 0.05 say?
# 2. needed <= keeps asks whether all of needed is in keeps. Find the fastest of the rest and the
#    fastest exact one of the rest. Which of the two?
# 3. out if bytes > memory, not needed <= keeps, not loss <= tolerance. taken is the fastest if
#    1.5 · its seconds <= those of the fastest exact one, else that one; no exact one: the fastest.


# %% role="spec" exercise="15.3"
def choose_by_ranking(candidates, memory, needed, tolerance):
    """Sort the rest by seconds, an exact one with two thirds of its own."""
    reasons, left = [], []
    for place, each in enumerate(candidates):
        tests = {
            "memory": each["bytes"] <= memory,
            "ability": all(ability in each["keeps"] for ability in needed),
            "loss": each["loss"] <= tolerance,
        }
        reasons.append(next((name for name, passed in tests.items() if not passed), "slow"))
        if all(tests.values()):
            left.append((each["seconds"], not each["exact"], place))
    if not left:
        return None, reasons
    fastest = min(left, key=lambda one: (one[0], one[2]))
    safe = [one for one in left if not one[1] and one[0] < 1.5 * fastest[0]]
    seconds, _, taken = min(safe, default=fastest)
    for time, _, place in left:
        if time < seconds:
            reasons[place] = "gain"
    reasons[taken] = "taken"
    return taken, reasons


def choose_by_arrays(candidates, memory, needed, tolerance):
    held, seconds, losses, exact = (
        np.array([each[name] for each in candidates])
        for name in ("bytes", "seconds", "loss", "exact")
    )
    keeps = np.array([not needed - each["keeps"] for each in candidates])
    out = [held > memory, ~keeps, np.isnan(losses) | (losses > tolerance)]
    reasons = np.select(out, ["memory", "ability", "loss"], "slow")
    left = reasons == "slow"
    if not left.any():
        return None, reasons.tolist()
    taken = np.where(left, seconds, np.inf).argmin()
    if (left & exact).any():
        safe = np.where(left & exact, seconds, np.inf).argmin()
        taken = safe if seconds[taken] * 3 > seconds[safe] * 2 else taken
    reasons[left & (seconds < seconds[taken])] = "gain"
    reasons = reasons.tolist()
    reasons[taken] = "taken"
    return int(taken), reasons


def one(held, seconds, loss, keeps, exact=False):
    abilities = frozenset(keeps.split())
    return {"bytes": held, "seconds": seconds, "loss": loss, "keeps": abilities, "exact": exact}


ALL = "copying recall needle"


def choice(name, memory, tolerance, needed, *candidates):
    words = {"needed": frozenset(needed.split()), "candidates": list(candidates)}
    return Case(name, (memory, tolerance), words)


def drive_choice(answer, memory, tolerance, needed, candidates):
    return answer(candidates, memory, needed, tolerance)


def random_choice(rng):
    candidates = []
    for _ in range(rng.integers(3, 8)):
        held, seconds, loss = int(rng.integers(1, 9)), rng.integers(4, 15) / 4, rng.integers(8) / 64
        exact, kept = rng.random() < 0.3, rng.random(3) < 0.7
        keeps = ALL if exact else " ".join(np.array(ALL.split())[kept])
        loss = 0.0 if exact else math.nan if rng.random() < 0.2 else float(loss)
        candidates.append(one(held, float(seconds), loss, keeps, bool(exact)))
    needed = ("", "copying", "recall copying")[rng.integers(3)]
    memory = int(rng.integers(5, 50_000))
    for each in candidates:
        each["bytes"] *= memory // 4 + 1
    return choice(f"random, {memory} bytes", memory, 0.0625, needed, *candidates)


FULL, TILED = one(90, 4.0, 0.0, ALL, True), one(20, 3.0, 0.0, ALL, True)

Spec(
    kind="number",
    drive=drive_choice,
    reference=lambda memory, tolerance, needed, candidates: choose_by_ranking(
        candidates, memory, needed, tolerance
    ),
    cases=[
        choice("one that fits exactly", 3, 0.0, "", one(3, 1.0, 0.0, ALL, True)),
        choice("one that lacks a byte", 3, 0.0, "", one(4, 1.0, 0.0, ALL, True)),
        choice("the slower one is exact, and not slow enough", 50, 0.0625, "",
               TILED, one(9, 2.25, 0.03, ALL)),
        choice("exactly 1.5 times as fast", 50, 0.0625, "", TILED, one(9, 2.0, 0.03, ALL)),
        choice("not quite 1.5 times as fast", 50, 0.0625, "", TILED, one(9, 2.0625, 0.03, ALL)),
        choice("exactly the tolerance", 50, 0.0625, "", TILED, one(9, 1.0, 0.0625, "copying")),
        choice("nobody measured what it loses", 50, 0.0625, "", one(9, 1.0, math.nan, ALL), TILED),
        choice("it keeps one of two abilities", 50, 0.0625, "recall copying",
               one(9, 1.0, 0.03, "copying"), one(9, 1.5, 0.03, "copying recall needle"), TILED),
        choice("too large, and much else", 10, 0.0625, "copying",
               one(11, 9.0, 0.5, ""), one(9, 9.0, 0.5, ""), one(9, 9.0, 0.5, "copying")),
        choice("none is exact", 50, 0.0625, "", one(9, 3.0, 0.03, ALL), one(9, 2.5, 0.05, ALL)),
        choice("the exact one does not fit", 50, 0.0625, "", FULL, one(9, 3.0, 0.03, ALL)),
        choice("the fastest is out", 50, 0.0625, "copying", one(9, 0.5, 0.01, "recall"),
               one(9, 2.5, 0.01, ALL), TILED),
        choice("two exact ones", 99, 0.0625, "", FULL, TILED, one(9, 2.5, 0.02, ALL)),
        choice("as fast, and the exact one later", 50, 0.0625, "", one(9, 3.0, 0.02, ALL), TILED),
        choice("equally fast ones", 50, 0.0625, "", one(9, 1.0, 0.03, ALL), one(5, 1.0, 0.01, ALL),
               TILED),
        choice("faster than the taken one, and slower", 50, 0.0625, "", one(9, 2.5, 0.03, ALL),
               one(9, 3.5, 0.02, ALL), TILED, one(9, 2.25, 0.06, ALL)),
        *[random_choice] * 6,
    ],
    mistakes=[
        edit("fastest if 1.5 * seconds[fastest] <= seconds[safe] else safe", "fastest",
             says="your choice is the fastest, exact or not",
             next="an exact one is worth a little time: ask for 1.5 times as fast"),
        edit("fastest if 1.5 * seconds[fastest] <= seconds[safe] else safe", "safe",
             says="your choice is exact whatever it costs",
             next="take the fastest if it is at least 1.5 times as fast"),
        edit("1.5 * seconds[fastest] <= seconds[safe]", "1.5 * seconds[fastest] < seconds[safe]",
             says="your exactly 1.5 times as fast is not fast enough",
             next="at least 1.5 times: <="),
        edit('"slow" if each["loss"] <= tolerance else "loss"',
             '"loss" if each["loss"] > tolerance else "slow"',
             says="your choice trusts a candidate that nobody measured",
             next="NaN > tolerance is False: ask for not loss <= tolerance"),
        edit("1.5 * seconds[fastest]", "1.4 * seconds[fastest]",
             says="your fastest is taken before it is 1.5 times as fast",
             next="1.5 times its seconds must be at most those of the exact one"),
        edit("candidates[i][\"exact\"]] or left", "candidates[i][\"exact\"]]",
             "    fastest, safe",
             "    if not exact:\n        return None, reasons\n    fastest, safe",
             says="your answer is None where no exact one is left",
             next="then take the fastest of those that are left"),
        edit('each["loss"] <= tolerance', 'each["loss"] < tolerance',
             says="your loss may not be exactly the tolerance",
             next="out is what loses more"),
        edit('each["bytes"] > memory', 'each["bytes"] >= memory',
             says="your candidate must leave a byte free",
             next="what fits exactly fits"),
        edit("not needed <= each", "not needed & each",
             also=[edit("not needed <= each", "needed and not needed & each")],
             says="your candidate needs one of the abilities, not all",
             next="all of needed must be in keeps: needed <= keeps"),
        edit('        if not needed <= each["keeps"]:\n            return "ability"\n', "",
             says="your rule does not look at abilities",
             next="a small loss says nothing about copying: compare keeps with needed"),
        edit("seconds = [each", "left = [i for i in left if i == left[0]]\n    seconds = [each",
             says="your choice is the first that may be taken",
             next="compare the seconds of all that are left"),
        edit("if candidates[i][\"exact\"]] or left", "if candidates[i][\"exact\"]] or [left[0]]",
             says="your choice without an exact one is the first that is left",
             next="if none is exact, take the fastest"),
        edit("min(some, key=seconds.__getitem__)", "min(some, key=lambda i: (seconds[i], -i))",
             says="your choice of equally fast ones is the last",
             next="take the first of them"),
        edit('"gain" if seconds[i] < seconds[taken]', '"gain" if seconds[i] <= seconds[taken]',
             says="your reason for one that is as fast is \"gain\"",
             next="only what is faster would gain"),
        edit('"gain" if seconds[i] < seconds[taken] else "slow"', '"slow"',
             says="your reason for a faster one is \"slow\"",
             next="it is faster, and not by enough: \"gain\""),
        edit("taken = fastest if", "taken = safe if",
             "else safe", "else fastest",
             says="your rule is upside down: it takes the exact one where it is much slower",
             next="take the fastest if 1.5 times its seconds are at most those of the exact one"),
        edit("seconds = [each[\"seconds\"] for each in candidates]",
             "seconds = [each[\"bytes\"] for each in candidates]",
             says="your fastest is the smallest",
             next="bytes only decide what fits"),
    ],
    alternatives=[choose_by_ranking, choose_by_arrays],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="15.4"
# ## 15.4 A dispatcher
#
# *15 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/15_choosing.ipynb#What-libraries-choose-for-you)
#
# A library tries its kernels one after the other. Which is the first that can serve this call?
# `mask` is None, or True where a key is visible. If causal, query i sees no key after i + Tk − Tq.

# %% [markdown] role="prompt" exercise="15.4"
# A kernel is a dict. What it lacks, by the first that holds:
#
# - "dtype": none of its `dtypes`, or q, k and v differ;
# - "width": D or Dv above `widest`, or no multiple of `multiple`;
# - "mask": given, not `masks`;
# - "lengths": causal, Tq ≠ Tk, not `unequal`;
# - "empty": a query sees no key, not `empty`.

# %% [markdown] role="prompt" exercise="15.4"
# Return the `name` of the first that lacks nothing, or None, and a list with what each lacks, ""
# for nothing. Is it enough to look at the mask to know whether a query sees no key?


# %% role="answer" exercise="15.4"
def first_kernel(q, k, v, mask, causal, kernels):
    """Return the name of the first kernel that can, or None, and what each of them lacks.

    q is (..., Tq, D), k (..., Tk, D), v (..., Tk, Dv); mask None or bool, to be broadcast.
    """
    # BEGIN SOLUTION
    n_queries, n_keys, widths = q.shape[-2], k.shape[-2], (q.shape[-1], v.shape[-1])
    visible = np.tri(n_queries, n_keys, n_keys - n_queries if causal else n_keys, dtype=bool)
    visible = visible if mask is None else visible & mask
    empty = not visible.any(axis=-1).all()
    lacks = []
    for kernel in kernels:
        can = {
            "dtype": q.dtype == k.dtype == v.dtype and q.dtype.name in kernel["dtypes"],
            "width": all(
                d <= kernel["widest"] and d % kernel["multiple"] == 0 for d in widths
            ),
            "mask": mask is None or kernel["masks"],
            "lengths": not causal or n_queries == n_keys or kernel["unequal"],
            "empty": not empty or kernel["empty"],
        }  # fmt: skip
        lacks.append(next((name for name, fine in can.items() if not fine), ""))
    return kernels[lacks.index("")]["name"] if "" in lacks else None, lacks
    # END SOLUTION


# %% role="check" exercise="15.4"
check("15.4")

# %% [markdown] role="hints" exercise="15.4"
# 1. Four of the five read only shapes and dtypes. For the last one: what does a query see if a mask
#    is given *and* the call is causal? And if there are more queries than keys?
# 2. np.tri(Tq, Tk, Tk - Tq, dtype=bool) is the causal mask. Join it to the mask by &; a query sees
#    nothing if its row of visible keys has no True.
# 3. visible = np.ones((Tq, Tk), bool), & mask, & causal; empty = not visible.any(axis=-1).all().
#    For each kernel check the five in order, and take the first that fails.


# %% role="spec" exercise="15.4"
def kernel_by_kernel(q, k, v, mask, causal, kernels):
    """Count what each query sees."""
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    seen = np.ones((n_queries, n_keys), bool) if mask is None else np.array(mask)
    if causal:
        seen = seen & (np.arange(n_keys) - np.arange(n_queries)[:, None] <= n_keys - n_queries)
    fewest = seen.sum(axis=-1).min() if seen.size else 0

    def lack(kernel):
        if len({q.dtype, k.dtype, v.dtype}) > 1 or str(q.dtype) not in kernel["dtypes"]:
            return "dtype"
        if max(q.shape[-1], v.shape[-1]) > kernel["widest"]:
            return "width"
        if q.shape[-1] % kernel["multiple"] or v.shape[-1] % kernel["multiple"]:
            return "width"
        if mask is not None and not kernel["masks"]:
            return "mask"
        if causal and n_queries != n_keys and not kernel["unequal"]:
            return "lengths"
        return "" if fewest or kernel["empty"] else "empty"

    lacks = [lack(kernel) for kernel in kernels]
    able = [each["name"] for each, lacking in zip(kernels, lacks, strict=True) if not lacking]
    return (able or [None])[0], lacks


def row_by_row(q, k, v, mask, causal, kernels):
    """Ask each row of the mask as far as the query may see."""
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    whole = np.broadcast_to(True if mask is None else mask, (*q.shape[:-1], n_keys))
    ends = [min(n_keys, max(0, i + 1 + n_keys - n_queries)) for i in range(n_queries)]
    empty = any(
        not row[: end if causal else n_keys].any()
        for head in whole.reshape(math.prod(whole.shape[:-2]), n_queries, n_keys)
        for row, end in zip(head, ends, strict=True)
    )
    lacks = [""] * len(kernels)
    for place, each in enumerate(kernels):
        fails = {
            "empty": empty and not each["empty"],
            "lengths": causal and n_queries != n_keys and not each["unequal"],
            "mask": mask is not None and not each["masks"],
            "width": any(x.shape[-1] > each["widest"] or x.shape[-1] % each["multiple"]
                         for x in (q, v)),
            "dtype": any(x.dtype.name not in each["dtypes"] or x.dtype != q.dtype
                         for x in (q, k, v)),
        }  # fmt: skip
        for name, fails_it in fails.items():
            lacks[place] = name if fails_it else lacks[place]
    return next((e["name"] for e, x in zip(kernels, lacks, strict=True) if x == ""), None), lacks


def kernel(name, dtypes, multiple, widest, **can):
    allows = {"masks": True, "unequal": True, "empty": True} | can
    facts = {"name": name, "dtypes": tuple(dtypes.split()), "multiple": multiple, "widest": widest}
    return facts | allows


TILES = kernel("tiles", "float16", 8, 128, masks=False, unequal=False, empty=False)
BLOCKS = kernel("blocks", "float16 float32", 4, 512, empty=False)
SPLIT = kernel("split keys", "float16 float32", 1, 64, masks=False)
STORED = kernel("stored", "float32 float64", 1, 10**6)
LIBRARY = [TILES, BLOCKS, SPLIT, STORED]


def call(name, n_queries, n_keys, d, dtype, mask=None, causal=False, kernels=LIBRARY, **other):
    """Return a case; `other`: value_width, lead, key_dtype, value_dtype."""
    lead, width = other.get("lead", ()), other.get("value_width", d)
    q, k, v = (
        np.zeros((*lead, *sizes), kind)
        for *sizes, kind in (
            (n_queries, d, dtype),
            (n_keys, d, other.get("key_dtype", dtype)),
            (n_keys, width, other.get("value_dtype", dtype)),
        )
    )
    mask = None if mask is None else np.array(mask, bool)
    return Case(name, (q, k, v), {"mask": mask, "causal": causal, "kernels": kernels})


def drive_dispatch(answer, q, k, v, mask, causal, kernels):
    return answer(q, k, v, mask, causal, kernels)


def random_call(rng):
    n_queries, n_keys = (int(x) for x in rng.integers(1, 7, 2))
    d, width = (int(x) for x in rng.choice([3, 8, 12, 64, 136], 2))
    shape = [(1, n_keys), (n_queries, 1), (2, n_queries, n_keys), None][rng.integers(4)]
    mask = None if shape is None else rng.random(shape) < 0.7
    dtype = str(rng.choice(["float16", "float32"]))
    name = f"random, ({n_queries}, {d}) and ({n_keys}, {width}), {dtype}"
    kernels = [LIBRARY[i] for i in rng.permutation(4)]
    return call(name, n_queries, n_keys, d, dtype, mask, bool(rng.integers(2)), kernels,
                value_width=width, lead=(2,))  # fmt: skip


CAUSAL = "n_keys - n_queries if causal else n_keys"

Spec(
    kind="number",
    drive=drive_dispatch,
    cases=[
        call("the first can", 1, 1, 8, "float16"),
        call("nobody can", 1, 1, 8, "int32"),
        call("the widest", 2, 2, 128, "float16"),
        call("values that are too wide", 2, 2, 128, "float16", value_width=136),
        call("a width of 12", 2, 2, 12, "float16"),
        call("values of a width of 6", 2, 2, 8, "float32", value_width=6),
        call("keys of another dtype", 2, 2, 8, "float32", key_dtype="float16"),
        call("values of another dtype", 2, 2, 8, "float32", value_dtype="float16"),
        call("a mask, causal, unequal lengths", 2, 3, 8, "float16", np.ones((2, 3)), True),
        call("lengths and an empty row", 3, 2, 8, "float32", causal=True,
             kernels=[BLOCKS | {"unequal": False}]),
        call("causal, the first query sees one key", 3, 3, 8, "float32", causal=True),
        call("a key that nobody sees", 3, 3, 8, "float32", [[1, 0, 0], [1, 1, 0], [1, 1, 0]]),
        call("a query that sees nothing", 3, 3, 8, "float32", [[1, 1, 1], [0, 0, 0], [1, 1, 1]]),
        call("a mask that hides nothing", 2, 3, 8, "float16", np.ones((2, 3))),
        call("an empty row in the mask", 2, 3, 8, "float32", [[1, 1, 0], [0, 0, 0]]),
        call("more queries than keys, causal", 5, 3, 8, "float16", causal=True),
        call("more keys than queries, causal", 3, 5, 8, "float16", causal=True),
        call("more queries than keys", 5, 3, 8, "float16"),
        call("a mask and causal, empty together", 3, 3, 8, "float32",
             [[0, 1, 1], [1, 0, 0], [0, 0, 1]], True),
        call("a mask that hides the first key, not causal", 2, 2, 8, "float32", [[0, 1], [1, 1]]),
        call("a mask of one row, causal", 3, 3, 8, "float32", [[0, 1, 1]], True),
        call("a mask of one column", 3, 2, 8, "float32", [[1], [0], [1]]),
        call("the second head sees nothing once", 2, 2, 8, "float32",
             [[[1, 1], [1, 0]], [[0, 0], [1, 1]]], lead=(2,)),
        call("no keys at all", 4, 0, 8, "float16"),
        call("another order", 2, 2, 8, "float32", kernels=[STORED, SPLIT, TILES, BLOCKS]),
        *[random_call] * 6,
    ],
    mistakes=[
        edit("visible.any(axis=-1).all()", "(mask is None or np.any(mask, axis=-1).all())",
             says="your empty rows are those of the mask alone",
             next="causal hides keys too: join both, then look for rows without a True"),
        edit("visible & mask", "visible",
             says="your empty rows are those of causal alone",
             next="join the mask by &"),
        edit("empty = not visible.any(axis=-1).all()",
             "empty = not visible.any(axis=-1).all() if mask is None else not ("
             "np.broadcast_to(mask, np.broadcast_shapes(mask.shape, visible.shape)).any(axis=-1)"
             ".all() and np.tri(n_queries, n_keys, n_keys - n_queries if causal else n_keys)"
             ".any(axis=-1).all())",
             says="your mask and your causal rows are looked at one after the other",
             next="a query may lose some keys to the one and the rest to the other: join first"),
        edit(CAUSAL, "0 if causal else n_keys",
             says="your causal query i sees keys up to i, though the lengths differ",
             next="the last query sees the last key: j <= i + Tk - Tq"),
        edit("axis=-1).all()", "axis=-1).any()",
             says="your call counts as empty only if no query sees a key",
             next="one query without a key is enough"),
        edit("axis=-1).all()", "axis=-2).all()",
             says="your empty ones are keys that nobody sees",
             next="a row of the mask is a query: any(axis=-1)"),
        edit("(q.shape[-1], v.shape[-1])", "(q.shape[-1],)",
             says="your width is that of q and k alone",
             next="v may have another: look at both"),
        edit("d <= kernel", "d < kernel",
             says="your widest width is too wide",
             next="out is what is above `widest`"),
        edit(" and d % kernel[\"multiple\"] == 0", "",
             says="your widths may be no multiple of `multiple`",
             next="ask for d % multiple == 0"),
        edit("q.dtype == k.dtype == v.dtype and ", "",
             says="your dtype is that of q alone",
             next="q, k and v must have the same"),
        edit("q.dtype == k.dtype == v.dtype and ", "q.dtype == k.dtype and ",
             says="your values may have any dtype",
             next="q, k and v must have the same"),
        edit("mask is None or kernel", "mask is None or np.all(mask) or kernel",
             says="your mask counts as none if it hides nothing",
             next="a kernel that takes no mask cannot look into it: only None is none"),
        edit("not causal or n_queries", "n_queries",
             says="your lengths matter although nothing is causal",
             next="only a causal call asks which query sits at which key"),
        edit("not causal or n_queries == n_keys", "not causal or n_queries <= n_keys",
             says="your lengths matter only with more queries than keys",
             next="Tq ≠ Tk, whichever is larger"),
        edit("            \"dtype\": q.dtype == k.dtype == v.dtype and q.dtype.name in "
             "kernel[\"dtypes\"],\n", "",
             "        lacks.append(",
             "        can[\"dtype\"] = q.dtype == k.dtype == v.dtype and q.dtype.name in "
             "kernel[\"dtypes\"]\n        lacks.append(",
             says="your dtype is looked at last",
             next="return the first that is lacking, in the order of the list"),
        edit("kernels[lacks.index(\"\")]",
             "kernels[max(i for i, lack in enumerate(lacks) if lack == \"\")]",
             says="your kernel is the last that can",
             next="the order of the list is that of preference: the first"),
        edit("n_keys - n_queries if causal else n_keys, dtype",
             "n_keys - n_queries if causal else 0, dtype",
             says="your calls are all causal",
             next="without causal each query sees all keys that the mask leaves"),
    ],
    alternatives=[kernel_by_kernel, row_by_row],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="15.5"
# ## 15.5 A guide that is nearly right
#
# *20 minutes · difficulty 2 of 3 · 3 points*
# · [section](../notebooks/15_choosing.ipynb#The-documents'-guides-on-trial)
#
# Causal attention of queries at the end of the keys: stored scores, tiles, or a window of
# `window` + 1 keys. The guide returns the seconds of each that fits. With one head, equal lengths
# and slow computing it is right.

# %% [markdown] role="prompt" exercise="15.5"
# What it should do, at two bytes a number: all n_queries · n_keys scores of each head are stored,
# moved four times, and have to fit into `memory`. Tiles and window compute only visible pairs. q,
# k, v and out are moved once, what no window reaches not at all.

# %% [markdown] role="prompt" exercise="15.5"
# Copy the code into the answer cell and repair its three bugs. Both lengths are at least 1 and
# either may be the larger: what of queries that come before the first key?


# %% role="prompt" exercise="15.5"
def broken_guide(n_queries, n_keys, heads, d, window, memory, peak, bandwidth):
    seen = np.arange(n_queries) + 1  # keys of each query
    scores = 2 * n_queries * n_keys
    pairs = {"stored": n_queries * n_keys, "tiles": seen.sum()}
    pairs["window"] = np.minimum(seen, window + 1).sum()
    rows = {"stored": n_keys, "tiles": n_keys, "window": n_queries + window}
    seconds = {}
    for way in pairs:
        held = scores if way == "stored" else 0
        flops = 4 * heads * d * pairs[way]
        moved = 4 * heads * d * (n_queries + rows[way]) + 4 * held
        if held <= memory:
            seconds[way] = float(max(flops / peak, moved / bandwidth))
    return seconds


# %% role="answer" exercise="15.5"
def mended_guide(n_queries, n_keys, heads, d, window, memory, peak, bandwidth):
    """Return the seconds of "stored", "tiles" and "window", of those that fit: a dict of floats."""
    # BEGIN SOLUTION
    seen = np.maximum(np.arange(n_queries) + 1 + n_keys - n_queries, 0)  # keys of each query
    scores = 2 * heads * n_queries * n_keys
    pairs = {"stored": n_queries * n_keys, "tiles": seen.sum()}
    pairs["window"] = np.minimum(seen, window + 1).sum()
    rows = {"stored": n_keys, "tiles": n_keys, "window": min(n_keys, n_queries + window)}
    seconds = {}
    for way in pairs:
        held = scores if way == "stored" else 0
        flops = 4 * heads * d * pairs[way]
        moved = 4 * heads * d * (n_queries + rows[way]) + 4 * held
        if held <= memory:
            seconds[way] = float(max(flops / peak, moved / bandwidth))
    return seconds
    # END SOLUTION


# %% role="check" exercise="15.5"
check("15.5")

# %% [markdown] role="hints" exercise="15.5"
# 1. Try each line with 2 heads, with 1 query and 9 keys, with a window wider than the text. Which
#    numbers should change and do not, or the other way round?
# 2. One bug is about heads, one about where queries sit, one about keys that are not there. After
#    the second, look at n_queries > n_keys: how many keys does the first query see?
# 3. Query i sees i + 1 + n_keys - n_queries keys, and never fewer than 0. Scores are those of all
#    heads. The window's rows of keys are at most n_keys.


# %% role="spec" exercise="15.5"
def guide_by_formulas(n_queries, n_keys, heads, d, window, memory, peak, bandwidth):
    """Count the pairs in closed form: triangles that are cut off."""

    def triangle(n):
        return max(n, 0) * (max(n, 0) + 1) // 2

    ahead = n_keys - n_queries
    tiles = triangle(n_keys) - triangle(ahead)
    hidden = triangle(n_keys - window - 1) - triangle(ahead - window - 1)
    row, scores = heads * d, heads * n_queries * n_keys
    ways = [
        ("stored", heads * n_queries * n_keys, n_keys, 8 * scores),
        ("tiles", heads * tiles, n_keys, 0),
        ("window", heads * (tiles - hidden), min(n_keys, n_queries + window), 0),
    ]
    return {
        name: max(4 * d * pairs / peak, (4 * row * (n_queries + keys) + more) / bandwidth)
        for name, pairs, keys, more in ways
        if more <= 4 * memory
    }


def guide_by_masks(n_queries, n_keys, heads, d, window, memory, peak, bandwidth):
    back = np.arange(n_queries)[:, None] + n_keys - n_queries - np.arange(n_keys)
    visible = {"stored": back == back, "tiles": back >= 0}
    visible["window"] = visible["tiles"] & (back <= window)
    reach = {way: n_keys for way in visible} | {"window": min(n_keys, n_queries + window)}
    seconds = {}
    for way, mask in visible.items():
        kept = mask.size * heads * 2 * (way == "stored")
        moved = 2 * heads * d * (2 * n_queries + 2 * reach[way]) + 4 * kept
        if kept <= memory:
            computing = 4 * heads * d * int(mask.sum()) / peak
            seconds[way] = max(computing, moved / bandwidth)
    return seconds


def random_question(rng):
    n_queries, n_keys, window = rng.integers(1, (200, 200, 300))
    heads, d, peak = rng.integers((2, 8, 20), (9, 70, 2000))
    n_queries = int(rng.choice([1, n_queries]))
    memory = int(2 * heads * n_queries * n_keys * rng.choice([0.5, 1, 9]))
    sizes = (int(x) for x in (n_queries, n_keys, heads, d, window))
    return *sizes, memory, float(peak), float(rng.integers(5, 60))


WHERE = "np.maximum(np.arange(n_queries) + 1 + n_keys - n_queries, 0)", "np.arange(n_queries) + 1"
HEADS = "2 * heads * n_queries * n_keys\n", "2 * n_queries * n_keys\n"
THERE = "min(n_keys, n_queries + window)", "n_queries + window"

Spec(
    kind="number",
    cases=[
        case("one token", 1, 1, 1, 2, 0, 2, 8.0, 8.0),
        case("one head, a slow chip", 40, 40, 1, 16, 5, 10**6, 300.0, 500.0),
        case("one head, a byte is lacking", 40, 40, 1, 16, 9, 3199, 300.0, 500.0),
        case("5 heads, memory for 4", 30, 30, 5, 64, 30, 8 * 900, 1e9, 3.0),
        case("3 heads, moving decides", 30, 30, 3, 64, 29, 10**6, 40.0, 3.0),
        case("decoding, one query", 1, 50, 2, 8, 9, 10**6, 2.0, 30.0),
        case("decoding, computing decides", 1, 300, 3, 8, 200, 10**6, 1.0, 900.0),
        case("decoding, moving decides", 1, 200, 2, 8, 20, 10**6, 1e6, 9.0),
        case("a piece of a prompt", 20, 70, 2, 8, 30, 50, 2.0, 90.0),
        case("a window wider than the text", 30, 30, 2, 4, 500, 10, 90.0, 5.0),
        case("a window that reaches the first key", 10, 40, 2, 4, 30, 10, 5000.0, 5.0),
        case("more queries than keys", 60, 20, 2, 8, 7, 10, 3.0, 70.0),
        case("far more queries than keys", 300, 2, 3, 4, 9, 10, 3.0, 70.0),
        case("stored scores fit to the byte", 12, 5, 7, 128, 30, 840, 1e9, 9.0),
        *draws(6, random_question),
    ],
    mistakes=[
        edit(*WHERE, *HEADS, *THERE,
             says="all three bugs are still there: your guide is the given one",
             next="try 1 query and 50 keys: how many of them does it see?"),
        edit(*WHERE, *HEADS,
             says="two bugs are left: heads, and where the queries sit",
             next="look at each line once with 2 heads, once with 1 query and 50 keys"),
        edit(*WHERE, *THERE,
             says="two bugs are left: where the queries sit, and keys that are not there",
             next="look at each line once with 1 query, once with a window wider than the text"),
        edit(*HEADS, *THERE,
             says="two bugs are left: heads, and keys that are not there",
             next="look at each line once with 2 heads, once with a window wider than the text"),
        edit(*WHERE,
             says="one bug is left: query i is taken to sit at key i",
             next="the queries stand at the end: n_keys - n_queries keys come before them"),
        edit(*HEADS,
             says="one bug is left: the scores are those of one head",
             next="each head has a matrix of its own"),
        edit(*THERE,
             says="one bug is left: a window moves keys that are not there",
             next="at most n_keys rows: min"),
        edit("np.maximum(np.arange(n_queries) + 1 + n_keys - n_queries, 0)",
             "np.arange(n_queries) + 1 + n_keys - n_queries",
             says="your queries before the first key see fewer than no keys",
             next="never below 0: np.maximum"),
        edit("np.maximum(np.arange(n_queries) + 1 + n_keys - n_queries, 0)",
             "np.maximum(np.arange(n_queries) + n_keys - n_queries, 0)",
             says="your queries do not see themselves",
             next="the last query sees all n_keys keys"),
        edit("np.maximum(np.arange(n_queries) + 1 + n_keys - n_queries, 0)",
             "np.minimum(np.arange(n_queries) + 1, n_keys)",
             says="your queries sit at the beginning, and are cut off at the end",
             next="the last query sees the last key: add n_keys - n_queries"),
        edit("n_keys - n_queries, 0)", "n_keys - n_queries, 1)",
             says="your queries before the first key see one key",
             next="they see none: 0"),
        edit("n_queries + window)", "n_queries + window + 1)",
             says="your window moves a key too many",
             next="n_queries positions and `window` before them: n_queries + window"),
        edit("held = scores if", "held = scores * heads if",
             says="your scores count the heads twice",
             next="heads once, in the line of the scores"),
        edit("min(n_keys, n_queries + window)", "n_keys",
             says="your window reads all keys",
             next="the first query reaches `window` keys back: n_queries + window, at most n_keys"),
        edit("min(n_keys, n_queries + window)", "min(n_keys, window + 1)",
             says="your window's keys are those of one query",
             next="n_queries queries slide over n_queries + window keys"),
        edit("max(flops / peak, moved / bandwidth)", "(flops / peak + moved / bandwidth)",
             says="your seconds are a sum",
             next="computing and moving overlap: the larger of the two, as given"),
        edit('"stored": n_queries * n_keys, "tiles"', '"stored": seen.sum(), "tiles"',
             says="your stored scores are computed only where they are visible",
             next="a mask saves nothing: the given line was right"),
    ],
    alternatives=[guide_by_formulas, guide_by_masks],
)  # fmt: skip

# %% [markdown] role="prompt" exercise="15.6"
# ## 15.6 Design attention for a document
#
# *30 minutes · difficulty 3 of 3 · 4 points*
# · [section](../notebooks/15_choosing.ipynb#Capstone:-read-one-document)
#
# The course's model reads 288 tokens of a text that it never saw, then 8 quotes from the first
# third. Four tokens say what is quoted; does it know the other eight? Design its attention: a
# mechanism for each of four layers.

# %% [markdown] role="prompt" exercise="15.6"
# Return four pairs, a mechanism of the catalogue and its knobs:
# `[("flash", {}), ("window", {"window": 100}), …]`. Any design passes that has, beside full
# attention, at most
#
# - 0.25 nats a token more on each document, 0.9 on its quotes;
# - 45 % of the bytes kept;
# - 5 % of the time on an RTX 4060 Laptop.

# %% [markdown] role="prompt" exercise="15.6"
# Bytes are counted by `kept`, for the document and for 4,096 tokens and more. The time, for the
# latter, is predicted by `cost`, the least that the device can need in float16: no clock is asked.
# Try designs in cells of your own: `try_design([("full", {})] * 4)`.


# %% role="prompt" exercise="15.6"
def taken(one, n, device=DEVICES["RTX 4060 Laptop"]):
    """Return the bytes that a model keeps of n tokens, and the least seconds to read them."""
    sizes = {"heads": one.shape.n_heads, "width": one.shape.head_width}
    kept = sum(each.kept(n, **sizes) for each in one.attention)
    costs = [each.cost(n, **sizes) for each in one.attention]
    return np.array([kept, sum(cost.seconds(device, "float16") for cost in costs)])


# %% role="prompt" exercise="15.6"
def try_design(design, seed=0):
    """Print what a design does on another document, beside full attention."""
    full = changed = model.load()
    for layer, (stem, knobs) in enumerate(design):
        changed = changed.swap(stem, layers=layer, **knobs)
    for name, one in (("full attention", full), ("this design", changed)):
        page, quotes = probes.quoted(one, model.held_out()[0], seed=seed)
        print(f"{name}: {page:.2f} nats a token, {quotes:.2f} on the quotes")
    for n in (384, 4096, 16_384):
        kept, seconds = taken(changed, n) / taken(full, n)
        print(f"{n:6,} tokens: {kept:.0%} of the bytes kept, {seconds:.1%} of the time")


# %% role="answer" exercise="15.6"
def design_attention():
    """Return four pairs (mechanism, knobs), one for each layer, the first layer first."""
    # BEGIN SOLUTION
    near, far = ("window", {"window": 24}), ("quantised_cache", {})
    return [near, near, far, far]
    # END SOLUTION


# %% role="check" exercise="15.6"
check("15.6")

# %% [markdown] role="hints" exercise="15.6"
# 1. Give one layer after the other a window of 16, and the others full attention. Which of them
#    have to see the line that is quoted?
# 2. The last two layers look far back, the first two do not. Two layers with all keys and values
#    are half of the bytes: which mechanism keeps each of them in fewer bits?
# 3. Layers 0 and 1 get ("window", {"window": 24}). Of layers 2 and 3, which must be able to look at
#    any token, at least one gets ("quantised_cache", {}), the other may be ("flash", {}).


# %% role="spec" exercise="15.6"
MOST = np.array([0.25, 0.9])  # nats a token above full attention: the document, its quotes
MEASURED = {}  # by design and what was measured: the same design comes again and again


@functools.cache
def small():
    return model.load()


@functools.cache
def ids_of(text):
    return small().encode(model.held_out()[text])


def once(measure, changed, *where):
    key = pickle.dumps((measure.__name__, [(a.stem, a.knobs) for a in changed.attention], where))
    if key not in MEASURED:
        MEASURED[key] = np.array(measure(changed, *where))
    return MEASURED[key]


def taken(changed, n, device=DEVICES["RTX 4060 Laptop"]):
    """Return the bytes that a model keeps of n tokens, and the least seconds to read them."""
    sizes = {"heads": changed.shape.n_heads, "width": changed.shape.head_width}
    costs = [each.cost(n, **sizes) for each in changed.attention]
    kept = sum(each.kept(n, **sizes) for each in changed.attention)
    return kept, sum(cost.seconds(device, "float16") for cost in costs)


def lost(changed, text, seed):
    return probes.quoted(changed, ids_of(text), seed=seed)


def well_designed(n, text, seed):
    fine = {"design": "four pairs of a mechanism and its knobs"}
    fine["bytes kept"] = "at most 45 % of full attention's"
    if n > 384:
        return fine | {"time on an RTX 4060 Laptop": "at most 5 % of full attention's"}
    above = "at most {} nats a token above full attention"
    return fine | {"document": above.format(MOST[0]), "quotes": above.format(MOST[1])}


def unfit(design):
    """Say why a design is none, and what to do about it: None if it is one."""
    n_layers = small().shape.n_layers
    four = "return a list of four pairs, one for each layer"
    if design is None:
        return "None", "a function without a `return` returns None", four
    if not isinstance(design, list | tuple):
        return f"{design!r:.80}", "", four
    if len(design) == 2 and isinstance(design[0], str):
        return f"{design!r:.80}", "your design is one pair", four
    if len(design) != n_layers:
        return f"{design!r:.80}", f"your design has {len(design)} entries, not {n_layers}", four
    changed = small()
    for layer, pair in enumerate(design):
        if not (
            isinstance(pair, list | tuple)
            and list(map(type, pair)) == [str, dict]
            and all(isinstance(name, str) for name in pair[1])
        ):
            step = 'write each layer as a name and a dict: ("window", {"window": 100})'
            return f"{pair!r:.80}", f"what stands for layer {layer} is no such pair", step
        stem, knobs = pair
        if stem not in MECHANISMS or not MECHANISMS[stem].causal:
            here = [name for name, each in MECHANISMS.items() if each.causal]
            step, what = f"a layer can have {', '.join(here)}", f"{stem!r:.40} in layer {layer}"
            if stem in MECHANISMS:
                return what, f"{stem} cannot be causal, and this model must be", step
            near = difflib.get_close_matches(stem, here, n=1)
            meant = f": is {near[0]} meant?" if near else ""
            return what, f"the catalogue has no such mechanism{meant}", step
        try:
            changed = changed.swap(stem, layers=layer, **knobs)
        except (TypeError, ValueError) as error:
            what, _, known = str(error).removeprefix("model.swap: ").partition("; it has ")
            step = f"its knobs are {known}" if known != "none" else "give it an empty dict: {}"
            return what, f"a knob of layer {layer} is unknown", step
        try:
            taken(changed, 1)
            changed.row_losses(ids_of(2)[None, :9])
        except Exception as error:  # whatever a mechanism does with a value that it cannot have
            usual = MECHANISMS[stem].values
            told = ", ".join(f"{name} = {usual[name]}" for name in knobs if name in usual)
            cause = f"a knob of layer {layer} has a value that {stem} cannot use"
            step = f"the catalogue has {told}" if told else "choose another value, or leave it out"
            return str(error).removeprefix("model.swap: "), cause, step
    return None


def swapped(design):
    changed = small()
    for layer, (stem, knobs) in enumerate(design):
        changed = changed.swap(stem, layers=layer, **knobs)
    return changed


def drive_design(answer, n, text, seed):
    """Return what `well_designed` does, but the first limit that is broken as it is."""
    fine, design = well_designed(n, text, seed), answer()
    if why := unfit(design):
        return fine | {"design": why[0]}
    changed = swapped(design)
    kept, seconds = once(taken, changed, n) / once(taken, small(), n)
    if kept > 0.45:
        return fine | {"bytes kept": f"{kept:.0%} of full attention's"}
    if n > 384:
        slow = {"time on an RTX 4060 Laptop": f"{seconds:.0%} of full attention's"}
        return fine | (slow if seconds > 0.05 else {})
    above = once(lost, changed, text, seed) - once(lost, small(), text, seed)
    for name, nats, most in zip(("document", "quotes"), above, MOST, strict=True):
        if nats > most:
            return fine | {name: f"{nats:.2f} nats a token above full attention"}
    return fine


def explain_design(answer, n, text, seed):
    """Return why a design breaks a limit, measured on its own layers, and the next step."""
    design = answer()
    if why := unfit(design):
        return why[1:]
    changed = swapped(design)
    kept, _ = once(taken, changed, n) / once(taken, small(), n)
    if kept > 0.45:
        return too_many_bytes(changed, n)
    if n > 384:
        return too_slow(changed, n)
    return too_much_lost(changed, text, seed)


def named(layers):
    *most, last = map(str, layers)
    return f"layers {', '.join(most)} and {last}" if most else f"layer {last}"


def alone(changed, n):
    """Return the bytes and the seconds of each layer, as parts of a layer of full attention."""
    full = once(taken, small(), n) / len(changed.attention)
    layers = [replace(changed, attention=(each,)) for each in changed.attention]
    return np.array([once(taken, each, n) / full for each in layers]).T


def too_many_bytes(changed, n):
    kept, _ = alone(changed, n)
    each = ", ".join(f"{share:.0%}" for share in kept)
    cause = f"of a layer of full attention yours keep {each}, one after the other"
    much = np.flatnonzero(kept > 0.4)
    if len(much) > 2:
        cause += f"; much is kept in {named(much)}"
        return cause, "two of them need only the tokens nearby"
    others = "quantised_cache", "linear", "performer"
    whole = [layer for layer in much if changed.attention[layer].stem not in others]
    if whole:
        cause += f"; keys and values have 16 bits in {named(whole)}"
        return cause, "the catalogue has a cache of 8 bits: quantised_cache"
    most = int(kept.argmax())
    step = f"{changed.attention[most].stem} in layer {most} keeps most: begin there"
    if changed.attention[most].stem == "quantised_cache":
        step += "; its last group stands in 16 bits"
    return cause, step


def too_slow(changed, n):
    _, seconds = alone(changed, n)
    most = int(seconds.argmax())
    heads, device = small().shape.n_heads, DEVICES["RTX 4060 Laptop"]
    cost = changed.attention[most].cost(n, heads=heads, width=small().shape.head_width)
    moves = replace(cost, flops=0).seconds(device, "float16") == cost.seconds(device, "float16")
    stem = changed.attention[most].stem
    cause = f"layer {most}, {stem}, takes {seconds[most]:.0%} of a layer of full attention"
    if moves and cost.bytes_read + cost.bytes_written >= 2 * heads * n**2:
        cause += ": it stores its scores, and moving them takes its time"
        return cause, "attention in tiles stores none: flash"
    cause += f": {'moving' if moves else 'computing'} takes its time"
    return cause, "ask `cost` what another mechanism takes there"


def too_much_lost(changed, text, seed):
    """Find the fewest layers that full attention must replace, and look at what they do."""

    def above(stem, layers, **knobs):
        return once(lost, changed.swap(stem, layers=layers, **knobs), text, seed) - full

    full, n_layers = once(lost, small(), text, seed), len(changed.attention)
    for size in range(1, n_layers + 1):
        sets = list(itertools.combinations(range(n_layers), size))
        left = [(above("full", layers) / MOST).max() for layers in sets]
        if min(left) <= 1:
            break
    spoilers = sets[int(np.argmin(left))]
    short = [layer for layer in spoilers if not reaches(changed.attention[layer])]
    narrow = bool(short) and (above("window", short, window=24) <= MOST).all()
    reasons = {}
    for layer in spoilers:
        reasons.setdefault(shortcoming(changed.attention[layer], narrow), []).append(layer)
    causes = [f"{cause} {named(layers)}" for (cause, _), layers in reasons.items()]
    step = next(iter(reasons))[1]
    return f"{'; '.join(causes)}: with full attention there, both limits hold", step


@functools.cache
def some_tokens():
    return np.random.default_rng(0).standard_normal((3, 4, 384, 32)).astype(np.float32)


def reaches(attention):
    """Whether what a quote's tokens get depends on the page's first third."""
    q, k, v = some_tokens()
    changed = v.copy()
    changed[:, :96] += 1
    return not np.array_equal(attention(q, k, v)[:, 288:], attention(q, k, changed)[:, 288:])


def shortcoming(attention, narrow):
    """Return what a layer fails at, to be followed by its name, and the next step."""
    stem, knobs, (q, k, v) = attention.stem, attention.knobs, some_tokens()
    if np.allclose(attention(q, k, v), v, atol=1e-5):
        step = "finding a line needs the token before: a window of some tokens"
        return "each token sees only itself in", step
    if not reaches(attention):
        if narrow:
            return "too few tokens are seen in", "let more of those nearby be seen"
        step = "the layers that find a line must see every token: spend the bytes there"
        return "the quoted line is out of reach of", step
    if stem == "linear":
        step = "a window keeps the softmax, and some layers look nearby"
        return "the weights were trained for a softmax, and it is linear in", step
    if stem == "grouped":
        step = "without training again keep all heads: where can tokens be left out?"
        return "keys and values that were never trained to be shared are shared in", step
    if stem == "pooled":
        step = "they must be seen each on its own"
        return f"tokens cannot be copied from means of {knobs['pool']} in", step
    return f"too much is lost by {stem} in", "try there what is nearer to full attention"


def one_rounded():
    return [("window", {"window": 16})] * 2 + [("flash", {}), ("quantised_cache", {})]


def best_keys_far():
    near = "longformer", {"window": 16, "global_tokens": 4}
    return (near, near, ("topk", {"keep": 16}), ("quantised_cache", {"group": 32}))


def with_a_segment():
    near = ("segment", {"chunk": 16, "memory": 16}), ("window", {"window": 16})
    return [*near, ("quantised_cache", {}), ("chunked", {})]


def document_case(name, text, seed):
    return case(name, 384, text, seed)


def drawn_document(rng):
    text, seed = (int(x) for x in rng.integers((1, 100), (5, 10**6)))
    return document_case(f"random, a document of text {text}", text, seed)


SOLVED = "[near, near, far, far]"

Spec(
    kind="number",
    drive=drive_design,
    explain=explain_design,
    reference=well_designed,
    cases=[
        document_case("a document from sched", 2, 0),
        document_case("a document from textwrap", 4, 8),
        drawn_document,
        *(case(f"{n:,} tokens", n, 0, 0) for n in (4096, 8192, 16_384, 65_536)),
    ],
    mistakes=[
        edit(SOLVED, "[near] * 4",
             says="the quoted line is out of reach of layer",
             next="the layers that find a line must see every token: spend the bytes there",
             also=[edit(SOLVED, other) for other in (
                 "[far, far, near, near]",
                 "[near, near, near, far]",
                 "[near, near, far, near]",
                 '[("window", {"window": 160})] * 4',
             )]),
        edit(SOLVED, "[far] * 4",
             says="much is kept in layers 0, 1, 2 and 3",
             next="two of them need only the tokens nearby",
             also=[edit(SOLVED, '[("full", {})] * 4')]),
        edit("quantised_cache", "flash",
             says="keys and values have 16 bits in layers 2 and 3",
             next="the catalogue has a cache of 8 bits: quantised_cache",
             also=[edit('"quantised_cache", {}', '"window", {"window": 380}')]),
        edit(SOLVED, '[near, near, ("full", {}), far]',
             says="it stores its scores, and moving them takes its time",
             next="attention in tiles stores none: flash"),
        edit(SOLVED, '[("linear", {})] * 2 + [far, far]',
             says="the weights were trained for a softmax, and it is linear in",
             next="a window keeps the softmax, and some layers look nearby"),
        edit(SOLVED, '[near, near, ("grouped", {"groups": 2}), ("grouped", {"groups": 2})]',
             says="keys and values that were never trained to be shared are shared in",
             next="without training again keep all heads: where can tokens be left out?"),
        edit(SOLVED, '[near, near, ("pooled", {"pool": 8}), ("pooled", {"pool": 8})]',
             says="tokens cannot be copied from means of 8 in",
             next="they must be seen each on its own"),
        edit('{"window": 24}', '{"window": 0}',
             says="each token sees only itself in",
             next="finding a line needs the token before: a window of some tokens"),
        edit('{"window": 24}', '{"window": 1}',
             says="too few tokens are seen in",
             next="let more of those nearby be seen"),
        edit(SOLVED, "near",
             says="your design is one pair",
             next="return a list of four pairs, one for each layer"),
    ],
    alternatives=[one_rounded, best_keys_far, with_a_segment],
)  # fmt: skip

# %% [markdown]
# <details><summary>After your answer: why these two</summary>
#
# To go on with a quote, a layer marks each token with the one before it, which is near; a later one
# looks for the mark, which may be anywhere. [Chapter 14](../notebooks/14_quality.ipynb#Hybrids) has
# all such mixtures, before and after tuning.
#
# </details>

# %% [markdown]
# ## Your score
#
# Save the notebook, open a terminal (File › New › Terminal) and run
# `attncourse grade exercises/15_choosing.ipynb`. It runs a copy of the notebook from the top and
# prints the score; your file is not changed.
