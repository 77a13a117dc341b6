"""Guess before you look: a number is committed to, then guess and answer stand on one axis."""

from __future__ import annotations

import asyncio
import contextlib
import html
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import ipywidgets
from IPython import get_ipython

from attncourse import plots, progress
from attncourse.units import format_quantity, parse_quantity
from attncourse.widgets import outputs, parts

TEXT_SECONDS = 0.2  # how long Enter or a click waits for the text that belongs to it
LEAST, LARGEST = 1e-30, 1e30
LIMITS = "above 1e-30 and below 1e30"
FACTORS = ("", "times")
FEW = ("texts", "arrays", "layers", "words")  # things of which there are no millions
EXAMPLES = {
    "B": ("4 MiB", "3 GB", "4e6"),
    "s": ("3 ms", "0.5 s"),
    "%": ("40 %", "0.5 %"),
    "nats": ("1.5", "0.02"),
} | dict.fromkeys(FACTORS, ("12", "1/3")) | dict.fromkeys(FEW, ("12", "150"))  # fmt: skip


def _steps(digits: tuple[int, ...], base: float, powers: range) -> list[float]:
    return [digit * base**power for power in powers for digit in digits]


# What the slider offers depends on the unit alone: it must say nothing of the answer.
STEPS = {
    "B": _steps((1,), 2.0, range(51)),
    "s": _steps((1, 2, 5), 10.0, range(-9, 6)),
    "%": _steps((1, 2, 5), 10.0, range(-3, 3)),
    "nats": _steps((1, 2, 5), 10.0, range(-4, 1)),
}
STEPS |= dict.fromkeys(FACTORS, _steps((1, 2, 5), 10.0, range(-2, 4)))
STEPS |= dict.fromkeys(FEW, _steps((1, 2, 5), 10.0, range(5)))
COUNTS = _steps((1, 2, 5), 10.0, range(16))


class Guess(ipywidgets.VBox):
    """A question, a field and a slider for a number; after the commit, the answer beside it.

    Attributes:
        question: What is asked.
        field: The number as it is typed; Enter commits it.
        slider: Round numbers over all that the unit may hold; it writes into the field.
        button: Commits what the field says.
        former: Shows the guess of an earlier run again.
        twin: What is said, in an HTML element with role="status".
        image: The picture of guess and answer; its alternative text is the sentence.
        explanation: What explains the answer.
        text: The sentence itself.
    """

    def __init__(
        self,
        question: str,
        answer: float | Callable[[], float],
        unit: str,
        explain: str | Callable | None,
    ):
        """Ask; nothing is computed or shown before a number is committed."""
        self.question, self.unit = question, unit
        self._answer, self._explain = answer, explain
        self._examples = EXAMPLES.get(unit, ("12", "4e6", "3 million"))
        self._waiting: asyncio.TimerHandle | None = None
        self._doubted = ""  # the text that was asked back for
        self._following = False  # whether field or slider moves because the other did
        self._outputs: list[outputs.Output] = []
        self.field = ipywidgets.Text(
            description="Your guess",
            placeholder=f"such as {_either(self._examples)}",
            continuous_update=False,
        )
        steps = STEPS.get(unit, COUNTS)
        symbol = unit if unit in ("B", "s", "%") else ""
        self.slider = ipywidgets.SelectionSlider(
            options=[(format_quantity(step, symbol), step) for step in steps],
            value=steps[len(steps) // 2],
            description="or slide",
            readout=False,  # the field shows the number, and has the room
        )
        for control in (self.field, self.slider):
            control.layout.width, control.layout.max_width = "25em", "100%"
        self.button = ipywidgets.Button(description="Commit", button_style="primary")
        self.former = ipywidgets.Button(description="Show my guess")
        self.twin, self.image = ipywidgets.HTML(), ipywidgets.HTML()
        self.explanation = ipywidgets.Output()
        self.field.observe(self._typed, names="value")
        self.field.on_msg(self._entered)
        self.slider.observe(self._slid, names="value")
        self.button.on_click(self._soon)
        self.former.on_click(self._remembered)
        controls = [self.field, self.slider, self.button]
        self._counts = progress.load().guesses.get(question)
        if self._counts:
            controls.append(self.former)
            self.button.description = "Try again"
            self._say("You have guessed this before, and the first guess counts; try again freely.")
        else:
            self._say("Commit to a number, and the answer appears. The first guess counts.")
        asked = f'<p style="margin: 0"><b>Guess first:</b> {html.escape(question)}</p>'
        row = ipywidgets.HBox(controls, layout={"flex_flow": "row wrap"})
        super().__init__([ipywidgets.HTML(asked), row, self.twin, self.image, self.explanation])
        self.add_class("attncourse-guess")

    def __repr__(self) -> str:
        asked = f"Guess first: {self.question} Run this cell, and a field for your number appears."
        return f"{asked} Where none does, type in the next cell: _.commit({self._examples[0]!r})"

    _repr_mimebundle_ = parts.bundle

    def commit(self, guess: float | str) -> None:
        """Commit to a number where no widget is shown, and print what it would show.

        Args:
            guess: A number in the unit of the question, or a text such as "4 MiB".

        Raises:
            Exception: As `widgets.guess` says.
        """
        self._outputs = []
        try:
            self._commit(str(guess))
        finally:
            print(self.text)
        for output in self._outputs:
            outputs.show(output)

    # A browser may send Enter or the click first, and then the text if it is not the one sent last;
    # so both wait for it. A text that comes alone was left without either: it is no commit.

    def _entered(self, widget: object, content: dict, buffers: object) -> None:
        if content.get("event") == "submit":
            self._soon()

    def _soon(self, button: object = None) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._pressed()
        else:
            self._waiting = self._waiting or loop.call_later(TEXT_SECONDS, self._pressed)

    def _typed(self, change: object) -> None:
        if self._following:
            return
        with contextlib.suppress(ValueError):
            said = self._read(self.field.value)
            steps = [step for _, step in self.slider.options]
            self._follow(self.slider, min(steps, key=lambda step: abs(math.log(step / said))))
        if self._waiting:
            self._pressed()

    def _slid(self, change: object) -> None:
        if not self._following:
            self._follow(self.field, self.slider.label)

    def _follow(self, control: ipywidgets.Widget, value: Any) -> None:
        self._following = True
        control.value = value
        self._following = False

    def _pressed(self) -> None:
        if self._waiting:
            self._waiting.cancel()
            self._waiting = None
        self._commit(self.field.value)

    def _remembered(self, button: object) -> None:
        if self._counts:
            self._settle(self._counts.guess)

    # From a text to the answer

    def _read(self, text: str) -> float:
        said = parse_quantity(text, self.unit)
        if not LEAST < said < LARGEST:
            raise ValueError
        return said

    def _commit(self, text: str) -> None:
        try:
            said = self._read(text)
        except ValueError:
            self._say(self._refusal(text))
        else:
            signed = "%" in text or "percent" in text.lower()
            if self.unit == "%" and said < 1 and not signed and text != self._doubted:
                self._doubted = text
                either = " or ".join(format_quantity(n, "%") for n in (said, 100 * said))
                self._say(f"Do you mean {either}? Write the sign.")
            else:
                self._settle(said)

    def _refusal(self, text: str) -> str:
        with contextlib.suppress(ValueError):
            if parse_quantity(text, self.unit) == 0:
                return (
                    "A guess is compared by its factor, so it must be above 0: try a small number."
                )
            return f"A guess must be {LIMITS}."
        kind = {"B": " of bytes", "s": " of seconds"}.get(self.unit, "")
        return f"A guess is a number{kind} above 0, such as {_either(self._examples)}."

    def _settle(self, said: float) -> None:
        self.button.disabled = True
        self._say("One moment …")
        try:
            found = self._answer() if callable(self._answer) else self._answer
            answer = _checked(found, self.question)
        except KeyboardInterrupt:
            self._say("Stopped.")
            return
        except BaseException as error:
            self._say(f"The answer cannot be found. {type(error).__name__}: {error}")
            raise
        finally:
            self.button.disabled = False
        self._counts = progress.record_guess(self.question, said, answer)
        self.button.description = "Try again"
        part = "picture"
        try:
            self._reveal(said, float(answer), self._counts.guess)
            part = "explanation"
            self._outputs = outputs.captured(self._explain, answer)
        except Exception as error:
            self._say(f"{self.text} The {part} cannot be shown. {type(error).__name__}: {error}")
            raise
        self.explanation.outputs = tuple(self._outputs)

    def _reveal(self, said: float, answer: float, first: float) -> None:
        decimal = _is_decimal(said)
        sentence, between = compare(said, answer, self.unit)
        if first != said:
            words = format_quantity(first, self.unit, decimal=_is_decimal(first))
            sentence += f" Your first guess, {words}, is the one that counts."
        self._say(sentence)
        self.image.value = ""
        axes = plots.guess(said, answer, unit=self.unit, decimal=decimal, between=between)
        figure = axes.get_figure()
        self.image.value = parts.picture(plots.png(figure), sentence, plots.css_width(figure))

    def _say(self, sentence: str) -> None:
        self.text = sentence
        self.twin.value = parts.status(sentence)


def guess(
    question: str,
    answer: float | Callable[[], float],
    *,
    unit: str = "",
    explain: str | Callable | None = None,
) -> Guess:
    """Ask for a number, and show the answer once the reader has committed to one.

    The first guess of a question is kept with the progress, under the question's text.

    Args:
        question: What is asked, without markup.
        answer: A number above 0, or a function without arguments that returns it; it is called
            only after the commit.
        unit: "B" for bytes, "s" for seconds, "%", "" for a plain number or a factor, or the word
            that stands after the number.
        explain: What stands under the answer: a sentence, or a function of the answer or of
            nothing; one that can do without gets nothing. What it displays is shown, and what it
            returns: a sentence, Axes or a figure.

    Returns:
        The guess; as the last line of a cell it appears. `commit` answers where it cannot.

    Raises:
        TypeError: An argument is none of the above.
        ValueError: `question` is empty, or the answer is not above 1e-30 and below 1e30; of a
            function that shows at the commit only.
        Exception: Whatever `answer` or `explain` raises, at the commit.
    """
    for name, given in (("question", question), ("unit", unit)):
        if not isinstance(given, str):
            raise TypeError(f"widgets.guess: {name} must be a text, got {given!r}")
    question = " ".join(question.split())
    if not question:
        raise ValueError("widgets.guess: question must ask something, got an empty text")
    if not callable(answer):
        _checked(answer, question)
    elif not outputs.takes(answer):
        raise TypeError(f"widgets.guess: answer must need no argument, got {answer!r}")
    if not (
        explain is None
        or isinstance(explain, str)
        or outputs.takes(explain)
        or outputs.takes(explain, 1.0)
    ):
        raise TypeError(
            "widgets.guess: explain must be a sentence or a function of the answer or of nothing, "
            f"got {explain!r}"
        )
    _set_free_last_outputs()
    return Guess(question, answer, unit, explain)


def _set_free_last_outputs() -> None:
    """Have IPython call this guess `_`, as is printed: a cell that sets `_` ends that for all."""
    if shell := get_ipython():
        for name in ("_", "__", "___"):
            shell.user_ns.pop(name, None)


def compare(said: float, answer: float, unit: str) -> tuple[str, str]:
    """Say how far a guess is from the answer: in a sentence, and the factor alone.

    Args:
        said: The guess, above 0.
        answer: The answer, above 0.
        unit: As in `units.format_quantity`.
    """
    guessed, right = (format_quantity(n, unit, decimal=_is_decimal(said)) for n in (said, answer))
    if guessed == right:
        return f"You said {guessed}, and {right} it is.", ""
    factor = max(said, answer) / min(said, answer)
    digits = f"{factor:.2g}" if factor < 9.95 else format_quantity(float(f"{factor:.3g}"))
    times = f"{digits} times"
    if factor <= 1.1:
        how_far = "right within a tenth"
    else:
        if unit == "times":  # "3 times … 2 times as much" would say two things by one word
            how_far = f"{'more' if said < answer else 'less'} by a factor of {digits}"
        else:
            how_far = f"{times} as much" if said < answer else f"your guess is {times} as much"
        how_far += ", within a factor of two" if factor <= 2 else ""
    return f"You said {guessed}; it is {right}: {how_far}.", times


def _is_decimal(n_bytes: float) -> bool:
    """Whether a number of bytes was meant in powers of 10: 4 MB, not the 3.8 MiB that it is."""
    return n_bytes >= 1000 and float(f"{n_bytes:.3g}") == n_bytes


def _checked(answer: Any, question: str) -> Any:
    what = f"widgets.guess: the answer to {question!r} must be"
    if not isinstance(answer, Real) or isinstance(answer, bool):
        raise TypeError(f"{what} a number, got {answer!r}")
    with contextlib.suppress(OverflowError):  # an integer too large for a float
        if LEAST < float(answer) < LARGEST:
            return answer
    raise ValueError(f"{what} {LIMITS}, got {answer!r}")


def _either(examples: tuple[str, ...]) -> str:
    return " or ".join(filter(None, (", ".join(examples[:-1]), examples[-1])))
