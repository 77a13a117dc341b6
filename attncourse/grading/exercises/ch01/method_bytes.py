"""Exercise 01.V6: full, window and linear attention at several lengths, from document 003."""

from __future__ import annotations

from collections.abc import Callable

from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake


def method_bytes(n: int, heads: int, width: int, window: int, bytes_per_number: int) -> dict:
    """Return what three methods hold, and what two of them save."""
    full = heads * n**2 * bytes_per_number
    local = heads * n * min(window, n) * bytes_per_number
    linear = heads * width**2 * bytes_per_number
    return {
        "full": full,
        "window": local,
        "linear": linear,
        "window_saving": 1 - local / full,
        "linear_saving": 1 - linear / full,
    }


def _by_numbers(n, heads, width, window, bytes_per_number):
    numbers = {"full": n * n, "window": n * (n if window > n else window), "linear": width * width}
    held = {name: heads * bytes_per_number * number for name, number in numbers.items()}
    savings = {
        f"{name}_saving": (held["full"] - held[name]) / held["full"]
        for name in ("window", "linear")
    }
    return held | savings


def _by_ratios(n, heads, width, window, bytes_per_number):
    full = n * n * heads * bytes_per_number
    keys = min(window, n)
    return {
        "full": full,
        "window": full * keys // n,
        "linear": heads * bytes_per_number * width * width,
        "window_saving": 1 - keys / n,
        "linear_saving": 1 - (width / n) ** 2,
    }


def _with(**held: Callable) -> Callable:
    """Return `method_bytes` with other bytes for some methods; the savings follow."""

    def changed(*sizes):
        result = method_bytes(*sizes) | {name: value(*sizes) for name, value in held.items()}
        for name in ("window", "linear"):
            result[f"{name}_saving"] = 1 - result[name] / result["full"]
        return result

    return changed


def _savings(change: Callable) -> Callable:
    def changed(*sizes):
        result = method_bytes(*sizes)
        return {
            name: change(value) if name.endswith("saving") else value
            for name, value in result.items()
        }

    return changed


def _cases(generator: Generator) -> list[Case]:
    cases = [
        Case("1 token", (1, 1, 1, 1, 1)),
        Case("5 tokens, 1 head, width 3", (5, 1, 3, 2, 2)),
        Case("7 heads", (5, 7, 3, 2, 4)),
        Case("window larger than n", (4, 2, 2, 9, 4)),
        Case("state larger than the matrix", (4, 2, 8, 2, 2)),
    ]
    cases += [Case(f"the document's n = {n}", (n, 12, 64, 256, 2)) for n in (512, 2048, 4096)]
    for _ in range(3):
        sizes = tuple(int(x) for x in generator.integers((300, 2, 8, 10), (3000, 17, 129, 200)))
        cases.append(Case(f"random {sizes}, float16", (*sizes, 2)))
    return cases


METHOD_BYTES = Exercise(
    id="01.V6",
    chapter="01",
    title="Three methods, three lengths",
    function="method_bytes",
    kind="number",
    minutes=8,
    difficulty=1,
    points=2,
    hints=(
        "How many numbers does one head hold in each method?",
        "n² scores; n·window scores, but never more than n for a query; a state of width × width.",
        "Multiply each by heads · bytes_per_number; a saving is 1 - held / full, and may be "
        "negative.",
    ),
    reference=method_bytes,
    cases=_cases,
    mistakes=(
        Mistake(
            "768 as a head",
            _with(linear=lambda n, heads, width, window, size: (heads * width) ** 2 * size),
            "your state is d × d for d = heads · width: one head as wide as the model",
            "each head has a width × width state: heads · width²",
        ),
        Mistake(
            "one head",
            lambda n, heads, *sizes: method_bytes(n, 1, *sizes),
            "your bytes are those of one head",
            "multiply by heads",
        ),
        Mistake(
            "state grows with n",
            _with(linear=lambda n, heads, width, window, size: heads * n * width * size),
            "your state grows with n: those are the keys, not their sum",
            "the state sums over all keys: width × width numbers, whatever n is",
        ),
        Mistake(
            "window not clipped",
            _with(window=lambda n, heads, width, window, size: heads * n * window * size),
            "your window holds more keys than there are",
            "a query sees at most n keys: min(window, n)",
        ),
        Mistake(
            "window on each side",
            _with(
                window=lambda n, heads, width, window, size: heads * n * min(2 * window, n) * size
            ),
            "your window has `window` keys on each side",
            "in this exercise it is the total",
        ),
        Mistake(
            "float32",
            lambda n, heads, width, window, size: method_bytes(n, heads, width, window, 4),
            "your numbers take 4 bytes always",
            "use bytes_per_number",
        ),
        Mistake(
            "share that is left",
            _savings(lambda saving: 1 - saving),
            "your savings are the shares that remain",
            "a saving is 1 - held / full",
        ),
        Mistake(
            "percent",
            _savings(lambda saving: 100 * saving),
            "your savings are in percent",
            "return shares",
        ),
    ),
    alternatives=(_by_numbers, _by_ratios),
)
