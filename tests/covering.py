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


def product(**axes):
    """Return all combinations of the values, as dicts."""
    return [dict(zip(axes, row, strict=True)) for row in itertools.product(*axes.values())]


def pairwise(**axes):
    """Return few combinations, as dicts, in which every two values of two axes meet.

    They are always the same; at night they are all there are.
    """
    rows = product(**axes)
    if NIGHTLY or len(axes) < 3:  # two axes have no fewer
        return rows
    places = itertools.product(*(range(len(values)) for values in axes.values()))
    pairs = [set(itertools.combinations(enumerate(place), 2)) for place in places]
    missing, chosen = set().union(*pairs), []
    while missing:
        best = max(range(len(rows)), key=lambda at: len(pairs[at] & missing))
        missing -= pairs[best]
        chosen.append(best)
    return [rows[at] for at in sorted(chosen)]
