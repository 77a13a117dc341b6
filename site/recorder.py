"""What a chapter's widgets show, recorded in the kernel that runs it; the learner's see none of it.

Installed, it adds to each widget that is displayed one more form, `MIME`: an explorer drawn at many
settings of its controls, a guess with its answer, a form with its first result. Whoever runs the
notebook finds them among the outputs of its cells.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

import ipywidgets
import numpy as np
from IPython.utils.capture import capture_output
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from attncourse import plots, widgets
from attncourse.units import format_quantity
from attncourse.widgets import guesses, outputs

MIME = "application/vnd.attncourse.site+json"
FRAMES = 40  # of one control, at most
SETTINGS = 24  # of several controls together, at most
FEW = 6  # choices that are shown all or not at all
MAIN = 6  # values that the first slider has, before other controls move too
PNG = plots.png
COUNTS = (3, 4, 5, 6, 7, 8, 10, 12, 13, 16, 20, 26, 32, 40)


def install() -> None:
    """Record what is displayed from now on."""
    kinds: dict[type, Callable[[Any], dict[str, Any]]] = {
        widgets.Explorer: explorer,
        widgets.Guess: guess,
        widgets.Form: form,
        widgets.Table: table,
    }
    for kind, record in kinds.items():
        kind._repr_mimebundle_ = _recording(kind._repr_mimebundle_, record)
    # Pages have the stored pictures, and explorers their frames: what else is drawn, nobody sees.
    plots.png = plots.base.png = _laid_out


def _laid_out(figure: Figure) -> bytes:
    """Return no picture, but lay out the figure as drawing one does."""
    figure.draw_without_rendering()
    return b""


def _recording(bundle: Callable, record: Callable[[Any], dict[str, Any]]) -> Callable:
    def recording(self: Any, **kwargs: Any) -> Any:
        shown = bundle(self, **kwargs)
        data = shown[0] if isinstance(shown, tuple) else shown
        try:
            with capture_output():
                data[MIME] = record(self)
        except Exception as error:  # IPython would print it and show less
            data[MIME] = {"kind": "error", "says": f"{type(error).__name__}: {error}"}
        return shown

    return recording


def explorer(shown: widgets.Explorer) -> dict[str, Any]:
    """Draw an explorer at the settings that the site will offer, and put it back.

    Returns:
        `controls`: label, kind ("range", "select", "checkbox" or "fixed"), the words of its values
        and which of them comes first. `frames`: for each setting, the last control moving fastest,
        the number of its picture and its sentence. `images`: the pictures, none of them twice.
    """
    controls = [_control(control) for control in shown.controls.values()]
    counts = plan([(one["kind"], len(one["values"])) for one in controls])
    for control, count in zip(controls, counts, strict=True):
        places = spread(len(control["values"]), count, control["at"])
        control["at"] = places.index(control["at"])
        for name in ("values", "words"):
            control[name] = [control[name][place] for place in places]
        if count == 1:
            control["kind"] = "fixed"
    frames: list[list] = []
    images: dict[bytes, str] = {}
    for values in itertools.product(*(control.pop("values") for control in controls)):
        sentence = shown.draw(**dict(zip(shown.controls, values, strict=True)))
        pixels = drawn(shown.drawn)
        key = pixels.tobytes()
        if key not in images:
            images[key] = webp(pixels)
        frames.append([list(images).index(key), sentence])
    shown.draw(**{name: widget.value for name, widget in shown.controls.items()})
    return {
        "kind": "explorer",
        "controls": controls,
        "frames": frames,
        "images": list(images.values()),
        "width": plots.css_width(shown.drawn),
    }


def _control(control: Any) -> dict[str, Any]:
    """Tell what a control is called, how the site shows it, and all values that it can have."""
    kind, values = "fixed", [control.value]
    if isinstance(control, ipywidgets.Checkbox):
        kind, values = "checkbox", [False, True]
    elif isinstance(control, ipywidgets.IntSlider | ipywidgets.FloatSlider):
        steps = round((control.max - control.min) / control.step)
        kind, values = "range", [control.min + step * control.step for step in range(steps + 1)]
        if isinstance(control, ipywidgets.FloatSlider):
            values = [float(f"{value:.12g}") for value in values]
    elif isinstance(control, ipywidgets.SelectionSlider):
        kind = "range"
    elif isinstance(control, ipywidgets.Dropdown | ipywidgets.RadioButtons):
        kind = "select"
    if hasattr(control, "_options_labels"):
        words = list(control._options_labels)
        values, at = list(control._options_values), control.index
    else:
        words = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
        at = min(range(len(values)), key=lambda place: values[place] != control.value)
        if values[at] != control.value:  # between two steps
            kind, values, words, at = "fixed", [control.value], [str(control.value)], 0
    return {
        "label": control.description,
        "kind": kind,
        "values": values,
        "words": words,
        "at": at,
    }


def plan(controls: list[tuple[str, int]]) -> list[int]:
    """Say how many values each control shows, so that there are few settings of all together.

    The first slider comes first, then what has few choices, then the others.

    Args:
        controls: kind and number of values of each.
    """
    main = next((at for at, (kind, _) in enumerate(controls) if kind == "range"), 0)
    choices = []
    for kind, count in controls:
        if kind == "fixed":
            choices.append([1])
        elif kind != "range" and count <= FEW:
            choices.append([1, count])
        else:
            choices.append([1, *(some for some in COUNTS if some < count), count])
    fitting = (
        each
        for each in itertools.product(*choices)
        if math.prod(each) <= (SETTINGS if sum(n > 1 for n in each) > 1 else FRAMES)
    )

    def worth(counts: tuple[int, ...]) -> tuple:
        moving = [count > 1 for count in counts]
        few = [moves for moves, (kind, _) in zip(moving, controls, strict=True) if kind != "range"]
        return (
            min(counts[main], MAIN),
            sum(few),
            sum(moving),
            min(counts[main], 2 * MAIN),
            math.prod(counts),
        )

    return list(max(fitting, key=worth, default=()))


def spread(total: int, count: int, start: int) -> list[int]:
    """Return `count` of the places 0 … total − 1: both ends if there are two, and the start."""
    if count == 1:
        return [start]
    places = [round(each * (total - 1) / (count - 1)) for each in range(count)]
    inner = range(1, count - 1) if start not in (0, total - 1) else range(count)
    places[min(inner, key=lambda each: abs(places[each] - start))] = start
    return sorted(places)


def guess(shown: widgets.Guess) -> dict[str, Any]:
    """Find the answer of a guess, which nobody has to commit to here."""
    answer = shown._answer() if callable(shown._answer) else shown._answer
    with mock.patch.object(plots.base, "png", PNG):
        explanation = outputs.captured(shown._explain, answer)
    return {
        "kind": "guess",
        "question": shown.question,
        "examples": guesses._either(shown._examples),
        "answer": format_quantity(answer, shown.unit),
        "measured": shown.unit == "s",
        "outputs": [_with_webp(one) for one in explanation],
    }


def form(shown: widgets.Form) -> dict[str, Any]:
    """Press a form's button once, with the choices that it begins with."""
    shown._pressed()
    return {
        "kind": "form",
        "label": shown.button.description,
        "choices": [
            [control.description, str(getattr(control, "label", None) or control.value)]
            for control in shown.controls.values()
        ],
        "sentence": shown.text,
        "table": shown.result.value,
    }


def table(shown: widgets.Table) -> dict[str, Any]:
    """Return a table as it is shown."""
    return {"kind": "table", "sentence": shown.sentence, "html": shown.value}


def _with_webp(output: dict[str, Any]) -> dict[str, Any]:
    """Return an output of an explanation with its picture as WebP, if it has one."""
    data = dict(output.get("data", {}))
    if png := data.pop("image/png", None):
        about = output["metadata"].get("image/png", {})
        data["image/webp"] = webp(Image.open(io.BytesIO(base64.b64decode(png))))
        return output | {"data": data, "metadata": {"image/webp": about}}
    return output


def drawn(figure: Figure) -> Image.Image:
    """Return the pixels of a figure, as `plots.png` draws it."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def webp(picture: Image.Image) -> str:
    """Return a picture as lossless WebP in base64: a third of the time and size of a small PNG."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP", lossless=True, method=2, quality=50)
    return base64.b64encode(buffer.getvalue()).decode()


def records(outputs: Iterable[dict[str, Any]]) -> Iterable[tuple[int, dict[str, Any]]]:
    """Yield what was recorded among outputs, each with the number of pictures before it."""
    before = 0
    for output in outputs:
        data = output.get("data", {})
        if MIME in data:
            yield before, data[MIME]
        before += "image/png" in data
