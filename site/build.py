"""Builds the course as a site that needs no kernel: `make site`, or `python site/build.py`.

The stored notebooks become pages. Each chapter is run once by a recorder, so that its sliders can
move without a kernel; what was recorded is kept in site/_build until the course changes.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
BUILT = HERE / "_build"
HTML = BUILT / "html"


def main(argv: list[str] | None = None) -> int:
    """Build the site, or some of its chapters, and say where it lies and what it weighs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stems", nargs="*", metavar="STEM", help="04_window, or 04; none means all")
    args = parser.parse_args(argv)
    # Before anything of the course is imported, here or in the workers.
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "ATTNCOURSE_SITE": str(HERE)}
    os.environ.setdefault("TRITON_INTERPRET", "1")
    import chapters
    import html_parts
    from pages import Pages

    start = time.perf_counter()
    stems = sorted(path.stem for path in (chapters.ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    stems = [stem for stem in stems if not args.stems or {stem, stem[:2]} & set(args.stems)]
    for name, seconds in chapters.record(stems):
        print(f"recorded {name}: {seconds:.0f} s", flush=True)
    seconds = time.perf_counter() - start
    folder = BUILT / "pages"
    for old in (folder, HTML, BUILT / "doctrees"):
        shutil.rmtree(old, ignore_errors=True)
    media = html_parts.Media(folder / "_extra" / "media", "../media")
    Pages(chapters.ROOT, folder, media, stems).write(chapters.recorded)
    shutil.copy(HERE / "conf.py", folder)
    copy_mathjax(folder / "_static" / "mathjax")
    from sphinx.cmd.build import build_main

    settings = ["-b", "html", "-j", "2", "-q", "-d", str(BUILT / "doctrees")]
    if args.stems:  # to look at while one writes: links to the other chapters lead nowhere
        settings += ["-D", "suppress_warnings=myst.xref_missing,mystnb.unknown_mime_type"]
    else:
        settings += ["-W", "--keep-going"]
    failed = build_main([*settings, str(folder), str(HTML)])
    size = sum(path.stat().st_size for path in HTML.rglob("*") if path.is_file()) / 1e6
    print(
        f"{HTML.relative_to(chapters.ROOT)}: {size:.0f} MB; recording took {seconds:.0f} s, "
        f"all of it {time.perf_counter() - start:.0f} s. To look at it:\n"
        f"  {Path(sys.executable).name} -m http.server -d {HTML.relative_to(chapters.ROOT)}"
    )
    return failed


def copy_mathjax(folder: Path) -> None:
    """Copy what pages load of MathJax: one script, and fonts."""
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise SystemExit("site/build.py: sphinx-mathjax-offline is not installed; run `make site`")
    source = Path(spec.origin).parent / "static" / "mathjax"
    shutil.copytree(source / "output" / "chtml" / "fonts", folder / "output" / "chtml" / "fonts")
    shutil.copy(source / "tex-chtml-full.js", folder)


if __name__ == "__main__":
    sys.exit(main())
