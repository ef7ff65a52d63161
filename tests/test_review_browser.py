"""The app in Chromium: from the worklist to a decision that reloading keeps, heat maps in their place, and a shut door."""

import io
import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from review_runs import COLUMNS, HOT, ROWS, App, leave_films

from apps.review.runs import Run
from apps.review.store import Store
from apps.review.verify import verify

CHROMIUM = "/usr/bin/chromium"
ARTEFACTS = Path(__file__).parents[1] / ".artefacts"
ANSWERS = ((0.9, 0.2, 0.6), (0.1, 0.2, 0.3), (0.55, 0.95, 0.1), (0.9, 0.8, 0.7))
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("streamlit")
    if not Path(CHROMIUM).exists():
        pytest.skip("Chromium is not installed")
    with pytest.importorskip("playwright.sync_api").sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    from conftest import _make_film

    pytest.importorskip("streamlit")
    folder = tmp_path_factory.mktemp("review")
    started = App(leave_films(folder, _make_film, ANSWERS), "--reviewers", "anna,ben", inputs=folder)
    started.out = folder / "out"
    yield started
    started.close()


def entered(browser, app, name):
    """Somebody's page on the worklist; every address that it asks for is noted."""
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.asked = set()
    page.on("request", lambda request: page.asked.add(request.url))
    page.goto(app.links[name])
    page.wait_for_selector("[role=row][data-case]")
    return page


def state(page):
    return json.loads(page.locator("[data-root][data-state]").first.get_attribute("data-state"))


def settled(page, wanted):
    """The viewer's state once it is as wanted."""
    for _ in range(300):
        try:
            now = state(page)
            if wanted(now):
                return now
        except Exception:  # it is being built
            now = None
        page.wait_for_timeout(100)
    raise AssertionError(f"the viewer stays at {now}")


def verdict(page, finding, wanted):
    page.wait_for_selector(f'[data-finding="{finding}"][data-verdict="{wanted}"]')


def seen(page, name):
    """What the stage shows (H, W, 3), kept as an artefact."""
    ARTEFACTS.mkdir(exist_ok=True)
    shot = page.locator(".stage canvas").first.screenshot(path=ARTEFACTS / f"review_{name}.png")
    return np.asarray(Pillow.open(io.BytesIO(shot)).convert("RGB")).astype(int)


@pytest.mark.slow
def test_a_key_decides_and_reloading_keeps_it(browser, app):
    page = entered(browser, app, "anna")
    run = Run(app.out).refresh()
    case = next(iter(run.rows))
    page.click(f'[role=row][data-case="{case}"]')
    settled(page, lambda now: now.get("case") == case)
    page.keyboard.press("a")
    verdict(page, "Mass", "accepted")
    page.reload()
    verdict(page, "Mass", "accepted")
    assert [(row.reviewer, row.case, row.finding) for row in Store(app.out).since() if row.kind == "decision"][-1] == (
        "anna", case, "Mass"
    )  # fmt: skip
    page.get_by_label("Note").fill("axaxuzjk")  # keys mean letters there
    page.get_by_label("Note").press("Tab")
    page.wait_for_timeout(800)
    rows = Store(app.out).since()
    assert rows[-1].kind == "note" and rows[-1].said["note"] == "axaxuzjk"
    assert sum(row.kind == "decision" for row in rows) == 1
    assert {url.split("/")[2] for url in page.asked if "//" in url} == {
        f"127.0.0.1:{app.port}"
    }  # nothing from elsewhere
    assert page.locator("[data-testid=identity]").is_visible() and page.locator("[data-testid=case-line]").is_visible()
    foot = page.locator("[data-testid=identity]").bounding_box()
    assert foot["y"] + foot["height"] <= 800 and page.evaluate("document.scrollingElement.scrollHeight") <= 800
    page.context.close()


@pytest.mark.slow
def test_the_heat_map_lies_where_it_belongs_and_its_opacity_follows_the_key(browser, app):
    page = entered(browser, app, "ben")
    case = next(iter(Run(app.out).refresh().rows))
    page.click(f'[role=row][data-case="{case}"]')
    settled(page, lambda now: now.get("label") == "Mass")
    for _ in range(2):  # outlines of all findings, then none
        page.keyboard.press("b")
    settled(page, lambda now: not now["boxes"])
    with_map = seen(page, "heat")
    page.keyboard.press("h")
    now = settled(page, lambda now: not now["heat"])
    bare = seen(page, "bare")
    assert (bare.max(2) - bare.min(2))[30:-40, 3:-3].max() <= 2  # a film is never coloured
    weight = np.abs(with_map - bare).sum(2)
    weight[:30], weight[-40:] = 0, 0  # words
    y, x = np.unravel_index(weight.argmax(), weight.shape)
    rows, columns = ((y - now["y"]) / now["scale"], (x - now["x"]) / now["scale"])
    at = (int(HOT[0] * 8) + 0.5) / 8 * ROWS, (int(HOT[1] * 8) + 0.5) / 8 * COLUMNS
    assert (rows, columns) == pytest.approx(at, abs=0.07 * ROWS)
    marker = bare[round(now["y"] + 45 * now["scale"]), round(now["x"] + 200 * now["scale"])]
    corner = bare[round(now["y"] + 45 * now["scale"]), round(now["x"] + 30 * now["scale"])]
    assert marker.min() > corner.max() + 50  # right stays right
    page.keyboard.press("h")
    for _ in range(3):
        page.keyboard.press("[")
    settled(page, lambda now: now["opacity"] == pytest.approx(0.25))
    fainter = np.abs(seen(page, "fainter") - bare).sum(2)[y, x]
    assert 0.2 * weight[y, x] < fainter < 0.7 * weight[y, x]
    page.keyboard.press("i")
    settled(page, lambda now: now["invert"])
    inverted = seen(page, "inverted")
    assert inverted[round(now["y"] + 45 * now["scale"]), round(now["x"] + 200 * now["scale"])].max() < 80
    page.context.close()


@pytest.mark.slow
def test_two_browsers_on_one_case_lose_nothing_and_mix_nothing_up(browser, app):
    case = list(Run(app.out).refresh().rows)[2]
    pages = {name: entered(browser, app, name) for name in ("anna", "ben")}
    for page in pages.values():
        page.click(f'[role=row][data-case="{case}"]')
        settled(page, lambda now: now.get("case") == case)
    pages["anna"].keyboard.press("a")
    pages["ben"].keyboard.press("x")
    verdict(pages["anna"], "Effusion", "accepted")
    verdict(pages["ben"], "Effusion", "rejected")
    said = {
        row.reviewer: row.said["verdict"]
        for row in Store(app.out).since()
        if row.case == case and row.finding == "Effusion"
    }
    assert said == {"anna": "accept", "ben": "reject"}
    assert verify(app.out).faults == ()
    for page in pages.values():
        page.context.close()


@pytest.mark.slow
def test_a_held_key_a_double_click_and_a_button_that_was_clicked_decide_once(browser, app):
    page = entered(browser, app, "anna")
    case = list(Run(app.out).refresh().rows)[3]  # with three findings: each decision goes on to the next
    page.click(f'[role=row][data-case="{case}"]')
    settled(page, lambda now: now.get("case") == case)

    def made():
        page.wait_for_timeout(1_500)
        return [row.finding for row in Store(app.out).since() if row.case == case and row.kind == "decision"]

    accept = page.get_by_role("button", name="Accept")
    accept.dblclick(delay=250)
    assert made() == ["Mass"]
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    assert made() == ["Mass"]
    for _ in range(30):  # as a key that is held repeats
        page.keyboard.down("x")
        page.wait_for_timeout(40)
    page.keyboard.up("x")
    assert made() == ["Mass", "Effusion"]
    assert not [row for row in Store(app.out).since() if row.case == case and row.kind == "note"]
    accept.focus()  # whoever works by keys alone still can
    page.keyboard.press("Enter")
    assert made() == ["Mass", "Effusion", "Nodule"]
    page.context.close()


def fetched(url, cookie=""):
    request = urllib.request.Request(
        url, headers={"cookie": cookie, "x-medvit-reviewer": "eve", "x-medvit-role": "admin"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_nothing_is_given_without_a_key_and_no_address_names_a_path(app):
    run = Run(app.out).refresh()
    case = next(iter(run.rows))
    film = f"{app.root}/review/film/{run.key}/{case}"
    for url in (
        "/",
        film.removeprefix(app.root),
        "/_stcore/health",
        "/_stcore/host-config",
        "/review/asset/openseadragon.min.js",
    ):
        assert fetched(app.root + url)[0] == 401, url
    assert fetched(f"{app.root}/review/enter?key=wrong")[0] == 403
    key = app.links["anna"].partition("key=")[2]
    cookie = f"medvit_review_{app.port}={key}"
    assert fetched(film, cookie)[0] == 200 and fetched(film, cookie + "x")[0] == 401
    for bad in ("..%2F..%2Fetc/passwd", f"{run.key}/..%2F..%2F", "x/y", f"{run.key}/{'0' * 16}"):
        status, body = fetched(f"{app.root}/review/film/{bad}", cookie)
        assert status in (400, 404) and b"root:" not in body
    assert fetched(f"{app.root}/review/tile/{run.key}/{case}/99/0_0.jpg", cookie)[0] == 404
    assert b"<!doctype html" in fetched(f"{app.root}/review/nothing", cookie)[1].lower()


def test_it_listens_on_this_machine_alone(app):
    listening = subprocess.run(["ss", "-ltnH"], capture_output=True, text=True, check=False).stdout
    if not listening:
        pytest.skip("ss is not installed")
    ours = [line.split()[3] for line in listening.splitlines() if line.split()[3].endswith(f":{app.port}")]
    assert ours == [f"127.0.0.1:{app.port}"]
