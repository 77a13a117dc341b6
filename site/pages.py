"""Writes the pages that Sphinx makes the site of, from the notebooks and what was recorded.

index.md                    README
notebooks/, exercises/      the notebooks, explorers and guesses made to work without a kernel
docs/, audit.md             what is handled where, measurements; the audit as a table
api/                        one page a package, from its docstrings
files/                      what a link names and is no page: sources, records, the licence
"""

from __future__ import annotations

import copy
import pkgutil
import posixpath
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import html_parts
import nbformat
from nbformat import NotebookNode

import attncourse

LINK = re.compile(r"(!?\[(?:[^\]\[]|\[[^\]]*\])*\]\()([^)\s]+)(\))")
BESIDE = re.compile(r'(href="[0-9]{2}_\w+)\.ipynb(?=["#])')  # in HTML, from chapter to chapter
FENCED = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
TEXTS = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "results": "files/results.md",
}
PRIVATE = re.compile(
    r"\._|\.(grading|gpu_run|finders)\b|\.(cli|authoring|execution|skeletons|interpreter_probe)$"
)
COLUMNS = {
    "id": "id",
    "text": "text",
    "claim": "claim",
    "printed": "printed",
    "found": "found",
    "verdict": "verdict",
    "why": "note",
    "chapter": "chapter",
}


class Pages:
    """The folder of pages, and the links between them.

    Args:
        root: The repository.
        folder: Empty; takes the pages.
        media: Takes the pictures.
        stems: The chapters that the site has.
    """

    def __init__(self, root: Path, folder: Path, media: html_parts.Media, stems: list[str]):
        """Begin with nothing written."""
        self.root, self.folder, self.media, self.stems = root, folder, media, stems
        self.whole = len(stems) == len(list((root / "notebooks").glob("[0-9][0-9]_*.ipynb")))
        self.docs = [f"docs/{path.name}" for path in sorted((root / "docs").glob("*.md"))]
        self.files: set[str] = set()  # of the repository, which links name

    def write(self, recorded: Callable[[str], Any]) -> None:
        """Write all pages.

        Args:
            recorded: Name of a chapter, or "claims" -> what was recorded.
        """
        for stem in self.stems:
            self._notebook(f"notebooks/{stem}.ipynb", recorded(stem))
        exercises = sorted(
            path.stem for path in (self.root / "solutions").glob("[0-9][0-9]_*.ipynb")
        )
        if not self.whole:  # some chapters, to look at while one writes
            exercises = [stem for stem in exercises if stem[:2] in {s[:2] for s in self.stems}]
        for stem in exercises:
            self._exercises(stem)
        for name in (*self.docs, "README.md", "CONTRIBUTING.md"):
            text = (self.root / name).read_text(encoding="utf-8")
            self._text(TEXTS.get(name, name), self._linked(text, posixpath.dirname(name)))
        self._audit(recorded("claims"))
        packages = public_packages() if self.whole else {}
        for package, modules in packages.items():
            self._text(f"api/{package}.md", documented(package, modules))
            for path in (self.root / package.replace(".", "/")).glob("*.py"):
                copied = self.folder / "_extra" / "source" / f"{path.relative_to(self.root)}.txt"
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copied)  # as text, which a browser shows
        self._text(
            "api/index.md", f"# Reference\n\n{REFERENCE}\n\n{toctree(f'api/{p}' for p in packages)}"
        )
        self._text("chapters.md", f"# Chapters\n\n{toctree(f'notebooks/{s}' for s in self.stems)}")
        self._text(
            "exercises.md",
            f"# Exercises\n\n{EXERCISES}\n\n{toctree(f'exercises/{s}' for s in exercises)}",
        )
        self._text(
            "more.md",
            f"# More\n\n{toctree([n.removesuffix('.md') for n in self.docs] + ['contributing'])}",
        )
        contents = ["chapters", "exercises", "audit", "api/index", "more"]
        index = (self.folder / "index.md").read_text(encoding="utf-8")
        self._text("index.md", f"{self._welcome(index)}\n{toctree(contents, ':hidden:')}")
        for name in sorted(self.files):
            self._file(name)

    def _text(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def _welcome(self, text: str) -> str:
        """Return README with a word about the site, and its list of chapters as links."""

        def linked(found: re.Match) -> str:
            stem = f"{found[1]}_{found[2].replace(' ', '_')}"
            here = stem in self.stems
            return f"- **[{found[1]}, {found[2]}](notebooks/{stem}.ipynb)**" if here else found[0]

        text = re.sub(r"^- \*\*(\d\d), ([^*]+)\*\*", linked, text, flags=re.MULTILINE)
        head, first, rest = text.partition("\n\n")
        return f"{head}{first}{WELCOME}\n\n{rest}"

    def _notebook(self, name: str, recorded: list) -> None:
        notebook = nbformat.read(self.root / name, as_version=4)
        for index, (cell, widgets) in enumerate(zip(notebook.cells, recorded, strict=True)):
            if cell.cell_type == "markdown":
                cell.source = self._linked(cell.source, posixpath.dirname(name))
                continue
            cell.outputs = list(self._outputs(cell.outputs, widgets, f"w{index}"))
            if cell.metadata.get("jupyter", {}).get("source_hidden"):
                cell.metadata.tags = [*cell.metadata.get("tags", ()), "hide-input"]
        self._text(name, nbformat.writes(notebook))

    def _exercises(self, stem: str) -> None:
        """Write a page of exercises, each with its solution folded away."""
        name = f"exercises/{stem}.ipynb"
        notebook, solved = (
            nbformat.read(self.root / folder / f"{stem}.ipynb", as_version=4)
            for folder in ("exercises", "solutions")
        )
        cells = []
        for cell, solution in zip(notebook.cells, solved.cells, strict=True):
            if cell.cell_type == "markdown":
                cell.source = self._linked(cell.source, "exercises")
            else:
                cell.outputs = list(self._outputs(cell.outputs, [], ""))
            cells.append(cell)
            if cell.metadata.get("attncourse", {}).get("role") == "answer":
                folded = copy.deepcopy(solution)
                folded.id, folded.outputs = f"{cell.id[:50]}-solved", []
                folded.metadata.tags = ["hide-input"]
                folded.metadata.mystnb = {
                    "code_prompt_show": "Show a solution",
                    "code_prompt_hide": "Hide the solution",
                }
                cells.append(folded)
        notebook.cells = cells
        self._text(name, nbformat.writes(notebook))

    def _outputs(
        self, stored: Iterable[NotebookNode], widgets: list, name: str
    ) -> Iterator[NotebookNode]:
        """Yield a cell's outputs with its widgets as they were recorded.

        An explorer takes the place of its stored picture, anything else that of its words. What has
        no place, since nbval compares nothing there and its words are not stored, comes last.
        """
        explorers = {before: one for before, one in widgets if one["kind"] == "explorer"}
        others = [one for _, one in widgets if one["kind"] != "explorer"]
        pictures, caption = 0, None
        for output in stored:
            data = output.get("data", {})
            text = data.get("text/plain", "")
            if "image/png" in data:
                about = output.metadata.get("image/png", {})
                caption = about.get("alt", "")
                if pictures in explorers:
                    one = explorers.pop(pictures)
                    yield _shown(html_parts.explorer(one, self.media, f"{name}-{pictures}"))
                else:
                    image = self.media.picture(
                        data["image/png"], "png", caption, about.get("width", 720)
                    )
                    yield _shown(html_parts.figure(image, caption))
                pictures += 1
            elif text and text == caption:
                caption = None
            elif others and text.startswith(_words(others[0])):
                yield self._widget(others.pop(0), f"{name}-{len(others)}")
            else:
                if "text/html" in data:
                    data["text/html"] = BESIDE.sub(r"\1.html", data["text/html"])
                yield output
        for before, one in explorers.items():
            yield _shown(html_parts.explorer(one, self.media, f"{name}-{before}"))
        for one in others:
            yield self._widget(one, f"{name}-last")

    def _widget(self, record: dict[str, Any], name: str) -> NotebookNode:
        if record["kind"] == "guess":
            return _shown(html_parts.guess(record, self.media, name))
        return _shown(getattr(html_parts, record["kind"])(record))

    def _audit(self, rows: list[dict[str, str]]) -> None:
        pages = {stem[:2]: f"notebooks/{stem}.html" for stem in reversed(self.stems)}
        self._text("audit.md", "---\nhtml_theme.sidebar_secondary.remove: true\n---\n\n"
                   f"# The audit as a table\n\n{AUDIT}\n\n"
                   f"```{{raw}} html\n{html_parts.audit(rows, pages, COLUMNS)}\n```\n")  # fmt: skip

    # Links

    def _linked(self, text: str, folder: str) -> str:
        """Return Markdown of a file in `folder` with its links leading to pages of the site."""
        parts = FENCED.split(text)
        parts[::2] = [
            LINK.sub(lambda found: found[1] + self._target(found[2], folder) + found[3], part)
            for part in parts[::2]
        ]
        return "".join(parts)

    def _target(self, link: str, folder: str) -> str:
        if re.match(r"[a-z]+:|#", link):
            return link
        path, _, anchor = link.partition("#")
        path = posixpath.normpath(posixpath.join(folder, unquote(path)))
        there = self.root / path
        if not there.exists():  # brackets and a call, in code
            return link
        path = re.sub(r"^solutions/", "exercises/", path)
        if path.endswith((".png", ".gif")):  # of README and docs, whose pages lie as deep
            (self.folder / "images").mkdir(exist_ok=True)
            shutil.copy(there, self.folder / "images")
            return posixpath.relpath(f"images/{there.name}", folder or ".")
        page = TEXTS.get(path, path)
        if not (path.endswith(".ipynb") or path in (*TEXTS, *self.docs)):
            page = f"files/{path}.md"
            self.files.add(path)
        elif path == "results":
            self.files.add(path)
        here = posixpath.dirname(TEXTS.get(f"{folder}/x", f"{folder}/x"))
        return posixpath.relpath(page, here.strip("/") or ".") + (f"#{anchor}" if anchor else "")

    def _file(self, name: str) -> None:
        """Write the page of a file of the repository, or of a folder's notes."""
        path = self.root / name
        if path.is_dir():
            text = (path / "NOTES.md").read_text(encoding="utf-8")
            self._text(f"files/{name}.md", f"---\norphan: true\n---\n\n{text}")
            return
        language = {".py": "python", ".json": "json", ".toml": "toml"}.get(path.suffix, "text")
        copied = self.folder / "files" / f"{name}.txt"
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copied)
        self._text(
            f"files/{name}.md",
            f"---\norphan: true\n---\n\n# {name}\n\n"
            f"```{{literalinclude}} {copied.name}\n:language: {language}\n```\n",
        )


WELCOME = """```{tip}
Here the course can be read: sliders move, guesses are answered, and nothing is to be installed.
Begin with [chapter 00](notebooks/00_start.ipynb). To change code, to answer the exercises and to
have them graded takes the course itself, as below.
```"""
EXERCISES = """In JupyterLab they are answered and graded, for correctness and for memory; here they
are to be read. Each has a solution, folded away."""
REFERENCE = """The package under the chapters. What all references share stands at the top of
`attncourse.reference`, what all kernels share at the top of `attncourse.kernels`."""
AUDIT = """Every numbered statement of the four texts that the course checks, with what is printed,
what comes out here, a verdict and the reason. [Chapter 17](notebooks/17_audit.ipynb) tells how they
were found, and what ten of them teach."""


def toctree(names: Iterable[str], *options: str) -> str:
    """Return a list of pages as Sphinx reads it."""
    lines = "\n".join((":maxdepth: 1", *options, "", *(f"/{n}" if "/" in n else n for n in names)))
    return f"```{{toctree}}\n{lines}\n```\n"


def _shown(html: str) -> NotebookNode:
    return nbformat.v4.new_output("display_data", data={"text/html": html})


def _words(record: dict[str, Any]) -> str:
    """Return how the words begin that a stored notebook has of a widget."""
    if record["kind"] == "guess":
        return f"Guess first: {record['question']}"
    return f"{record['label']}: choose" if record["kind"] == "form" else record["sentence"]


def public_packages() -> dict[str, list[str]]:
    """Return the modules that a reader may import, by the package that they lie in."""
    packages: dict[str, list[str]] = {"attncourse": []}
    for found in pkgutil.walk_packages(attncourse.__path__, "attncourse."):
        if PRIVATE.search(found.name):
            continue
        if found.ispkg:
            packages[found.name] = []
        else:
            packages[found.name.rpartition(".")[0]].append(found.name)
    return packages


def documented(package: str, modules: list[str]) -> str:
    """Return the page of a package; what it only passes on stands with the module it is from."""
    directive = (
        "```{{eval-rst}}\n.. automodule:: {}\n   :members:\n   :member-order: bysource\n{}```\n"
    )
    parts = [f"# {package}\n", directive.format(package, "   :ignore-module-all:\n")]
    for module in modules:
        parts += [f"## {module.rpartition('.')[2]}\n", directive.format(module, "")]
    return "\n".join(parts)
