"""The app in Chromium while `medvit predict` works: the list fills, films in a zip open, an earlier film stands beside one."""

import io
import json
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import tiny
from conftest import _make_film
from PIL import Image as Pillow
from review_runs import App, leave_films
from test_review_browser import ARTEFACTS, browser

from apps.review.runs import Run

__all__ = ["browser"]  # a fixture of the other file
pytestmark = pytest.mark.slow
FILMS, IN_ZIP, PATIENCE_S = 30, 3, 90
PATIENT = {"PatientBirthDate": "19500101", "PatientSex": "F"}


@pytest.fixture(scope="module")
def watched(browser, trained, tmp_path_factory):
    """A `predict` that was stopped on its way, and the app over it and over a run of large films."""
    folder = tmp_path_factory.mktemp("watched")
    with zipfile.ZipFile(folder / "films.zip", "w") as archive:
        for index in range(FILMS):
            header = {**PATIENT, "PatientID": str(index // 2), "StudyDate": ("20240102", "20240326")[index % 2]}
            film = _make_film(
                folder / f"films/{index:02d}.dcm", tiny.draw(index, bool(index % 2), False), bits=8, **header
            )
            if index >= FILMS - IN_ZIP:
                archive.write(film, film.name)
                film.unlink()
    command = [sys.executable, "-m", "medvit", "predict", trained.checkpoint, "films", "films.zip", "-o", "answers",
               "--workers", "1", "--batch-size", "1", "--write", "csv,heat"]  # fmt: skip
    process = subprocess.Popen(
        list(map(str, command)), cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        stop_early(process, folder / "answers/records.jsonl")
        leave_films(folder, _make_film, ((0.9, 0.2, 0.6),))
        app = App(folder / "answers", folder / "out", inputs=folder)
        app.folder, app.predict = folder, process
        yield app
        app.close()
    finally:
        process.kill()
        process.wait()


def stop_early(process, records):
    """Let a run go until it has answered something, then hold it."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and process.poll() is None:
        if records.exists() and records.read_bytes().count(b"\n") >= 2:
            process.send_signal(signal.SIGSTOP)
            return
        time.sleep(0.002)
    raise AssertionError("it answered nothing, or ended before it could be watched")


def let_go(watched):
    """Let the run come to its end."""
    if watched.predict.poll() is None:
        watched.predict.send_signal(signal.SIGCONT)
    assert watched.predict.wait(PATIENCE_S) == 0


@pytest.fixture
def page(browser, watched):
    opened = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    opened.set_default_timeout(PATIENCE_S * 1000)
    opened.goto(next(iter(watched.links.values())))
    opened.wait_for_selector("[role=row][data-case]")
    yield opened
    opened.context.close()


def states(page):
    """What the viewers say of themselves, the case first."""
    found = page.locator("[data-root][data-state]").all()
    return sorted(
        (json.loads(one.get_attribute("data-state")) for one in found), key=lambda one: one.get("beside", False)
    )


def settled(page, wanted):
    now = []
    for _ in range(PATIENCE_S * 10):
        try:
            now = states(page)
            if wanted(now):
                return now
        except Exception:  # it is being built
            now = []
        page.wait_for_timeout(100)
    raise AssertionError(f"the viewers stay at {now}")


def test_the_list_fills_while_predict_works_and_says_how_far_it_is(page, watched):
    run = Run(watched.folder / "answers").refresh()
    before = run.done
    assert 2 <= before < FILMS and len(run.rows) == before
    progress = page.locator("[data-testid=stProgress]")
    page.get_by_text(f"run of answers going on, {before} of {FILMS} inputs; new cases appear here").wait_for()
    assert f"of {before + 1} read by you" in progress.inner_text()  # with the film of the other run
    assert page.locator("[role=row][data-case]").count() == before + 1
    let_go(watched)
    page.wait_for_function(
        f"document.querySelector('[data-testid=stProgress]').innerText.includes('of {FILMS + 1} read by you')"
    )
    page.wait_for_function("!document.querySelector('[data-testid=stProgress]').innerText.includes('going on')")
    page.locator("[role=row][data-case]").nth(FILMS).wait_for(state="attached")  # nobody reloaded anything


def test_a_film_in_a_zip_opens_and_its_earlier_film_stands_beside_another(page, watched):
    let_go(watched)
    run = Run(watched.folder / "answers").refresh()
    packed = next(row for row in run.rows.values() if "!/" in row.source)
    page.goto(f"{watched.root}/?view=case&run={run.key}&case={packed.case}")
    settled(page, lambda now: now and now[0].get("case") == packed.case and now[0]["scale"] > 0)
    later = next(row for row in run.rows.values() if row.source == "films/03.dcm")
    earlier = next(row for row in run.rows.values() if row.source == "films/02.dcm")
    page.goto(f"{watched.root}/?view=case&run={run.key}&case={later.case}")
    settled(page, lambda now: now and now[0].get("case") == later.case)
    page.get_by_label("Beside it").first.click()
    page.get_by_role("option", name="PA, 84 days earlier").click()
    settled(page, lambda now: len(now) == 2 and now[1].get("case") == earlier.case)
    shown = page.locator("[data-root]").all_inner_texts()
    assert any("beside it: PA, 84 days earlier" in text and "not the case you decide about" in text for text in shown)
    body = page.locator("body").inner_text()
    assert "2024" not in body.replace(run.about.started[:4], "") and "1950" not in body  # days between, and no dates
    page.keyboard.press("i")  # the list lets go of the keys
    settled(page, lambda now: now[0]["invert"] and not now[1]["invert"])
    page.get_by_role("button", name="Link window").first.click()
    settled(page, lambda now: now[0]["link"] and now[1]["link"] and now[1]["invert"])
    page.locator(".stage canvas").nth(1).hover()
    page.keyboard.press("i")
    settled(page, lambda now: not now[0]["invert"] and not now[1]["invert"])
    zoom = states(page)[0]["scale"]
    page.mouse.wheel(0, -400)
    settled(page, lambda now: now[1]["scale"] > 1.5 * now[0]["scale"])
    assert states(page)[0]["scale"] == zoom  # each has its own zoom


def test_outlines_lie_where_the_map_is_high_and_leave_the_film_by_a_key(page, watched):
    run = Run(watched.folder / "out").refresh()
    (case,) = run.rows
    page.goto(f"{watched.root}/?view=case&run={run.key}&case={case}")
    (now, *_) = settled(page, lambda now: now and now[0].get("label") == "Mass" and now[0]["boxes"])
    regions = dict(now["boxes"])["Mass"]
    left, top, right, bottom = regions[0]
    page.keyboard.press("h")
    (now, *_) = settled(page, lambda now: not now[0]["heat"])

    def pixel(x, y):
        shot = page.locator(".stage canvas").first.screenshot(path=ARTEFACTS / "review_outlines.png")
        colours = np.asarray(Pillow.open(io.BytesIO(shot)).convert("RGB")).astype(int)
        row, column = round(now["y"] + y * now["scale"]), round(now["x"] + x * now["scale"])
        return colours[row - 3 : row + 4, column - 3 : column + 4].reshape(-1, 3)

    ARTEFACTS.mkdir(exist_ok=True)
    for x, y in ((left, (top + bottom) / 2), (right, (top + bottom) / 2), ((left + right) / 2, bottom)):
        assert np.abs(pixel(x, y) - (86, 180, 233)).sum(1).min() < 60, (
            x,
            y,
        )  # a line of two pixels, between pixels at worst
    page.keyboard.press("b")  # those of all findings
    settled(page, lambda now: {label for label, _ in now[0]["boxes"]} == {"Mass", "Nodule"})
    page.keyboard.press("b")
    settled(page, lambda now: not now[0]["boxes"])
    assert np.ptp(pixel(left, (top + bottom) / 2), axis=1).max() <= 2  # grey again
