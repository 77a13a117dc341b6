"""Choices that run something when a button is pressed, and the table that comes of it."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import ipywidgets

from attncourse.widgets import parts

SHORT = 12  # rows; a longer table scrolls in a box of its own


class Form(ipywidgets.VBox):
    """Choices and a button; pressed, it runs a function with them and shows the table it returns.

    Attributes:
        controls: The widget of each argument of the function.
        button: What starts it; it cannot be pressed while the function runs.
        twin: One sentence about the last run, in an HTML element with role="status".
        result: The table of the last run, as HTML.
        text: The sentence itself.
    """

    def __init__(
        self,
        run: Callable[..., tuple[str, list[dict[str, str]]]],
        controls: dict[str, ipywidgets.Widget],
        label: str,
    ):
        """Show the choices; nothing runs before the button is pressed."""
        self.run, self.controls = run, controls
        self.button = ipywidgets.Button(description=label, button_style="primary")
        self.twin, self.result = ipywidgets.HTML(), ipywidgets.HTML()
        self.button.on_click(self._pressed)
        self._say("Nothing has been run yet.")
        row = ipywidgets.HBox(list(controls.values()), layout={"flex_flow": "row wrap"})
        super().__init__([row, self.button, self.twin, self.result])

    def __repr__(self) -> str:
        return f"{self.button.description}: choose {', '.join(self.controls)}. {self.text}"

    _repr_mimebundle_ = parts.bundle

    def _pressed(self, button: object = None) -> None:
        self.button.disabled = True
        self.result.value = ""
        self._say("Running …")
        try:
            values = {name: widget.value for name, widget in self.controls.items()}
            sentence, rows = self.run(**values)
        except KeyboardInterrupt:
            self._say("Stopped.")
        except Exception as error:
            self._say(f"This cannot be run. {type(error).__name__}: {error}")
            raise
        else:
            self.result.value = _table(rows)
            self._say(sentence)
        finally:
            self.button.disabled = False

    def _say(self, sentence: str) -> None:
        self.text = sentence
        self.twin.value = parts.status(sentence)


def form(
    run: Callable[..., tuple[str, list[dict[str, str]]]], label: str = "Run it here", **choices: Any
) -> Form:
    """Let a learner choose, and run something with the choices when a button is pressed.

    Args:
        run: Takes one argument for each choice; returns a sentence, and rows of a table, each a
            dict from heading to cell.
        label: What the button says.
        **choices: For each argument its values, as a list or as label -> value; a text is a field
            to type into, with that text in it.

    Returns:
        The form; as the last line of a cell it appears.

    Raises:
        ValueError: A value is None, which ipywidgets shows as no choice at all.
    """
    for name, options in choices.items():
        if None in list(options.values() if isinstance(options, dict) else options):
            raise ValueError(f"widgets.form: {name} may not offer None; '' is shown")
    controls = {
        name: (
            ipywidgets.Text(options, description=name.strip("_").replace("_", " "))
            if isinstance(options, str)
            else ipywidgets.Dropdown(options=options, description=name.strip("_").replace("_", " "))
        )
        for name, options in choices.items()
    }
    return Form(run, controls, label)


class Table(ipywidgets.HTML):
    """A table under a sentence that says what is seen; a stored notebook has the sentence alone.

    Args:
        rows: Each a dict from heading to cell, all with the same headings.
        sentence: What is seen.
    """

    def __init__(self, rows: list[dict[str, str]], sentence: str):
        """Show both."""
        self.sentence = sentence
        super().__init__(f"<p>{html.escape(sentence)}</p>{_table(rows)}")

    def __repr__(self) -> str:
        return self.sentence

    _repr_mimebundle_ = parts.bundle


def _table(rows: list[dict[str, str]]) -> str:
    if not rows:
        return ""
    cell = "text-align:left;vertical-align:top;line-height:1.3;padding:2px 12px 2px 0"
    stays = "position:sticky;top:0;background:var(--jp-layout-color0, white)"
    head = "".join(
        f'<th scope="col" style="{cell};{stays}">{html.escape(name)}</th>' for name in rows[0]
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="{cell}{";white-space:nowrap" * (len(str(value)) < 12)}">'
            f"{html.escape(str(value))}</td>"
            for value in row.values()
        )
        + "</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    if len(rows) <= SHORT:
        return table
    # so that a screen of 720 pixels shows all of the box; a keyboard scrolls what has the focus
    box = 'role="region" style="max-height:440px;overflow:auto"'
    return f'<div tabindex="0" aria-label="{len(rows)} rows" {box}>{table}</div>'
