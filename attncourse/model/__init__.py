"""One small transformer, trained by this project on Python's standard library.

    from attncourse import model
    small = model.load()
    small.loss(text), small.swap("window", window=64).loss(text)
    widgets.in_a_real_model("window", model.trials(small, "window", window=[16, 64, 256]))

0.92 million weights, 4 layers of 4 heads, a context of 512 tokens. It is far too small to be
clever, and large enough to have what matters here: heads that look back one token, heads that copy,
heads that look around. All of it runs in NumPy; only training needs torch.
"""

from attncourse.model.corpus import held_out
from attncourse.model.decoder import Model, Shape
from attncourse.model.scores import copying, habits, induction, previous, repeated
from attncourse.model.together import Together, write_together
from attncourse.model.trial import Trial, compare, page, trial, trials
from attncourse.model.weights import load

__all__ = [
    "Model",
    "Shape",
    "Together",
    "Trial",
    "compare",
    "copying",
    "habits",
    "held_out",
    "induction",
    "load",
    "page",
    "previous",
    "repeated",
    "trial",
    "trials",
    "write_together",
]
