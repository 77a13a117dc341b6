"""Sliders bound to one draw function. No mathematics here: the draw function does what there is.

The figure is made once. A slider changes the data in it, the figure becomes a PNG, and the PNG
replaces the one in the page: some 40 ms, where a new figure takes three times as long. Whatever the
picture says stands under it as one sentence, which a screen reader speaks when it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Number
from typing import Any

import ipywidgets
from matplotlib.figure import Figure

from attncourse import plots
from attncourse.widgets import parts


class Explorer(ipywidgets.VBox):
    """Controls, a picture, and the sentence that says what the picture shows.

    Attributes:
        controls: The widget of each argument of the draw function.
        image: The picture; its alternative text is the sentence.
        twin: The sentence, in an HTML element with role="status".
        text: The sentence itself.
        png: The picture as PNG bytes.
    """

    def __init__(
        self,
        draw: Callable[..., str],
        figure: Figure,
        controls: dict[str, ipywidgets.Widget],
    ):
        """Draw once with the controls' first values, then follow them."""
        self.draw, self.drawn, self.controls = draw, figure, controls
        self.text, self.png = "", b""
        self.image, self.twin = ipywidgets.HTML(), ipywidgets.HTML()
        self._redraw()
        figure.set_layout_engine("none")  # it has been laid out; a redraw need not
        for control in controls.values():
            control.observe(self._redraw, names="value")
        # Side by side where there is room: controls, picture and sentence fit a laptop's screen.
        row = ipywidgets.HBox(list(controls.values()), layout={"flex_flow": "row wrap"})
        super().__init__([row, self.image, self.twin])

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the view, and the picture and its sentence for pages without a kernel."""
        about = {"alt": self.text, "width": plots.css_width(self.drawn)}
        data = parts.bundle(self) | {"image/png": self.png} | plots.caption(self.text)
        return data, {"image/png": about}

    def _redraw(self, change: object = None) -> None:
        try:
            self.text = self.draw(**{name: widget.value for name, widget in self.controls.items()})
            self.png = plots.png(self.drawn)
        except Exception as error:
            self._say(f"This setting cannot be drawn. {type(error).__name__}: {error}")
            raise
        self.image.value = parts.picture(self.png, self.text, plots.css_width(self.drawn))
        self._say(self.text)

    def _say(self, sentence: str) -> None:
        self.twin.value = parts.status(sentence)


def explore(draw: Callable[..., str], figure: Figure, **controls: Any) -> Explorer:
    """Let sliders redraw a figure.

    Args:
        draw: Takes one argument for each control, changes the data of what is drawn in `figure`,
            and returns one sentence saying what is now seen.
        figure: A figure outside pyplot, such as `plots.LiveMask(...).figure`.
        **controls: For each argument a widget with a value, or (low, high, step, value) for a
            slider, True or False for a checkbox, a list or a dict of choices as for `choice`, or a
            `Knob` of the catalogue. A trailing underscore in the name is not shown.

    Returns:
        The explorer; as the last line of a cell it appears.

    Raises:
        TypeError: `draw` returned no sentence, or a control is none of the above.
        Exception: Whatever `draw` raises, now or when a slider moves.
    """
    widgets = {name: _control(name, given) for name, given in controls.items()}
    return Explorer(_checked(draw), figure, widgets)


# Up to so many categories are radio buttons, which Tab and Space choose; in a drop-down list that
# is closed JupyterLab takes the arrow keys and the letters for itself.
RADIO = 6
ROW = 28  # letters that have room beside each other, with four for each button


def choice(options: list | dict[str, Any], value: Any) -> ipywidgets.Widget:
    """Return a control over choices that starts elsewhere than at the first.

    Three numbers or more have an order, and get a slider. Other values are categories, as two
    numbers are, and get radio buttons, or a drop-down list if they are many.

    Args:
        options: The values, or label -> value.
        value: The first value shown.
    """
    pairs = list(options.items()) if isinstance(options, dict) else options
    values = list(options.values()) if isinstance(options, dict) else options
    if len(values) > 2 and all(isinstance(one, Number) for one in values):
        return ipywidgets.SelectionSlider(options=pairs, value=value)
    kind = ipywidgets.RadioButtons if len(pairs) <= RADIO else ipywidgets.Dropdown
    return kind(options=pairs, value=value)


def _checked(draw: Callable[..., str]) -> Callable[..., str]:
    def checked(**values: Any) -> str:
        sentence = draw(**values)
        if not isinstance(sentence, str):
            raise TypeError(
                "widgets.explore: draw must return a sentence that says what is seen, "
                f"got {type(sentence).__name__}"
            )
        return sentence

    return checked


def _control(name: str, given: Any) -> ipywidgets.Widget:
    if isinstance(given, ipywidgets.Widget) and hasattr(given, "value"):
        control = given
    elif isinstance(given, bool):
        control = ipywidgets.Checkbox(given)
    elif isinstance(given, (list, dict)) and given:
        values = list(given.values()) if isinstance(given, dict) else given
        control = choice(given, values[0])
    elif hasattr(given, "low") and hasattr(given, "high"):
        control = _slider(given.low, given.high, given.step, given.value)
    elif isinstance(given, tuple) and len(given) == 4:
        control = _slider(*given)
    else:
        raise TypeError(
            f"widgets.explore: {name} must be a widget, (low, high, step, value), a bool, a list, "
            f"a dict or a Knob, got {given!r}"
        )
    control.description = control.description or name.strip("_").replace("_", " ")
    control.style.description_width = "8em"
    control.layout.width, control.layout.max_width = "28em", "100%"
    if isinstance(control, ipywidgets.RadioButtons):  # the name before the buttons, not above them
        control.layout.display, control.layout.flex_flow = "flex", "row"
        if sum(4 + len(label) for label in control._options_labels) <= ROW:
            control.orientation = "horizontal"
    return control


def _slider(low: float, high: float, step: float, value: float) -> ipywidgets.Widget:
    whole = all(isinstance(number, int) for number in (low, high, step, value))
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    return kind(value, min=low, max=high, step=step)
