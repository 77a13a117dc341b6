"""The site: explorers and guesses that need no kernel, and every page of it in a browser."""

import base64
import contextlib
import functools
import html
import http.server
import importlib
import itertools
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import lab
import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from attncourse import plots, widgets

ROOT = Path(__file__).parents[1]
SITE = ROOT / "site"
PIXEL = base64.b64encode(plots.png(Figure(figsize=(1, 1)))).decode()


@pytest.fixture
def load(monkeypatch):
    """Import a module of site/."""
    monkeypatch.syspath_prepend(str(SITE))
    return importlib.import_module


def shown_by(recorder, cell):
    """What a cell shows where the recorder is installed."""
    live = plots.LiveMask(np.eye(4, dtype=bool))

    def diagonal(k, name, flip):
        live.update(np.eye(4, k=k, dtype=bool)[:: -1 if flip else 1])
        return f"Diagonal {k} <{name}>{', flipped' * flip}."

    def other(w):
        live.update(np.eye(4, k=w, dtype=bool))
        return f"Now {w}."

    made = {
        "two": lambda: widgets.explore(diagonal, live.figure, k=(-1, 1, 1, 1), name=["a", "b"],
                                       flip=False),
        "one": lambda: widgets.explore(other, live.figure,
                                       w=widgets.choice({"none": 0, "one": 1, "two": 2}, 1)),
        "guess": lambda: widgets.guess("How many?", lambda: 12, unit="words",
                                       explain="Four times three."),
        "form": lambda: widgets.form(lambda n: (f"{n} rows.", [{"row": "r"}]), "Show", n=[8, 16]),
    }  # fmt: skip
    if cell not in made:
        return []
    bundle = made[cell]()._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    before = [{"data": {"image/png": PIXEL}}] * (cell == "two")
    return list(recorder.records([*before, {"data": data}]))


def stored(text, picture=False):
    """What a build keeps of a widget."""
    told = new_output("display_data", data={"text/plain": text})
    about = {"image/png": {"alt": text, "width": 720}}
    return [new_output("display_data", data={"image/png": PIXEL}, metadata=about)] * picture + [
        told
    ]


def test_a_chapter_becomes_a_page_that_needs_no_kernel(load, tmp_path, monkeypatch):
    cells = [new_code_cell(cell) for cell in ("setup", "two", "one", "guess", "form", "1")]
    cells[1].outputs = [*stored("A picture.", True), *stored("Diagonal 1 <a>.", True)]
    cells[2].outputs = stored("Now 1.", True)
    cells[3].outputs = stored("Guess first: How many? (no field to type into?)")
    cells[4].outputs = stored("Show: choose n. Nothing has been run yet.")
    about = {"text/html": '<a href="04_toy.ipynb#A-b">04</a>', "text/plain": "a map"}
    cells[5].outputs = [new_output("display_data", data=about)]
    link = "see [`code`](../notebooks/04_toy.ipynb#A-b) and `heads[i](x)`"
    cells.append(new_markdown_cell(f"{link}, [its solution](../solutions/04_toy.ipynb)"))
    notebooks = tmp_path / "course" / "notebooks"
    notebooks.mkdir(parents=True)
    (notebooks.parent / "solutions").mkdir()
    for folder in (notebooks, notebooks.parent / "solutions"):
        nbformat.write(new_notebook(cells=cells), folder / "04_toy.ipynb")

    recorder = load("recorder")
    for kind in (widgets.Explorer, widgets.Guess, widgets.Form, widgets.Table):
        monkeypatch.setattr(kind, "_repr_mimebundle_", kind._repr_mimebundle_)  # to be put back
    for module in (plots, plots.base):
        monkeypatch.setattr(module, "png", module.png)
    recorder.install()
    recorded = [shown_by(recorder, cell.source) for cell in cells]
    media = load("html_parts").Media(tmp_path / "media", "../media")
    written = load("pages").Pages(notebooks.parent, tmp_path / "pages", media, ["04_toy"])
    written._notebook("notebooks/04_toy.ipynb", json.loads(json.dumps(recorded)))

    page = nbformat.read(tmp_path / "pages" / "notebooks" / "04_toy.ipynb", as_version=4)
    shown = [
        [output.data.get("text/html", "") for output in cell.get("outputs", ())]
        for cell in page.cells
    ]
    assert [len(outputs) for outputs in shown] == [0, 2, 1, 1, 1, 1, 0]
    assert "<figcaption>A picture.</figcaption>" in shown[1][0]
    explorer = shown[1][1]
    assert re.findall(r'<label for="([^"]+)">(\w+)</label><(\w+) id="([^"]+)"', explorer) == [
        (f"w1-1-{place}", label, tag, f"w1-1-{place}")
        for place, (label, tag) in enumerate(
            [("k", "input"), ("name", "select"), ("flip", "input")]
        )
    ]
    assert 'type="range" min="0" max="2" value="2"' in explorer and 'type="checkbox"' in explorer
    assert 'role="status" aria-live="polite">Diagonal 1 &lt;a&gt;.<' in explorer
    assert 'alt="Diagonal 1 &lt;a&gt;."' in explorer and explorer.count("</script>") == 1
    data = json.loads(re.search(r'json">(.*)</script>', explorer)[1])
    settings = itertools.product((-1, 0, 1), "ab", ("", ", flipped"))
    assert [words for _, words in data["frames"]] == [
        f"Diagonal {k} <{name}>{flip}." for k, name, flip in settings
    ]
    assert all((tmp_path / "media" / Path(image).name).exists() for image in data["images"])
    assert len(data["images"]) == 6  # a name changes nothing in the picture
    words = re.search(r'data-words="([^"]+)" aria-valuetext="one"', shown[2][0])
    assert json.loads(html.unescape(words[1])) == ["none", "one", "two"]
    assert "How many?" in shown[3][0] and 'data-answer="12 words"' in shown[3][0]
    assert "<p>Four times three.</p>" in shown[3][0]
    assert "8 rows." in shown[4][0] and "need a kernel" in shown[4][0]
    assert shown[5] == ['<a href="04_toy.html#A-b">04</a>']
    assert "[`code`](04_toy.ipynb#A-b)" in page.cells[-1].source
    assert "`heads[i](x)`" in page.cells[-1].source
    assert "(../exercises/04_toy.ipynb)" in page.cells[-1].source


def test_a_chapter_is_recorded_without_a_kernel_and_draws_only_what_is_shown(tmp_path):
    cells = [
        "import numpy as np\nfrom attncourse import plots, widgets",
        "live = plots.LiveMask(np.eye(4))\ndef draw(k):\n"
        "    live.update(np.eye(4, k=k))\n    return f'Diagonal {k}.'",
        "plots.show(live.figure, 'One.')\nwidgets.explore(draw, live.figure, k=(-1, 1, 1, 0))",
        "widgets.guess('How many?', 12, explain=lambda: plots.heatmap(np.eye(3)))",
        "widgets.guess('Not shown?', 12);",
    ]
    made = tmp_path / "04_toy.ipynb"

    def run(sources):
        nbformat.write(new_notebook(cells=[new_code_cell(each) for each in sources]), made)
        code = (
            f"import chapters, json; print(json.dumps(chapters.run(chapters.Path({str(made)!r}))))"
        )
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(SITE), str(ROOT)])},
        )  # fmt: skip

    done = run(cells)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [len(each) for each in found] == [0, 0, 1, 1, 0]
    [[before, explorer]], [[_, guess]] = found[2:4]
    assert before == 1 and len(set(explorer["images"])) == 3
    assert [words for _, words in explorer["frames"]] == [f"Diagonal {k}." for k in (-1, 0, 1)]
    pictures = [one["data"].get("image/webp", "") for one in guess["outputs"]]
    assert max(map(len, pictures)) > 1000  # drawn, although a stored picture is not
    failed = run([*cells[:1], "1 / 0"])
    assert "04_toy.ipynb: cell 2: ZeroDivisionError: division by zero" in failed.stderr


def test_the_settings_of_an_explorer_are_few_and_begin_with_its_main_slider(load):
    recorder = load("recorder")
    assert recorder.plan([("range", 48)]) == [40]
    assert recorder.plan([("select", 5)]) == [5]
    assert recorder.plan([("range", 25), ("range", 4), ("select", 3)]) == [8, 1, 3]
    assert recorder.plan([("fixed", 1), ("checkbox", 2)]) == [1, 2]
    for total, count in itertools.product(range(3, 60), range(3, 41)):
        for start in (0, total // 2, total - 1):
            if count <= total:
                places = recorder.spread(total, count, start)
                assert start in places and {0, total - 1} <= set(places)
                assert len(set(places)) == count


def test_a_docstring_keeps_its_characters_and_its_examples(load):
    lines = "Sum |x| *d.\n\n    a = f(*b)\n\nReads `c_` and d_ too.\nArgs:\n    x: One.".split("\n")
    load("docstrings").as_rst(None, "", "", None, None, lines)
    told = "\n".join(lines)
    assert "Sum \\|x\\| \\*d." in told and "\n::\n\n    a = f(*b)\n" in told
    assert "`c_` and d\\_ too." in told and told.endswith("Args:\n    x: One.")


# By night: all of it, in a browser


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, *args):
        """A browser that goes on to the next page takes no more of the last one."""


@contextlib.contextmanager
def served(folder):
    """Serve a folder, and yield its address."""
    handler = functools.partial(Quiet, directory=folder)
    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


SHOWN = "box => [box.querySelector('img').src, box.querySelector('[role=status]').textContent]"
IN_WIDTH = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
# What explorers and guesses say, and text, that hardly differs from what is behind it.
PALE = """() => {
    const light = colour => {
        const [r, g, b, a] = colour.match(/[\\d.]+/g).map(Number);
        const linear = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        return a === 0 ? null : 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    };
    const behind = one => {
        for (; one; one = one.parentElement) {
            const found = light(getComputedStyle(one).backgroundColor);
            if (found !== null) return found;
        }
        return 1;
    };
    const asked = '.course-explorer [role=status], .course-explorer label, .course-guess *, ' +
        '.bd-article p, .bd-article figcaption';
    const contrast = one => {
        const [a, b] = [light(getComputedStyle(one).color), behind(one)].sort((a, b) => a - b);
        return (b + 0.05) / (a + 0.05);
    };
    const pale = [...document.querySelectorAll(asked)].filter(
        one => one.checkVisibility() && one.textContent.trim() && contrast(one) < 4.5);
    const said = one => `${contrast(one).toFixed(1)}: ${one.textContent.trim().slice(0, 60)}`;
    return pale.slice(0, 3).map(said);
}"""
# A slider passes every value; other controls take each of theirs.
KEYS = {"range": ["Home", "ArrowRight", "End"], "checkbox": ["Space"]}


BACK = """([one, place]) => {
    if (one.type === 'checkbox') one.checked = place;
    else if (one.tagName === 'SELECT') one.selectedIndex = place;
    else one.value = place;
    one.dispatchEvent(new Event('input', {bubbles: true}));
}"""
PLACE = "one => one.type === 'checkbox' ? one.checked : one.selectedIndex ?? one.value"


def moved(page, explorer):
    """Move each control of an explorer and back; yield it with all that was seen meanwhile."""
    for control in explorer.locator("[data-count]").all():
        seen, place = {tuple(explorer.evaluate(SHOWN))}, control.evaluate(PLACE)
        kind = control.get_attribute("type")
        if kind:
            control.focus()
            for key in KEYS[kind]:
                page.keyboard.press(key)
                seen.add(tuple(explorer.evaluate(SHOWN)))
        else:
            for index in range(int(control.get_attribute("data-count"))):
                control.select_option(index=index)
                seen.add(tuple(explorer.evaluate(SHOWN)))
        page.evaluate(BACK, [control.element_handle(), place])
        yield control, seen


@pytest.mark.nightly
@pytest.mark.browser
@pytest.mark.timeout(2400)
def test_every_page_loads_by_itself_and_every_slider_moves(record_property):
    pytest.importorskip("sphinx_book_theme", reason="`make site` installs what builds the site")
    chapters = os.environ.get("ATTNCOURSE_SITE_CHAPTERS", "").split()  # none means all
    built = subprocess.run(
        [sys.executable, SITE / "build.py", *chapters], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-4000:]
    folder = SITE / "_build" / "html"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size < 60e6
    wrong, explorers, controls, guesses = [], 0, 0, 0
    with lab.browser() as browser, served(folder) as address:
        page = browser.new_page()
        page.on("console", lambda told: told.type == "error" and wrong.append(told.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda asked: "ABORTED" in asked.failure  # by the next page
                or wrong.append(f"failed: {asked.url}"))  # fmt: skip
        page.on("response", lambda got: got.status >= 400 and wrong.append(f"missing: {got.url}"))
        page.on("request", lambda asked: asked.url.startswith((address, "data:"))
                or wrong.append(f"leaves the site: {asked.url}"))  # fmt: skip
        pages = [path for path in sorted(folder.rglob("*.html")) if path.parent.name != "_static"]
        names = [path.relative_to(folder).as_posix() for path in pages]
        assert not [path for path in pages if str(ROOT) in path.read_text(encoding="utf-8")]
        page.set_viewport_size({"width": 390, "height": 800})  # a phone's
        for name in names:
            page.goto(address + name, wait_until="load")
            if page.locator(".math").count():
                page.wait_for_function("() => document.querySelector('mjx-container')")
            if too_wide := page.evaluate(IN_WIDTH):
                wrong.append(f"{name}: {too_wide} pixels wider than a phone")
            for explorer in page.locator(".course-explorer").all():
                explorers += 1
                frames = json.loads(explorer.locator("script").text_content())["frames"]
                every = set()
                for control, seen in moved(page, explorer):
                    controls += 1
                    every |= seen
                    if len(seen) == 1 and len(set(map(tuple, frames))) > 1:
                        wrong.append(f"{name}: {control.get_attribute('id')} changes nothing")
                for place, part in enumerate(zip(*every, strict=True)):
                    if len(set(part)) == 1 < len({frame[place] for frame in frames}):
                        wrong.append(f"{name}: an explorer keeps its {part[0]}")
                explorer.locator("img").evaluate(
                    "async image => { image.loading = 'eager'; await image.decode(); }"
                )
            for guess in page.locator(".course-guess").all():
                guesses += 1
                guess.locator("input").fill("1")
                guess.get_by_role("button").click()
                assert guess.get_by_text(re.compile("You said 1; it is .")).count() == 1
            if too_wide := page.evaluate(IN_WIDTH):
                wrong.append(f"{name}: {too_wide} pixels wider than a phone, once used")
            for theme in ("light", "dark"):
                page.emulate_media(color_scheme=theme)
                page.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")
                wrong += [f"{name}, {theme}: {pale}" for pale in page.evaluate(PALE)]
            if name == "audit.html":
                page.get_by_role("searchbox").fill("window zzz")
                assert page.get_by_text(re.compile("^0 of 4")).count() == 1
        page.goto(f"{address}search.html?q=window")
        page.locator("#search-results li a").first.wait_for()
        page.wait_for_load_state("networkidle")  # it fetches what it found
    record_property(
        "measured",
        f"site: {len(names)} pages, {explorers} explorers with {controls} controls, "
        f"{guesses} guesses, {size / 1e6:.0f} MB",
    )
    assert not wrong, "\n".join(wrong)
    sources = [path.read_text() for path in (ROOT / "notebooks" / "_source").glob("*.py")]
    written = [
        sum(len(re.findall(rf"widgets\.({shows})\(", source)) for source in sources)
        for shows in ("explore|in_a_real_model", "guess")
    ]
    assert chapters or [explorers, guesses] == written
