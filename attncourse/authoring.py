"""Builds the notebooks from their text sources, and checks that they still agree.

    notebooks/_source/NN_stem.py  ->  notebooks/NN_stem.ipynb, run
    solutions/_source/NN_stem.py  ->  solutions/NN_stem.ipynb, run
                                      exercises/NN_stem.ipynb, its answers cut to stubs
                                      attncourse/grading/released/NN_stem.ipynb, the same with the
                                      solutions' verdicts, to which the grader holds an answer

Two builds give the same bytes: cell ids come from the cells' content, outputs keep only text and
small pictures, and the cells run in this interpreter, without a GPU and with an empty home for the
course's progress. A picture of measured times is kept from the build before.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import os
import re
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path

import nbformat
from nbformat import NotebookNode

import attncourse
from attncourse import coverage, pictures
from attncourse.catalogue import markdown_table
from attncourse.execution import IGNORING_TAGS, ignored_outputs, run, too_many_ignored
from attncourse.grading.assembly import exercises
from attncourse.grading.proving import misjudged
from attncourse.grading.solution import stub, without_markers
from attncourse.grading.submission import content_id, is_backup
from attncourse.sources import BuildError, Source, covered, read

RELEASED = Path("attncourse/grading/released")
COVERAGE = Path("docs/coverage.md")
INVENTORY = Path("attncourse/data/inventory.csv")
ARC = Path("attncourse/data/arc.csv")
README_PARTS = ("chapters", "mechanisms")  # what the build writes into README.md
README_BEGIN, README_END = "<!-- {}: written by `attncourse build` -->", "<!-- end -->"
SUMMARY = re.compile(r"<!-- summary:\s*(.+?)\s*-->", re.DOTALL)


def assemble(source: Source, kind: str | None = None) -> NotebookNode:
    """Make the notebook of a source, not run.

    Args:
        source: the source as read.
        kind: "exercises" cuts the solutions out of a solutions source; None keeps its own kind.
    """
    kind = kind or source.kind
    edit = stub if kind == "exercises" else without_markers
    squeeze = functools.partial(re.sub, r"\n{3,}", "\n\n")  # two blank lines are for files
    seen: Counter[str] = Counter()
    cells = []
    for written in source.cells:
        new = getattr(nbformat.v4, f"new_{written.cell_type}_cell")
        code = written.cell_type == "code"
        cell = new(squeeze(edit(written.source)) if code else written.source)
        options = written.metadata
        if options.get("tags"):
            cell.metadata.tags = list(options["tags"])
        about = {name: options[name] for name in ("role", "exercise", "folded") if name in options}
        if "folded" in options:
            cell.metadata.jupyter = {"source_hidden": True}
        if "covers" in options:
            about["covers"] = covered(options["covers"])
        if about:
            cell.metadata.attncourse = about
        digest = content_id(cell.cell_type, cell.source)
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        cells.append(cell)
    metadata = {
        "attncourse": {
            "kind": kind,
            "chapter": source.stem[:2],
            "stem": source.stem,
            "release": attncourse.__version__,
        },
        "kernelspec": {
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
            "name": "python3",
        },
        "language_info": {
            "name": "python",
            "file_extension": ".py",
            "mimetype": "text/x-python",
            "pygments_lexer": "ipython3",
        },
    }
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata, nbformat_minor=5)


def released(source: Source, solved: NotebookNode) -> NotebookNode:
    """Make the grader's copy: stubs, and check cells with the outputs of the solution's run.

    In its metadata lie the cells that the exercises are made from, specs and solutions. The
    learner's copy goes without: it would say "passed" before anything was tried.
    """
    notebook = assemble(source, "exercises")
    notebook.metadata.attncourse.grading = [
        {**cell, "source": cell["source"].splitlines(keepends=True)} for cell in source.grading
    ]
    for cell, answer in zip(notebook.cells, solved.cells, strict=True):
        if cell.metadata.get("attncourse", {}).get("role") == "check":
            cell.outputs, cell.execution_count = answer.outputs, answer.execution_count
    return notebook


def _to_learn_from(source: Source, solved: NotebookNode) -> NotebookNode:
    """Make the learner's copy: stubs, and what the set-up shows before anything is tried."""
    notebook = assemble(source, "exercises")
    for cell, answer in zip(notebook.cells, solved.cells, strict=True):
        if cell.metadata.get("attncourse", {}).get("role") == "setup":
            cell.outputs = pictures.with_words(answer.outputs)
    return notebook


def as_text(notebook: NotebookNode) -> str:
    """Return the file's text: JSON with sorted keys, an indent of 1, and a newline at the end."""
    return nbformat.writes(notebook, version=4) + "\n"


def chapter_list(written: Iterable[Source]) -> str:
    """Return README's list of chapters, from the summary in each chapter's first cell.

    Raises:
        BuildError: naming the chapters without one.
    """
    lines, problems = [], []
    for source in written:
        if source.kind != "chapter":
            continue
        summary = SUMMARY.search(source.cells[0].source)
        if not summary:
            problems.append(f"{source.at(0, 1)}: needs a line `<!-- summary: … -->` for README")
            continue
        number, _, name = source.stem.partition("_")
        text = f"- **{number}, {name.replace('_', ' ')}**: {' '.join(summary[1].split())}"
        lines.append(textwrap.fill(text, 100, subsequent_indent="  ", break_on_hyphens=False))
    if problems:
        raise BuildError(problems)
    return "\n".join(lines)


def readme(text: str, written: Iterable[Source]) -> str:
    """Return README's text with its list of chapters and its table of mechanisms made anew.

    Raises:
        BuildError: if the markers around one are missing, or a chapter has no summary.
    """
    for part in README_PARTS:
        begin = README_BEGIN.format(part)
        if text.count(begin) != 1 or README_END not in text.split(begin)[-1]:
            raise BuildError(
                [f"README.md: its {part} must stand between `{begin}` and `{README_END}`"]
            )
        before, rest = text.split(begin)
        made = chapter_list(written) if part == "chapters" else markdown_table().strip()
        text = f"{before}{begin}\n{made}\n{README_END}{rest.split(README_END, 1)[1]}"
    return text


def find_root() -> Path:
    """Return the repository: the nearest folder upwards, or the package's own, that has sources.

    Raises:
        BuildError: in neither place.
    """
    for folder in (Path.cwd(), *Path.cwd().parents, Path(attncourse.__file__).parents[1]):
        if (folder / "notebooks" / "_source").is_dir():
            return folder
    raise BuildError(["no notebooks/_source here or above: build in a clone of the course"])


def sources(root: Path, stems: Iterable[str] = ()) -> list[Path]:
    """Return the paths of the text sources, chapters first.

    Args:
        root: the repository.
        stems: which ones, as "04_window" or "04"; none means all.

    Raises:
        BuildError: for a stem that has no source.
    """
    found = [
        path
        for folder in ("notebooks", "solutions")
        for path in sorted((root / folder / "_source").glob("[0-9][0-9]_*.py"))
    ]
    stems = list(stems)
    known = {path.stem for path in found} | {path.stem[:2] for path in found}
    if unknown := [stem for stem in stems if stem not in known]:
        there = ", ".join(sorted({path.stem for path in found}))
        raise BuildError(
            [
                f"no source for {', '.join(unknown)}; there are {there}. "
                "`attncourse new chapter NN NAME` begins one"
            ]
        )
    return [path for path in found if not stems or {path.stem, path.stem[:2]} & set(stems)]


def not_on_the_map(root: Path, stem: str) -> Iterator[str]:
    """Tell if a chapter has no row in the table from which chapter 00 draws its map."""
    if not (root / ARC).exists():
        return
    with (root / ARC).open(encoding="utf-8", newline="") as file:
        rows = [row["chapter"] for row in csv.DictReader(file)]
    if stem[:2] not in rows:
        row = f"`part,{stem[:2]},what one can do then`, from which chapter 00 draws its map"
        yield f"notebooks/_source/{stem}.py: {ARC.as_posix()} lacks a row {row}"


def to_do(root: Path, source: Source) -> Iterator[str]:
    """Tell which lines of a source are still to be written, as those of a skeleton are."""
    for number, line in enumerate(_text_of(root / source.name).splitlines(), 1):
        if re.search(r"\bTODO\b", line):
            yield f"{source.name}:{number}: still says `{line.lstrip('# ')}`"


def build(root: Path, path: Path, draft: bool = False) -> str:
    """Build what comes from one source, and describe it in a line.

    Args:
        root: the repository.
        path: the source.
        draft: print what a finished source may not lack, instead of failing.

    Raises:
        BuildError: nothing was written.
    """
    source = read(path, root)
    learners = root / "exercises" / f"{source.stem}.ipynb"
    graders = root / RELEASED / learners.name
    if source.kind == "solutions" and _holds_answers(learners, graders):
        raise BuildError(
            [
                f"exercises/{learners.name} holds answers, which building would overwrite: move it "
                f"away, or give them up with `attncourse reset {source.stem[:2]}`"
            ]
        )
    chapter = source.kind == "chapter"
    unfinished = list(not_on_the_map(root, source.stem) if chapter else _spec_problems(source))
    unfinished += to_do(root, source)
    start = time.perf_counter()
    folder = path.parents[1]
    notebook = assemble(source)
    with _in_place(graders, source, notebook):
        unfinished += run(notebook, source, folder)
        if unfinished and not draft:
            raise BuildError(unfinished)
    for says in unfinished:
        print(f"draft: {says}")
    built, before = folder / f"{source.stem}.ipynb", None
    with contextlib.suppress(BuildError, FileNotFoundError):  # else there is nothing to keep
        before = _load(built)
    pictures.keep(notebook, before, IGNORING_TAGS)
    pictures.count(notebook)
    _write(built, as_text(notebook))
    if source.kind == "solutions":
        _write(learners, as_text(_to_learn_from(source, notebook)))
        _write(graders, as_text(released(source, notebook)))
    ignored, total = ignored_outputs(notebook)
    return (
        f"{folder.name}/{source.stem}.ipynb: {len(notebook.cells)} cells, {total} with outputs, "
        f"{ignored} of them ignored by nbval; {time.perf_counter() - start:.0f} s"
    )


def _spec_problems(source: Source) -> Iterator[str]:
    """Tell what the exercises of a source lack, and which of their own answers they misjudge.

    Raises:
        BuildError: they cannot be made at all.
    """
    try:
        made = exercises(source.grading)
    except Exception as error:  # whatever a spec cell raises
        raise BuildError([f"{source.name}: {type(error).__name__}: {error}"]) from error
    if not made:
        yield f"{source.name}: no exercise yet: attncourse new exercise {source.stem[:2]}.1"
    for each in made:
        try:
            lacks = each.lacks()
        except Exception as error:  # whatever a maker of cases raises
            says = f"its cases raise {type(error).__name__}: {error}"
            yield f"{source.name}: exercise {each.id}: {says}"
            continue
        yield from (f"{source.name}: {says}" for says in lacks)
        yield from (f"{source.name}: exercise {each.id}: {says}" for says in misjudged(each))


@contextlib.contextmanager
def _in_place(graders: Path, source: Source, notebook: NotebookNode) -> Iterator[None]:
    """Let the check cells find the exercises as they are now; after an error, as they were."""
    if source.kind == "chapter":
        yield
        return
    before = graders.read_bytes() if graders.exists() else None
    _write(graders, as_text(released(source, notebook)))
    try:
        yield
    except BaseException:
        if before is None:
            graders.unlink()
        else:
            graders.write_bytes(before)
        raise


def _holds_answers(path: Path, original: Path) -> bool:
    """Whether an exercise notebook differs from the copy that was released with it."""
    if not (path.exists() and original.exists()):
        return False
    here, there = (_load(p).cells for p in (path, original))
    return [cell.source for cell in here] != [cell.source for cell in there]


def _load(path: Path) -> NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError):
        raise BuildError([f"{path.parent.name}/{path.name}: not a notebook"]) from None


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != text.encode():
        path.write_text(text, encoding="utf-8", newline="\n")


def check(root: Path, path: Path) -> None:
    """Compare what was built from one source with the source, without running anything.

    Outputs are nbval's to compare; only those of the grader's copy must be the solutions', and
    each cell must store as many pictures as when it was built, whichever. What JupyterLab adds when
    it saves is left aside, and so, outside CI, are the size of pictures and an exercise notebook
    that holds a learner's answers.

    Raises:
        BuildError: naming the first cell that differs in each file.
    """
    source = read(path, root)
    built = path.parents[1] / f"{source.stem}.ipynb"
    problems = list(_differences(root, built, source, assemble(source)))
    if not problems:
        problems += _not_compared(built, source)
    if source.kind == "solutions":
        graders = root / RELEASED / built.name
        learners = root / "exercises" / built.name
        if os.environ.get("CI") or not _holds_answers(learners, graders):
            stubs = assemble(source, "exercises")
            problems += _differences(root, learners, source, stubs)
        else:
            print(f"exercises/{built.name}: holds answers, not compared")
        if not problems and _text_of(graders) != as_text(released(source, _load(built))):
            problems.append(f"{RELEASED.as_posix()}/{built.name}: not what would be built")
    if problems:
        raise BuildError(f"{says}; run `attncourse build {source.stem}`" for says in problems)


def _differences(root: Path, path: Path, source: Source, expected: NotebookNode) -> Iterator[str]:
    """Tell the first difference between a notebook on disk and the one expected, outputs apart."""
    name = path.relative_to(root).as_posix()
    if not path.exists():
        yield f"{name}: missing"
        return
    found = _load(path)
    if found.metadata.get("attncourse") != expected.metadata.attncourse:
        yield f"{name}: its metadata differ"
    for index, (here, there) in enumerate(zip_longest(found.cells, expected.cells)):
        if here is None:
            yield f"{name}: {source.at(index)} is missing"
            return
        if there is None:
            yield f"{name}: cell {index + 1} is not in {source.name}"
            return
        for field in ("cell_type", "source", "id"):
            if here.get(field) != there[field]:
                yield f"{name}: {source.at(index)} differs in its {field}"
                return
        ours = [dict(cell.metadata.get("attncourse", {})) for cell in (here, there)]
        ours[0].pop("pictures", None)  # only a run can count them
        if here.metadata.get("tags") != there.metadata.get("tags") or ours[0] != ours[1]:
            yield f"{name}: {source.at(index)} differs in its metadata"
            return


def _not_compared(path: Path, source: Source) -> Iterator[str]:
    notebook = _load(path)
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and cell.execution_count is None:
            yield f"{source.at(index)} was not run, so that nbval compares nothing"
            return
    # A learner's run saves larger ones.
    limit = pictures.LIMIT if os.environ.get("CI") else None
    for index, says in pictures.complaints(notebook, limit):
        yield f"{source.at(index)} {says}"
    if complaint := too_many_ignored(notebook):
        yield f"{source.name}: {complaint}"


def check_house(root: Path) -> None:
    """Check what belongs to no single source: notebooks without one, README's lists, coverage.

    Raises:
        BuildError: with what is wrong.
    """
    problems = [
        f"{notebook.relative_to(root).as_posix()}: has no source"
        for folder in (Path("notebooks"), Path("solutions"), Path("exercises"), RELEASED)
        for notebook in sorted((root / folder).glob("*.ipynb"))
        if not (root / _written(folder) / f"{notebook.stem}.py").exists()
        and not is_backup(notebook)
    ]
    size = pictures.all_bytes(_load(path) for path in sorted((root / "notebooks").glob("*.ipynb")))
    if os.environ.get("CI") and size > pictures.ALL_LIMIT:
        problems.append(
            f"notebooks/: pictures take {size} bytes; at most {pictures.ALL_LIMIT} are allowed"
        )
    text = (root / "README.md").read_text(encoding="utf-8")
    written = [read(path, root) for path in sources(root)]
    for source in written:
        problems += to_do(root, source)
        problems += not_on_the_map(root, source.stem) if source.kind == "chapter" else ()
    if readme(text, written) != text:
        problems.append("README.md: what is written into it is old; run `attncourse build`")
    if (root / INVENTORY).exists():
        problems += coverage.missing(written, root)
        if _text_of(root / COVERAGE) != coverage.markdown(written, root):
            problems.append(f"{COVERAGE.as_posix()}: old; run `attncourse build`")
    if problems:
        raise BuildError(problems)


def _written(folder: Path) -> Path:
    """Return the folder with the sources of a folder of notebooks."""
    return Path("notebooks" if folder.name == "notebooks" else "solutions", "_source")


def build_house(root: Path, draft: bool = False) -> None:
    """Write README's lists and the table of what is handled where.

    Args:
        root: the repository.
        draft: write nothing, and only count what is left out.

    Raises:
        BuildError: naming what a written chapter leaves out, or covers by nothing.
    """
    path = root / "README.md"
    written = [read(path, root) for path in sources(root)]
    missing = coverage.missing(written, root) if (root / INVENTORY).exists() else []
    if draft:
        if missing:
            print(f"draft: coverage lacks {len(missing)} things, such as\n  {missing[0]}")
        return
    if missing:
        raise BuildError(missing)
    texts = {path: readme(path.read_text(encoding="utf-8"), written)}
    if (root / INVENTORY).exists():
        texts[root / COVERAGE] = coverage.markdown(written, root)
    for place, text in texts.items():  # all of them, or none
        _write(place, text)


def _chapters_last(path: Path) -> tuple[bool, bool]:
    """Sort by this: chapter 00 lists the exercises of all, and how long each chapter takes."""
    chapter = path.parents[1].name == "notebooks"
    return chapter, chapter and path.stem.startswith("00_")


def main(
    stems: Iterable[str] = (),
    *,
    only_check: bool = False,
    draft: bool = False,
    root: Path | None = None,
) -> int:
    """Build or check everything that comes from the given stems, and print what was done.

    Returns:
        0, or 1 if anything failed; whatever notebook can be built is built all the same.
    """
    problems: list[str] = []
    try:
        root = root or find_root()
        paths = sources(root, stems)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    for path in sorted(paths, key=_chapters_last):
        try:
            if only_check:
                check(root, path)
            else:
                print(build(root, path, draft), flush=True)
        except BuildError as error:
            problems += error.problems
    try:
        if only_check:
            check_house(root)
        elif not problems:  # else the lists would tell of what was not built
            build_house(root, draft)
    except BuildError as error:
        problems += error.problems
    for problem in problems:
        print(problem, file=sys.stderr)
    if only_check and not problems:
        print(f"{len(paths)} sources: everything built from them is current")
    return 1 if problems else 0


def add_parsers(subparsers: argparse._SubParsersAction) -> None:
    """Add `attncourse build`."""
    parser = subparsers.add_parser("build", description=__doc__.split("\n")[0])
    parser.add_argument("stems", nargs="*", metavar="STEM", help="04_window, or 04; none means all")
    parser.add_argument("--check", action="store_true", help="compare only, run nothing")
    parser.add_argument(
        "--draft", action="store_true", help="name what is not finished yet, and build all the same"
    )
    parser.set_defaults(run=lambda args: main(args.stems, only_check=args.check, draft=args.draft))
