"""The notebooks as a learner meets them: JupyterLab in a real browser, moved by the keyboard.

ATTNCOURSE_SCREENSHOTS names a folder to keep what was seen.
"""

import json
import os
import re
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import lab
import nbformat
import pytest
from covering import NIGHTLY

SIZES = {"large": (1400, 1000), "laptop": (1280, 720)}
CHAPTERS = sorted(path.stem for path in (lab.ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
DAILY = "00_start"  # where everybody begins; a chapter takes a minute of both cores, so: by night
SHOWN = {"image/png", "application/vnd.jupyter.widget-view+json"}
# Resolves when picture and sentence of an explorer have changed and the picture is decoded, or only
# the sentence where the picture may be `still`; the clock starts with the key.
WATCH = """([box, still]) => {
    const picture = () => box.querySelector('img');
    const [source, sentence] = [picture().src, box.querySelector('[role=status]').textContent];
    let start;
    box.addEventListener('keydown', event => { start = event.timeStamp; },
                         {capture: true, once: true});
    window.changed = new Promise(resolve => {
        const look = async () => {
            if (picture().src === source && !still) return;
            if (box.querySelector('[role=status]').textContent === sentence) return;
            observer.disconnect();
            await picture().decode();
            resolve(performance.now() - start);
        };
        const observer = new MutationObserver(look);
        observer.observe(box, {childList: true, subtree: true, attributes: true,
                               characterData: true});
    });
}"""
CHANGED = """() => Promise.race([window.changed,
                                 new Promise(resolve => setTimeout(resolve, 20000, null))])"""

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    """A page of JupyterLab, and the folder that its notebooks lie in."""
    with lab.browser() as browser, lab.server(tmp_path_factory.mktemp("lab")) as (address, course):
        page = browser.new_page(
            viewport=dict(zip(("width", "height"), SIZES["large"], strict=True))
        )
        page.set_default_timeout(30_000)
        page.goto(address)
        page.wait_for_function("() => window.jupyterapp", timeout=60_000)
        yield page, course


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(stem, marks=() if stem == DAILY else pytest.mark.nightly) for stem in CHAPTERS
    ],
)
def chapter(jupyter, request):
    """A chapter, all of its cells run; `unrun` is its number of pictures and its text before."""
    notebook = lab.Notebook(jupyter[0], f"notebooks/{request.param}.ipynb")
    stored = sum("image/png" in out.get("data", {}) for c in notebook.cells for out in c["outputs"])
    if stored:
        notebook.pictures.nth(stored - 1).wait_for()
    notebook.unrun = (notebook.pictures.count(), notebook.box.inner_text())
    notebook.run_all()
    yield notebook
    notebook.close()


@pytest.fixture
def photograph():
    """Save a picture of the window at each size, with the given cell's picture or top in view."""
    if not (kept := os.environ.get("ATTNCOURSE_SCREENSHOTS")):  # pictures are for people
        return lambda *what: None
    folder = Path(kept)
    folder.mkdir(parents=True, exist_ok=True)

    def photograph(notebook, index, name):
        for size, (width, height) in SIZES.items():
            notebook.page.set_viewport_size({"width": width, "height": height})
            notebook.show(index)
            path = folder / f"{name}_{size}.png"
            notebook.page.screenshot(path=path)
            assert path.stat().st_size > 10_000

    return photograph


WITHOUT = "Chromium does not start|playwright is not installed"


# First: Playwright cannot start a second time while the other tests' browser is open.
def test_a_missing_browser_is_a_reason_to_skip_unless_it_is_required(monkeypatch):
    monkeypatch.delenv("ATTNCOURSE_REQUIRE_BROWSER", raising=False)
    monkeypatch.setenv("ATTNCOURSE_CHROMIUM", "/nowhere/chromium")
    with pytest.raises(pytest.skip.Exception, match=WITHOUT), lab.browser():
        pass
    monkeypatch.setenv("ATTNCOURSE_REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match=WITHOUT), lab.browser():
        pass


def test_all_cells_run(chapter):
    cells = [cell for cell in chapter.cells if cell["type"] == "code"]
    errors = [out for cell in cells for out in cell["outputs"] if out["output_type"] == "error"]
    assert not errors
    assert chapter.box.get_by_text("Error displaying widget").count() == 0
    assert chapter.page.locator(".Toastify__toast").count() == 0  # a notice would lie over the text


def test_pictures_are_seen_before_the_first_run_which_replaces_them(chapter):
    before, text = chapter.unrun
    assert before == chapter.pictures.count() > 0
    assert "Loading widget" not in text and "Error displaying widget" not in text


def test_headings_are_an_outline(chapter):
    levels = [
        int(level)
        for level in chapter.box.locator(
            ".jp-RenderedMarkdown :is(h1, h2, h3, h4, h5, h6)"
        ).evaluate_all("all => all.map(heading => heading.tagName[1])")
    ]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))


def test_every_picture_is_there_in_words(chapter):
    """An explorer's picture has its sentence as alternative text; others have a caption."""
    live = chapter.explorers.locator("img")
    for alt, said in zip(
        live.evaluate_all("all => all.map(one => one.alt)"),
        chapter.explorers.get_by_role("status").all_text_contents(),
        strict=True,
    ):
        assert len(alt) > 10 and alt == said
    shown = [
        (output["metadata"].get("image/png", {}).get("alt"), after)
        for cell in chapter.cells
        for output, after in pairwise([*cell["outputs"], None])
        if SHOWN & output.get("data", {}).keys() == {"image/png"}
    ]
    assert shown
    for alt, after in shown:
        assert len(alt) > 10 and alt == "".join(after["data"]["text/plain"])
    assert chapter.pictures.count() == live.count() + len(shown)


CONTROLS = '[role=slider], input[type="checkbox"], input[type="radio"]:checked, select'


def test_every_slider_moves_by_keyboard(chapter, record_property):
    page, explorers = chapter.page, chapter.explorers
    controls = json.loads(
        chapter.ask(
            "import gc, json\n"
            "from attncourse.widgets import Explorer\n"
            "found = [one for one in gc.get_objects() if type(one) is Explorer]\n"
            "print(json.dumps([len(one.controls) for one in found]))"
        )
    )
    shows = r"widgets\.(explore|in_a_real_model)\("  # either shows one explorer
    written = sum(len(re.findall(shows, cell["source"])) for cell in chapter.cells)
    assert explorers.count() == len(controls) == written
    n_controls = sum(explorer.locator(CONTROLS).count() for explorer in explorers.all())
    assert n_controls == sum(controls)
    waits = []
    flash = chapter.path.endswith("09_flash.ipynb")
    for number, explorer in enumerate(explorers.all(), 1):
        still = flash and number == len(controls)  # the model's page is all white
        box, status = explorer.element_handle(), explorer.get_by_role("status")
        for handle in explorer.locator(CONTROLS).all():
            before = status.inner_text()
            for place, key in moves_for(handle):
                place.focus()
                page.evaluate(WATCH, [box, still])
                for each in key.split():
                    page.keyboard.press(each)
                wait = page.evaluate(CHANGED)
                assert wait is not None, f"{key} changes nothing: {before}"
                waits.append(wait)
            assert status.inner_text() == before
    if not waits:  # a chapter may do without
        return
    record_property(
        "measured",
        f"{Path(chapter.path).stem}: {n_controls} controls; from key to new picture and "
        f"sentence: median {statistics.median(waits):.0f} ms, longest {max(waits):.0f} ms",
    )


def moves_for(handle):
    """Where to press which key to move a control, and to move it back."""
    if handle.evaluate("one => one.type") == "radio":  # without a name: Tab goes from one to one
        chosen = handle.element_handle()  # a locator would find whatever is checked by then
        group = chosen.evaluate_handle("one => one.closest('.widget-radio')").as_element()
        other = group.query_selector('input[type="radio"]:not(:checked)')
        return (other, "Space"), (chosen, "Space")
    there, back = keys_for(handle)
    return (handle, there), (handle, back)


def keys_for(handle):
    """The keys that move a control, and move it back."""
    kind = handle.evaluate("one => one.type")  # undefined for a slider, which is no input
    if kind == "checkbox":
        return "Space", "Space"
    if kind == "select-one":
        at_end = handle.evaluate("one => one.selectedIndex === one.options.length - 1")
        down, up = "Space ArrowDown Enter", "Space ArrowUp Enter"  # closed, it hears no arrow
        return (up, down) if at_end else (down, up)
    at_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
    return ("ArrowLeft", "ArrowRight") if at_end else ("ArrowRight", "ArrowLeft")


def test_a_form_runs_when_its_button_is_pressed(chapter):
    button = chapter.page.locator(".jupyter-button")
    for form in chapter.box.locator(f".widget-vbox:not({lab.GUESS})").filter(has=button).all():
        assert form.get_by_role("status").inner_text() == "Nothing has been run yet."
        form.locator(".jupyter-button").click()
        form.locator("table").wait_for()
        assert form.locator("tbody tr").count() > 0
        assert form.get_by_role("status").inner_text() not in ("", "Nothing has been run yet.")


def test_scenes_of_the_chapter(chapter, photograph):
    """The top, and each cell that shows a picture or a slider."""
    stem = Path(chapter.path).stem
    shown = [
        index
        for index, cell in enumerate(chapter.cells)
        if any(SHOWN & set(output.get("data", {})) for output in cell["outputs"])
    ]
    assert shown
    for index in (0, *shown):
        photograph(chapter, index, f"{stem}_cell_{index + 1:03}")


def test_every_guess_meets_an_answer(chapter):
    """Last: from here on the pictures of the answers are in the page too."""
    for guess in chapter.box.locator(lab.GUESS).all():
        assert guess.locator("img").count() == 0
        guess.get_by_label("Your guess").press_sequentially("1")
        chapter.page.keyboard.press("Enter")
        guess.get_by_text(re.compile("You said 1|cannot be found")).wait_for(timeout=60_000)
        chapter.ask("pass")  # is answered after the explanation
        assert "cannot be" not in guess.get_by_role("status").inner_text()


ASKED = """def explain(answer):
    return f"{4096} × {4096} scores, {answer // 4096**2} bytes each."
widgets.guess("How many bytes do the scores of 4096 tokens take?", lambda: 4096**2 * 4,
              unit="B", explain=explain)"""
ANSWER = "You said 4 MiB; it is 64 MiB: 16 times as much."


def test_a_guess_is_typed_before_the_answer_is_in_the_page(jupyter, photograph):
    page, course = jupyter
    cells = map(nbformat.v4.new_code_cell, ("from attncourse import widgets", ASKED))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    written = nbformat.v4.new_notebook(cells=list(cells), metadata={"kernelspec": kernel})
    nbformat.write(written, course / "notebooks" / "guess.ipynb")
    notebook = lab.Notebook(page, "notebooks/guess.ipynb")
    notebook.run_all()
    guess = notebook.box.locator(lab.GUESS)
    field, status = guess.get_by_label("Your guess"), guess.get_by_role("status")
    field.click()
    page.keyboard.type("four")
    page.keyboard.press("Enter")
    guess.get_by_text("A guess is a number of bytes above 0").wait_for()
    photograph(notebook, 1, "guess_before")
    seen = notebook.box.inner_html()  # other chapters may be open, and say what they like
    assert "64 MiB" not in seen and "4 bytes each" not in seen
    field.click()
    page.keyboard.press("Control+A")
    page.keyboard.type("4 MiB")
    page.keyboard.press("Enter")
    guess.get_by_text("4096 × 4096 scores, 4 bytes each.").wait_for()
    assert status.inner_text() == guess.locator("img").get_attribute("alt") == ANSWER
    photograph(notebook, 1, "guess_after")

    notebook.cell(1).locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    guess.get_by_role("button", name="Show my guess").focus()
    assert "64 MiB" not in guess.inner_text()
    page.keyboard.press("Enter")
    guess.get_by_text(ANSWER).wait_for()
    notebook.close()


def test_an_exercise_from_first_look_to_grade(jupyter, photograph, tmp_path):
    page, course = jupyter
    exercises = lab.Notebook(page, "exercises/04_window.ipynb")
    roles = [cell["metadata"].get("attncourse", {}) for cell in exercises.cells]
    setup = roles.index({"role": "setup"})
    answer, check = (roles.index({"role": r, "exercise": "04.1"}) for r in ("answer", "check"))

    def run(index, text=None):
        """Type a text into a cell if given, run it, and return what it shows."""
        cell = exercises.cell(index)
        cell.locator(".cm-content").click()
        if text is not None:
            page.keyboard.press("Control+A")
            page.keyboard.insert_text(text)
        was = cell.locator(".jp-InputPrompt").first.inner_text()
        page.keyboard.press("Shift+Enter")
        page.wait_for_function(
            "([cell, was]) => { const now = cell.querySelector('.jp-InputPrompt').innerText;"
            " return now !== was && /\\d/.test(now); }",
            arg=[cell.element_handle(), was],
        )
        return cell.locator(".jp-OutputArea-output").all_inner_texts()

    run(setup)
    run(answer)
    assert "".join(run(check)).startswith("○ 04.1 Window mask: not attempted")

    stub = exercises.cells[answer]["source"]
    head = stub.partition("raise NotImplementedError")[0]
    wrong = "i, j = np.ogrid[:n_queries, :n_keys]\nreturn abs(i - j) < window"
    run(answer, head + wrong.replace("\n", "\n    "))
    said = "".join(run(check))
    assert said.startswith("✗ 04.1 Window mask: failed")
    assert all(f"{part}:" in said for part in ("Case", "Where", "Cause", "Next"))
    assert "use <= for the distance, not <" in said
    photograph(exercises, answer, "04_exercise_failed")

    exercises.cell(check).locator(".cm-content").click()
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    hint = "".join(run(check + 1, 'hint("04.1")'))
    assert re.match(r"04\.1 Window mask: hint 1 of 3\n.{20,}", hint)

    right = (
        "offset = np.arange(n_keys) - np.arange(n_queries)[:, None] - n_keys + n_queries\n"
        "return (offset >= -window) & (offset <= (0 if causal else window))"
    )
    run(answer, head + right.replace("\n", "\n    "))
    assert "".join(run(check)).startswith("✓ 04.1 Window mask: passed, 2/2 points")
    photograph(exercises, answer, "04_exercise_passed")

    exercises.save()
    saved = json.loads((course / exercises.path).read_text(encoding="utf-8"))
    assert right.splitlines()[-1] in "".join(saved["cells"][answer]["source"])
    if not NIGHTLY:  # what grades a file that is saved has its own tests
        exercises.close()
        return
    report = tmp_path / "report.json"
    graded = subprocess.run(
        [sys.executable, "-m", "attncourse.cli", "grade", exercises.path, "--json", str(report)],
        cwd=course,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert report.exists(), graded.stdout + graded.stderr
    results = json.loads(report.read_text(encoding="utf-8"))["exercises"]
    assert [one["exercise"] for one in results if one["score"]] == ["04.1"]
    exercises.close()
