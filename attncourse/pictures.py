"""Pictures as notebooks store them: small, and the same until they look different.

Who reads a chapter where no kernel runs sees them; a run replaces them by what it draws.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import symtable
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from nbformat import NotebookNode
from PIL import Image

from attncourse import plots

PNG = "image/png"
LIMIT = 20_000  # bytes of one picture
ALL_LIMIT = 6_000_000  # bytes of all pictures of the chapters, as they stand in the files
# What is tried in turn: the part of the width that is left, and how many colours.
_SIZES = [(part, colours) for part in (1, 0.8, 2 / 3, 0.5) for colours in (64, 32)]
_MEASURING = {"measure", "bench", "time", "timeit"}


def small(png: bytes) -> bytes:
    """Return a picture on white, with few colours and, if it must be, fewer pixels.

    Raises:
        ValueError: it is no picture, or takes more than `LIMIT` bytes at half its width.
    """
    too_large = ValueError(
        f"holds a picture of {len(png)} bytes that takes over {LIMIT} even at half its width: "
        "draw less in it"
    )
    try:
        whole: Image.Image = Image.open(io.BytesIO(png))
        if whole.has_transparency_data:
            white = Image.new("RGBA", whole.size, "white")
            whole = Image.alpha_composite(white, whole.convert("RGBA"))
        whole = whole.convert("RGB")
    except Image.DecompressionBombError:
        raise too_large from None
    except OSError:
        raise ValueError("holds a PNG that cannot be read") from None
    for part, colours in _SIZES:
        size = (max(1, round(whole.width * part)), max(1, round(whole.height * part)))
        fewer = whole if part == 1 else whole.resize(size, Image.Resampling.HAMMING)
        # Far-apart colours first: a thin line keeps its own beside a large area.
        method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
        buffer = io.BytesIO()
        fewer.quantize(colours, method=method, kmeans=1, dither=dither).save(
            buffer, format="PNG", optimize=True
        )
        if len(buffer.getvalue()) <= LIMIT:
            return buffer.getvalue()
    raise too_large


def alike(one: bytes, other: bytes) -> bool:
    """Whether two stored pictures differ by no more than rounding and the choice of colours do."""
    try:
        images = [Image.open(io.BytesIO(png)) for png in (one, other)]
        a, b = (np.asarray(image.convert("RGB"), int) for image in images)
    except OSError:
        return False
    # What a run in JupyterLab saved has no palette.
    if a.shape != b.shape or {image.mode for image in images} != {"P"}:
        return False
    levels = abs(a - b).max(-1)  # of 255
    return bool(levels.max() <= 24 and (levels > 8).mean() <= 1 / 500)


def stored(cell: NotebookNode) -> list[NotebookNode]:
    """Return the outputs of a cell that hold a picture."""
    return [output for output in cell.get("outputs", ()) if PNG in output.get("data", {})]


def encoded(png: bytes) -> str:
    """Return a picture as notebooks hold it."""
    return base64.b64encode(png).decode()


def decoded(output: NotebookNode) -> bytes:
    """Return the picture of an output that holds one."""
    return base64.b64decode(output.data[PNG])


def with_words(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Return the outputs that hold a picture, each with the one that says what it shows."""
    kept = []
    for output, after in pairwise([*outputs, NotebookNode()]):
        if PNG in output.get("data", {}):
            kept.append(output)
            alt = output.metadata.get(PNG, {}).get("alt")
            if alt is not None and after.get("data", {}).get("text/plain") == alt:
                kept.append(after)
    return kept


def keep(notebook: NotebookNode, before: NotebookNode | None, ignored: set[str]) -> None:
    """Put back what was stored before, where a new picture would say the same.

    A picture stays if the new one is alike. One of measurements, which differ by the run, stays as
    long as its words, the code of the notebook down to its cell and the code of `plots` do; where
    nbval ignores a cell, the words stay with it.

    Args:
        notebook: as run, with what is to be stored.
        before: the notebook that it will replace.
        ignored: tags of cells whose outputs nbval does not compare.
    """
    old = {cell.id: cell for cell in before.cells} if before else {}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    made_of = _drawing_code()
    for cell, by_clock in zip(code, measured(cell.source for cell in code), strict=True):
        made_of.update(cell.source.encode())
        pictures, had = stored(cell), stored(old.get(cell.id, NotebookNode()))
        if by_clock:
            for picture in pictures:
                picture.metadata.attncourse = {"made_of": made_of.hexdigest()[:12]}
        same = [new.metadata.get("attncourse") for new in pictures] == [
            was.metadata.get("attncourse") for was in had
        ]
        if by_clock and had and same and ignored & set(cell.metadata.get("tags", ())):
            cell.outputs = old[cell.id].outputs
            continue
        for new, was in zip(pictures, had, strict=False):
            unchanged = by_clock and same and new.metadata == was.metadata
            if unchanged or alike(decoded(new), decoded(was)):
                new.data[PNG] = was.data[PNG]


def _drawing_code() -> hashlib._Hash:
    digest = hashlib.sha256()
    for path in sorted(Path(plots.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest


def measured(cells: Iterable[str]) -> list[bool]:
    """Tell which cells of code, in their order, use what was measured before or in them."""
    names, own, found = set(_MEASURING), set[str](), []
    for code in cells:
        found.append(False)
        for statement in ast.parse(code).body:
            names |= set(_imported(statement))
            table = symtable.symtable(ast.unparse(statement), "cell", "exec")
            bound = {one.get_name() for one in table.get_symbols() if one.is_assigned()}
            if names & set(_read(table)):
                found[-1] = True
                names |= bound | set(_changed(statement)) | own.intersection(_called(statement))
            else:
                names -= bound
            own |= bound
    return found


def _imported(statement: ast.stmt) -> Iterator[str]:
    """Tell the names by which a statement imports what measures."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            for alias in node.names:
                if _MEASURING & {*module.split("."), *alias.name.split(".")}:
                    yield alias.asname or alias.name.partition(".")[0]


def _read(table: symtable.SymbolTable) -> Iterator[str]:
    """Tell the names of the notebook that a piece of code reads, in its functions too."""
    for one in table.get_symbols():
        if one.is_referenced() and (table.get_type() == "module" or one.is_global()):
            yield one.get_name()
    for child in table.get_children():
        yield from _read(child)


def _changed(statement: ast.stmt) -> Iterator[str]:
    """Tell the names whose items or attributes a statement sets, as in `times[n] = …`."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield from _owner(node)


def _called(statement: ast.stmt) -> Iterator[str]:
    """Tell the names whose methods are called for what they do, as in `times.append(…)`."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _owner(node.value.func)


def _owner(node: ast.expr) -> Iterator[str]:
    """Tell the name that an item or an attribute belongs to."""
    if isinstance(node, ast.Subscript | ast.Attribute):
        yield from [node.value.id] if isinstance(node.value, ast.Name) else _owner(node.value)


def count(notebook: NotebookNode) -> None:
    """Write into the metadata of each cell how many pictures it stores, if any."""
    for cell in notebook.cells:
        if pictures := len(stored(cell)):
            cell.metadata.setdefault("attncourse", NotebookNode()).pictures = pictures


def complaints(notebook: NotebookNode, limit: int | None = LIMIT) -> Iterator[tuple[int, str]]:
    """Tell which cells store fewer pictures than when they were built, unreadable or large ones.

    Where a cell draws or says why it does not, words are enough.

    Args:
        notebook: as built, then perhaps run and saved.
        limit: of the bytes of one picture; None means none.
    """
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        pictures, before = stored(cell), cell.metadata.get("attncourse", {}).get("pictures", 0)
        branches = any(isinstance(one, ast.If | ast.Try) for one in ast.parse(cell.source).body)
        if len(pictures) < before and not (branches and cell.outputs):
            yield index, f"stores {len(pictures)} of the {before} pictures that it drew"
        for picture in pictures:
            if not _readable(picture):
                yield index, "stores a picture that cannot be read"
            elif limit and (size := len(decoded(picture))) > limit:
                yield index, f"stores a picture of {size} bytes; at most {limit} are allowed"


def _readable(picture: NotebookNode) -> bool:
    try:
        Image.open(io.BytesIO(decoded(picture))).verify()
    except Exception:  # OSError, SyntaxError, ValueError: whatever Pillow and base64 raise
        return False
    return True


def all_bytes(notebooks: Iterable[NotebookNode]) -> int:
    """Return how much of the notebooks' files pictures take."""
    cells = [cell for notebook in notebooks for cell in notebook.cells]
    return sum(len(picture.data[PNG]) for cell in cells for picture in stored(cell))
