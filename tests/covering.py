"""How much a run tries: each day every pair of values, at night every combination.

`make test-all` is a night: any run whose marker expression lets `nightly` in.
"""

import itertools

NIGHTLY = False  # conftest.py sets it, before any test is read


def is_night(markers: str) -> bool:
    """Say whether a marker expression, pytest's `-m`, lets tests in that are marked nightly."""
    return not markers or "nightly" in markers.replace("not nightly", "")


def by_day(day, night):
    """Return what a day tries, or what a night does."""
    return night if NIGHTLY else day


def pairwise(**axes):
    """Return few combinations, as dicts, in which every two values of two axes meet.

    They are always the same; at night they are all there are.
    """
    sizes = [range(len(values)) for values in axes.values()]
    rows = list(itertools.product(*sizes))
    if not NIGHTLY and len(axes) > 2:  # two axes have no fewer
        rows = _covering(rows)
    return [{name: axes[name][at] for name, at in zip(axes, row, strict=True)} for row in rows]


def _covering(rows):
    """Take rows until no pair is missing, each time one that brings most of those missing."""
    pairs = {row: set(itertools.combinations(enumerate(row), 2)) for row in rows}
    missing, chosen = set().union(*pairs.values()), []
    while missing:
        best = max(rows, key=lambda row: len(pairs[row] & missing))
        missing -= pairs[best]
        chosen.append(best)
    return sorted(chosen)
