"""What a function shows, kept as a notebook keeps it: to be shown below a widget, or printed."""

from __future__ import annotations

import base64
import html
import inspect
from collections.abc import Callable
from typing import Any

from IPython import get_ipython
from IPython.display import display
from IPython.utils.capture import capture_output
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attncourse import plots

Output = dict[str, Any]


def takes(function: Any, *arguments: Any) -> bool:
    """Whether a function can be called with these arguments."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # a builtin that does not say
        return True
    return True


def captured(explain: str | Callable | None, answer: float) -> list[Output]:
    """Return what explains an answer: what a function displays, and then what it returns.

    Args:
        explain: A sentence, or a function of the answer or of nothing; it may return a sentence,
            Axes, a figure or what else can be displayed.
        answer: The answer.
    """
    with capture_output() as shown:
        said = explain
        if callable(explain):
            said = explain() if takes(explain) else explain(answer)
        if isinstance(said, Axes | Figure):
            axes = [said] if isinstance(said, Axes) else said.axes
            title = axes[0].get_title(loc="left") if axes else ""
            plots.show(said, title or "What explains the answer.")
        elif said is not None and not isinstance(said, str):
            display(said)
    outputs: list[Output] = []
    if shown.stdout:
        outputs.append({"output_type": "stream", "name": "stdout", "text": shown.stdout})
    for each in shown.outputs or ():
        data = {mime: _as_text(value) for mime, value in each.data.items()}
        outputs.append(_displayed(data, each.metadata or {}))
    if isinstance(said, str):
        data = {"text/plain": said, "text/html": f"<p>{html.escape(said)}</p>"}
        outputs.append(_displayed(data, {}))
    return outputs


def show(output: Output) -> None:
    """Show an output where the running code shows its own; in a terminal, its text."""
    if output["output_type"] == "stream":
        print(output["text"], end="")
    elif get_ipython():
        display(output["data"], metadata=output["metadata"], raw=True)
    else:
        print(output["data"]["text/plain"])


def _displayed(data: dict[str, Any], metadata: dict[str, Any]) -> Output:
    return {"output_type": "display_data", "data": data, "metadata": metadata}


def _as_text(value: Any) -> Any:
    """Return the bytes of a picture as JSON holds them."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
