"""The HTML of what a reader without a kernel moves, guesses and looks up."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image


class Media:
    """Writes pictures into one folder, each named by its content.

    Args:
        folder: Where they lie.
        url: How a page's HTML names that folder.
    """

    def __init__(self, folder: Path, url: str):
        """Begin with the folder made."""
        self.folder, self.url = folder, url
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, encoded: str, suffix: str) -> str:
        """Write a picture given in base64, and return its address."""
        data = base64.b64decode(encoded)
        name = f"{hashlib.sha256(data).hexdigest()[:16]}.{suffix}"
        path = self.folder / name
        if not path.exists():
            path.write_bytes(data)
        return f"{self.url}/{name}"

    def picture(self, encoded: str, suffix: str, alt: str, width: int) -> str:
        """Write a picture, and return its <img> with the room that it takes."""
        address = self.save(encoded, suffix)
        across, down = Image.open(io.BytesIO(base64.b64decode(encoded))).size
        return _image(address, alt, width, round(width * down / across))


def _image(address: str, alt: str, width: int, height: int) -> str:
    return (
        f'<img src="{address}" alt="{html.escape(alt)}" width="{width}" height="{height}" '
        'loading="lazy" decoding="async">'
    )


def figure(image: str, caption: str) -> str:
    """Return a picture with the words under it."""
    words = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="course-picture">{image}{words}</figure>'


def explorer(record: dict[str, Any], media: Media, name: str) -> str:
    """Return an explorer: its controls, the frame of their first setting, and its sentence.

    `static/player.js` shows the others. Without a script the first one stays.

    Args:
        record: As `recorder.explorer` returns it.
        media: Takes the pictures.
        name: Unique in the page.
    """
    addresses = [media.save(image, "webp") for image in record["images"]]
    at = 0
    for control in record["controls"]:
        at = at * len(control["words"]) + control["at"]
    image, sentence = record["frames"][at]
    shown = media.picture(record["images"][image], "webp", sentence, record["width"])
    controls = "".join(
        _control(control, f"{name}-{place}")
        for place, control in enumerate(record["controls"])
        if control["kind"] != "fixed"
    )
    fixed = ", ".join(
        f"{control['label']} {control['words'][0]}"
        for control in record["controls"]
        if control["kind"] == "fixed"
    )
    note = (
        f'<p class="course-fixed">Fixed here, free in JupyterLab: {html.escape(fixed)}</p>'
        if fixed
        else ""
    )
    data = json.dumps({"images": addresses, "frames": record["frames"]}, ensure_ascii=False)
    data = data.replace("<", "\\u003c")
    return (
        f'<figure class="course-explorer" role="group" aria-label="Explorer">'
        f'<div class="course-controls">{controls}</div>{note}{shown}'
        f'<figcaption role="status" aria-live="polite">{html.escape(sentence)}</figcaption>'
        f'<script type="application/json">{data}</script></figure>'
    )


def _control(control: dict[str, Any], id: str) -> str:
    label, words, at = html.escape(control["label"]), control["words"], control["at"]
    count = f'data-count="{len(words)}" autocomplete="off"'
    if control["kind"] == "checkbox":
        checked = " checked" if at else ""
        return (
            f'<div><label for="{id}">{label}</label>'
            f'<input id="{id}" type="checkbox" {count}{checked}></div>'
        )
    if control["kind"] == "select":
        options = "".join(
            f"<option{' selected' * (place == at)}>{html.escape(word)}</option>"
            for place, word in enumerate(words)
        )
        return (
            f'<div><label for="{id}">{label}</label><select id="{id}" {count}>{options}</select>'
            "</div>"
        )
    return (
        f'<div><label for="{id}">{label}</label>'
        f'<input id="{id}" type="range" min="0" max="{len(words) - 1}" value="{at}" {count} '
        f'data-words="{html.escape(json.dumps(words, ensure_ascii=False))}" '
        f'aria-valuetext="{html.escape(words[at])}">'
        f'<output for="{id}">{html.escape(words[at])}</output></div>'
    )


def guess(record: dict[str, Any], media: Media, name: str) -> str:
    """Return a guess: the question, a field, and the answer behind a button."""
    where = " It was measured where this page was built." if record["measured"] else ""
    answer = html.escape(record["answer"])
    return (
        f'<form class="course-guess"><p><b>Guess first:</b> {html.escape(record["question"])}</p>'
        f'<p><label for="{name}">Your guess</label> <input id="{name}" autocomplete="off" '
        f'placeholder="such as {html.escape(record["examples"])}"> '
        '<button type="submit">Show the answer</button></p>'
        f'<div class="course-answer" role="status" aria-live="polite" '
        f'data-answer="{answer}"></div>'
        f'<div class="course-explanation" hidden><p>{where}</p>'
        f"{explanation(record['outputs'], media)}</div></form>"
    ).replace("<p></p>", "")


def explanation(outputs: list[dict[str, Any]], media: Media) -> str:
    """Return what explains an answer, as it would stand under a cell."""
    parts, said = [], None
    for output in outputs:
        data = output.get("data", {})
        if "text" in output:
            parts.append(f"<pre>{html.escape(output['text'])}</pre>")
        elif "image/webp" in data:
            about = output["metadata"].get("image/webp", {})
            said = about.get("alt", "")
            image = media.picture(data["image/webp"], "webp", said, about.get("width", 720))
            parts.append(figure(image, said))
        elif "text/html" in data and data.get("text/plain") != said:
            parts.append(data["text/html"])
        elif data.get("text/plain") not in (None, said):
            parts.append(f"<pre>{html.escape(data['text/plain'])}</pre>")
    return "".join(parts)


def form(record: dict[str, Any]) -> str:
    """Return a form with its first result, and say what it takes to press its button."""
    chosen = ", ".join(f"{label}: {word}" for label, word in record["choices"] if word)
    return (
        '<section class="course-form" aria-label="Form">'
        f"<p><b>{html.escape(record['label'])}</b> {html.escape(chosen)}</p>"
        f'<p class="course-fixed">Its choices need a kernel: open the chapter in JupyterLab. '
        "This is what the first ones gave where this page was built.</p>"
        f"<p>{html.escape(record['sentence'])}</p>{record['table']}</section>"
    )


def table(record: dict[str, Any]) -> str:
    """Return a table under its sentence."""
    return f'<section class="course-form" aria-label="Table">{record["html"]}</section>'


def audit(rows: list[dict[str, str]], pages: dict[str, str], names: dict[str, str]) -> str:
    """Return all claims as a table with a search over it, which `static/table.js` answers.

    Args:
        rows: As `chapters.all_claims` returns them.
        pages: Number of a chapter -> the address of its page.
        names: Heading of a column -> field of a row.
    """
    choices = {
        "verdict": sorted({row["verdict"] for row in rows}),
        "text": sorted({text for row in rows for text in row["text"].split(", ")}),
        "chapter": sorted({row["chapter"] for row in rows}),
        "topic": sorted({row["topic"] for row in rows}),
    }
    selects = "".join(
        f'<label>{field} <select data-field="{field}" autocomplete="off"><option value="">any'
        f"</option>{''.join(f'<option>{html.escape(one)}</option>' for one in values)}"
        "</select></label>"
        for field, values in choices.items()
    )
    head = "".join(f'<th scope="col">{heading}</th>' for heading in names)
    body = "".join(_claim(row, pages, names) for row in rows)
    return (
        '<form class="course-filter" role="search"><label>words '
        '<input type="search" autocomplete="off" placeholder="window memory"></label>'
        f'{selects}</form><p role="status" aria-live="polite" class="course-count">'
        f'{len(rows)} of {len(rows)} claims.</p><table class="course-audit"><thead><tr>{head}'
        f"</tr></thead><tbody>{body}</tbody></table>"
    )


def _claim(row: dict[str, str], pages: dict[str, str], names: dict[str, str]) -> str:
    cells = []
    for heading, field in names.items():
        text = html.escape(row[field])
        if field == "chapter":
            text = f'<a href="{pages[row[field]]}">{text}</a>' if row[field] in pages else text
        elif field == "verdict":
            text = f'<span class="course-{row[field].split()[-1]}">{text}</span>'
        cells.append(f'<td data-heading="{heading}">{text}</td>')
    about = " ".join(
        f'data-{field}="{html.escape(row[field])}"'
        for field in ("verdict", "text", "chapter", "topic")
    )
    return f'<tr id="{row["id"]}" {about}>{"".join(cells)}</tr>'
