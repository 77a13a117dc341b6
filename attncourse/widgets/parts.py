"""What every widget shares: how it is stored, what a screen reader speaks, and its picture."""

from __future__ import annotations

import base64
import html
from typing import Any

import ipywidgets


def bundle(widget: ipywidgets.Widget, **kwargs: Any) -> dict[str, Any]:
    """Return what a page shows of a widget: the widget, and for a page without it its `repr`."""
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    return {"text/plain": repr(widget), "application/vnd.jupyter.widget-view+json": view}


def status(sentence: str) -> str:
    """Return a sentence as HTML that a screen reader speaks when it changes."""
    return f'<p role="status" style="margin: 0">{html.escape(sentence)}</p>'


def picture(png: bytes, alt: str, width: int) -> str:
    """Return a picture as HTML: ipywidgets.Image has no alternative text."""
    return (
        f'<img alt="{html.escape(alt)}" width="{width}" decoding="sync" '
        'style="display: block; max-width: 100%" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    )
