"""Exercise 01.1: what training holds, with all its factors."""

from __future__ import annotations

from collections.abc import Callable

from numpy.random import Generator

from attncourse.grading.spec import Case, Exercise, Mistake


def training_bytes(
    n: int, batch: int, layers: int, heads: int, width: int, bytes_per_number: int
) -> dict:
    """Return the bytes that training a Transformer with Adam holds, part by part."""
    d = heads * width
    parameters = 12 * d**2 * layers
    parts = {
        "parameters": parameters * bytes_per_number,
        "gradients": parameters * bytes_per_number,
        "moments": parameters * 2 * 4,
        "rows": 4 * n * d * layers * batch * bytes_per_number,
        "weights": n**2 * heads * layers * batch * bytes_per_number,
    }
    return parts | {"total": sum(parts.values())}


def _by_layer(n, batch, layers, heads, width, bytes_per_number):
    model = 12 * (heads * width) * (heads * width)
    one_text = {"rows": 4 * n * heads * width, "weights": heads * n * n}
    result = {
        "parameters": layers * model * bytes_per_number,
        "gradients": layers * model * bytes_per_number,
        "moments": layers * model * 8,
    }
    for name, numbers in one_text.items():
        result[name] = batch * layers * numbers * bytes_per_number
    result["total"] = sum(result.values())
    return result


def _by_loop(n, batch, layers, heads, width, bytes_per_number):
    names = ("parameters", "gradients", "moments", "rows", "weights")
    result = dict.fromkeys(names, 0)
    for _ in range(layers):
        block = 12 * (heads * width) ** 2
        result["parameters"] += block * bytes_per_number
        result["gradients"] += block * bytes_per_number
        result["moments"] += 2 * block * 4
        result["rows"] += batch * 4 * n * heads * width * bytes_per_number
        result["weights"] += batch * heads * n * n * bytes_per_number
    return result | {"total": sum(result[name] for name in names)}


def _with(change: Callable) -> Callable:
    """Return `training_bytes` with some parts changed; the total follows."""

    def changed(n, batch, layers, heads, width, size):
        parts = training_bytes(n, batch, layers, heads, width, size)
        parts |= change(parts, n, batch, layers, heads, width, size)
        del parts["total"]
        return parts | {"total": sum(parts.values())}

    return changed


def _cases(generator: Generator) -> list[Case]:
    random = [tuple(int(x) for x in generator.integers(2, 40, 5)) for _ in range(3)]
    return [
        Case("1 of each", (1, 1, 1, 1, 1, 1)),
        Case("3 tokens, float32", (3, 1, 1, 1, 7, 4)),
        Case("5 heads, float16", (3, 1, 1, 5, 7, 2)),
        Case("11 layers", (3, 1, 11, 5, 7, 4)),
        Case("batch 13", (3, 13, 11, 5, 7, 4)),
        Case("BERT-base, 8 texts of 4096", (4096, 8, 12, 12, 64, 4)),
        *(Case(f"random sizes {sizes}, float16", (*sizes, 2)) for sizes in random),
    ]


TRAINING_BYTES = Exercise(
    id="01.1",
    chapter="01",
    title="The bill of training",
    function="training_bytes",
    kind="number",
    minutes=12,
    difficulty=1,
    points=2,
    hints=(
        "Write down for each part which of n, batch, layers and heads it has to be multiplied by.",
        "Parameters know neither n nor batch. Rows of q, k, v and out are heads · width numbers "
        "wide. Only the weights have n².",
        "parameters: 12·(heads·width)²·layers numbers; moments: 2·4 bytes for each of them, "
        "whatever bytes_per_number is; rows: 4·n·heads·width·layers·batch numbers; weights: "
        "n²·heads·layers·batch numbers.",
    ),
    reference=training_bytes,
    cases=_cases,
    mistakes=(
        Mistake(
            "heads forgotten",
            _with(lambda p, n, b, layers, h, w, s: {"weights": n * n * layers * b * s}),
            "your weights are those of a single head",
            "each head has a square of its own: multiply by heads",
        ),
        Mistake(
            "one head's width",
            _with(lambda p, n, b, layers, h, w, s: {"rows": 4 * n * w * layers * b * s}),
            "your rows are as wide as one head",
            "q, k, v and out of all heads are heads · width numbers wide",
        ),
        Mistake(
            "out forgotten",
            _with(lambda p, *_: {"rows": p["rows"] // 4 * 3}),
            "your rows count q, k and v, but not the output",
            "four arrays of rows are kept: q, k, v and out",
        ),
        Mistake(
            "one moment",
            _with(lambda p, *_: {"moments": p["moments"] // 2}),
            "your optimizer keeps one number for each parameter",
            "Adam keeps two: the mean of the gradients and the mean of their squares",
        ),
        Mistake(
            "moments in the numbers' type",
            _with(lambda p, n, b, layers, h, w, s: {"moments": p["moments"] // 4 * s}),
            "your moments take bytes_per_number each",
            "Adam's moments are float32 here, 4 bytes each, whatever the model's type is",
        ),
        Mistake(
            "layers forgotten",
            _with(
                lambda p, n, b, layers, h, w, s: {
                    "rows": p["rows"] // layers,
                    "weights": p["weights"] // layers,
                }
            ),
            "your activations are those of one layer",
            "training keeps them in all layers until the backward pass: multiply by layers",
        ),
        Mistake(
            "parameters for each text",
            _with(
                lambda p, n, b, *_: {
                    name: p[name] * b for name in ("parameters", "gradients", "moments")
                }
            ),
            "your model is held once for each text of the batch",
            "all texts share the parameters, gradients and moments",
        ),
        Mistake(
            "numbers instead of bytes",
            _with(
                lambda p, n, b, layers, h, w, s: {
                    name: p[name] // s for name in ("parameters", "gradients", "rows", "weights")
                }
            ),
            "you counted numbers, not bytes",
            "multiply by bytes_per_number",
        ),
    ),
    alternatives=(_by_layer, _by_loop),
)
