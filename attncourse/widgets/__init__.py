"""What a reader moves: sliders that redraw a figure, forms that run something, guesses.

No mathematics here: the function that a widget is given does what there is. What a widget shows
stands beside it as one sentence, which is all that a stored notebook keeps of it.
"""

from attncourse.widgets.explorer import Explorer, choice, explore
from attncourse.widgets.forms import Form, Table, form
from attncourse.widgets.guesses import Guess, guess
from attncourse.widgets.trials import in_a_real_model

__all__ = [
    "Explorer",
    "Form",
    "Guess",
    "Table",
    "choice",
    "explore",
    "form",
    "guess",
    "in_a_real_model",
]
