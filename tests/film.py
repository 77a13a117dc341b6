"""The film of the grader in README; `python tests/film.py` plays it in Chromium and writes it.

Nothing is drawn: a learner's two answers go into the notebook, and what it says is photographed.
Out of sight are the exercises below, a cell's buttons, and the prompt down to its memory limit:
with README's first lines above it, the film fits a screen of 800 pixels.
"""

import io
import os
import pathlib
import tempfile

import lab
import numpy as np
from PIL import Image

FILM = lab.ROOT / "docs/grader.gif"
NOTEBOOK, EXERCISE = "exercises/04_window.ipynb", "04.3"
SIZE = {"width": 976, "height": 756}  # of which the notebook has 900 × 668
SHOWN = (192, 645)  # of these 668, from the memory limit to the longest verdict's end
SCALE = 2  # sharp on dense screens, and where a page shows it smaller
COLOURS = 128
PACK = np.array([65536, 256, 1])  # red, green, blue in one number
QUADRATIC = '''\
def window_attention(q, k, v, window):
    """Return window attention, (..., n, Dv) in the dtype of q."""
    position = np.arange(q.shape[-2])
    visible = np.abs(position[:, None] - position) <= window
    scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ v'''
BLOCKED = '''\
def window_attention(q, k, v, window):
    """Return window attention, (..., n, Dv) in the dtype of q."""
    position = np.arange(q.shape[-2])
    out = np.empty(q.shape[:-1] + v.shape[-1:], q.dtype)
    for start in range(0, len(position), 64):
        rows = slice(start, start + 64)
        near = slice(max(0, start - window), start + 64 + window)
        visible = np.abs(position[rows, None] - position[near]) <= window
        scores = q[..., rows, :] @ k[..., near, :].swapaxes(-1, -2) / q.shape[-1] ** 0.5
        scores = np.where(visible, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[..., rows, :] = weights / weights.sum(axis=-1, keepdims=True) @ v[..., near, :]
    return out'''
STYLE = """
.cm-cursorLayer { animation: none !important }  /* else the caret blinks */
.jp-cell-toolbar { display: none !important }
"""
HIDE = """(panel, last) => {
    for (const cell of panel.content.widgets.slice(last + 1)) cell.node.style.visibility = 'hidden';
}"""
FIND = """(panel, [exercise, role]) => [...panel.content.model.cells].findIndex(cell => {
    const told = cell.getMetadata('attncourse');
    return told && told.exercise === exercise && told.role === role;
})"""
EDIT = """(panel, [index, text, line]) => {
    const {content} = panel, {editor, model} = content.widgets[index];
    content.activeCellIndex = index;
    content.mode = 'edit';
    if (text) model.sharedModel.setSource(text);
    const last = editor.lineCount - 1, at = line ? line - 1 : last;
    const end = {line: at, column: editor.getLine(at).length};
    const start = line ? {line: at, column: editor.getLine(at).search(/\\S/)} : end;
    editor.focus();
    editor.setSelection({start, end});
}"""
RUN = """async (panel, index) => {
    panel.content.activeCellIndex = index;
    await window.jupyterapp.commands.execute('notebook:run-cell');
}"""


class Camera:
    """Photographs the cells of one exercise; `shots` are pictures and their milliseconds."""

    def __init__(self, notebook: lab.Notebook):
        self.notebook, self.shots = notebook, []
        self.prompt, self.answer, self.check = (
            notebook.panel.evaluate(FIND, [EXERCISE, role])
            for role in ("prompt", "answer", "check")
        )

    def shoot(self, milliseconds: int) -> None:
        self.notebook.show(self.prompt)
        picture = Image.open(io.BytesIO(self.notebook.box.screenshot())).convert("RGB")
        top, bottom = (SCALE * y for y in SHOWN)
        self.shots.append((picture.crop((0, top, picture.width, bottom)), milliseconds))

    def edit(self, text: str, line: int | None = None) -> None:
        """Put a text into the answer cell; select a line of it, else put the caret at its end."""
        self.notebook.panel.evaluate(EDIT, [self.answer, text, line])

    def type(self, text: str, kept: int) -> None:
        """Write an answer two lines at a time; its first lines stand there already."""
        lines = text.splitlines()
        for stop in range(kept + 2, len(lines) + 2, 2):
            self.edit("\n".join(lines[:stop]))
            self.shoot(400)

    def run(self) -> str:
        """Run the answer, go to the check cell, run it; return the verdict."""
        self.notebook.panel.evaluate(RUN, self.answer)
        self.notebook.panel.evaluate(EDIT, [self.check, "", None])
        self.shoot(800)
        self.notebook.panel.evaluate(RUN, self.check)
        (output,) = self.notebook.cells[self.check]["outputs"]
        return output["data"]["text/plain"]


def play(notebook: lab.Notebook) -> list[tuple[Image.Image, int]]:
    """Solve the exercise twice, the first time in too much memory."""
    camera = Camera(notebook)
    notebook.panel.evaluate(HIDE, camera.check)
    notebook.panel.evaluate(RUN, 2)  # the imports
    camera.shoot(1800)
    camera.type(QUADRATIC, kept=2)
    verdict = camera.run()
    assert "line 4" in verdict and "4096 × 4096" in verdict, verdict
    camera.shoot(2000)
    camera.edit(QUADRATIC, line=4)
    camera.shoot(3000)
    camera.type(BLOCKED, kept=3)
    verdict = camera.run()
    assert "passed, 4/4 points" in verdict, verdict
    camera.shoot(3000)
    return camera.shots


def write(shots: list[tuple[Image.Image, int]], path: pathlib.Path) -> None:
    """Write a film in the colours that are seen most."""
    pictures, times = zip(*shots, strict=True)
    pixels = np.stack([np.asarray(picture).astype(int) for picture in pictures]) @ PACK
    seen, place, counts = np.unique(pixels, return_inverse=True, return_counts=True)
    often = seen[np.argsort(-counts, kind="stable")[:COLOURS]]
    palette, colours = ((packed[:, None] // PACK) % 256 for packed in (often, seen))
    nearest = np.abs(colours[:, None] - palette).sum(axis=-1).argmin(axis=-1)
    frames = [Image.fromarray(one) for one in nearest[place].reshape(pixels.shape).astype("uint8")]
    for frame in frames:
        frame.putpalette(palette.astype("uint8").tobytes())
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0)


def main() -> None:
    os.environ["ATTNCOURSE_SEED"] = "0"  # the verdict names it
    with (
        lab.browser() as browser,
        tempfile.TemporaryDirectory() as folder,
        lab.server(pathlib.Path(folder)) as (address, _),
    ):
        page = browser.new_page(viewport=SIZE, device_scale_factor=SCALE)
        page.set_default_timeout(60_000)
        page.goto(address)
        page.wait_for_function("() => window.jupyterapp", timeout=60_000)
        page.add_style_tag(content=STYLE)
        notebook = lab.Notebook(page, NOTEBOOK)
        for command in ("application:toggle-left-area", "notebook:toggle-all-cell-line-numbers"):
            page.evaluate("name => window.jupyterapp.commands.execute(name)", command)
        shots = play(notebook)
        write(shots, FILM)
    print(f"{FILM}: {len(shots)} pictures, {FILM.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
