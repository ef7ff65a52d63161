"""What a viewer in a browser shows of pushed results: OHIF in Chromium, on a real archive."""

import io
import os
import subprocess
import time
from base64 import b64decode
from pathlib import Path

import numpy as np
import orthanc
import pydicom
import pytest
from answers import LABELS, MASS, PROBABILITIES, RUN
from ohif import viewer
from orthanc import Orthanc, require
from PIL import Image as Pillow

from medvit.case import Case
from medvit.cli import DONE, main
from medvit.image import Fit
from medvit.readers.radiograph import read_radiograph
from medvit.result import Finding, Heatmap, Result
from medvit.writers.capture import write_capture
from medvit.writers.parametric import write_parametric
from medvit.writers.report import write_report

CHROMIUM = "/usr/bin/chromium"
# Drawn by the processor; nothing but the loopback is there to be called.
SWITCHES = (
    "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
    "--disable-background-networking", "--disable-component-update", "--no-first-run",
)  # fmt: skip
ARTEFACTS = Path(__file__).parents[1] / ".artefacts"
ROWS, COLUMNS = 512, 384
MARKER = (slice(40, 120), slice(280, 340))  # bright, at the upper right of the film
HOT = (416, 96)  # row and column where the heat map is highest, at the lower left
PATIENCE_S = 120


@pytest.fixture
def page(tmp_path, monkeypatch, make_film):
    """A browser's page on a study of the phantom film with its pushed results."""
    require("Orthanc", "ip", "chromium")
    browsers = pytest.importorskip("playwright.sync_api")
    try:
        dist = viewer.built()
    except (OSError, subprocess.CalledProcessError) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"@ohif/app cannot be fetched: {type(error).__name__}")
    monkeypatch.setenv("MEDVIT_DICOMWEB_USER", orthanc.USER)
    monkeypatch.setenv("MEDVIT_DICOMWEB_PASSWORD", orthanc.PASSWORD)
    film = phantom(make_film, tmp_path / "film.dcm")
    answer(film, tmp_path / "out/cases/phantom")
    archive = Orthanc(tmp_path)
    try:
        archive.keep(film)
        with archive.network.inside():
            assert main(["push", str(tmp_path / "out"), orthanc.URL]) == DONE
            server = viewer.serve(dist, f"127.0.0.1:{orthanc.PORT}", orthanc.USER, orthanc.PASSWORD)
            with browsers.sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(SWITCHES))
                opened = browser.new_page(viewport={"width": 1400, "height": 900})
                study = pydicom.dcmread(film).StudyInstanceUID
                opened.goto(f"http://127.0.0.1:{server.server_port}/viewer?StudyInstanceUIDs={study}")
                yield opened
                browser.close()
            server.shutdown()
    finally:
        archive.close()


def phantom(make_film, path):
    """A film on which no quarter looks like another."""
    pixels = np.full((ROWS, COLUMNS), 600, np.uint16)
    pixels[::64], pixels[:, ::64] = 1000, 1000
    pixels[MARKER] = 3500
    return make_film(
        path, pixels, ImagerPixelSpacing=[0.2, 0.2], SeriesNumber=1, InstanceNumber=1, StudyDate="20260301"
    )


def answer(film, folder):
    """The objects that medvit writes about it."""
    folder.mkdir(parents=True)
    values = np.zeros((8, 6), np.float32)
    values[6, 1] = 1.0
    result = Result(
        Case("phantom", "DX", (film,)),
        tuple(Finding(label, probability) for label, probability in zip(LABELS, PROBABILITIES, strict=True)),
        heatmaps=(
            Heatmap(MASS, values, Fit((ROWS, COLUMNS), (ROWS, COLUMNS), (0, 0, ROWS, COLUMNS)), "gradient x attention"),
        ),
        read=lambda case: read_radiograph(case.files[0]),
    )
    for write in (write_report, write_capture, write_parametric):
        assert write(result, folder, RUN)


def drawn(page):
    """What the viewport shows without the viewer's own words: (H, W, 3)."""
    url = page.locator("canvas.cornerstone-canvas").first.evaluate("canvas => canvas.toDataURL()")
    return np.asarray(Pillow.open(io.BytesIO(b64decode(url.partition(",")[2]))).convert("RGB")).astype(int)


def settled(page, name, shown):
    """The viewport once it shows what is waited for and has come to rest, kept as an artefact with all around it."""
    until, before = time.monotonic() + PATIENCE_S, None
    while True:
        assert time.monotonic() < until, f"{name} is not shown: see {ARTEFACTS}"
        page.wait_for_timeout(500)
        now = drawn(page)
        ARTEFACTS.mkdir(exist_ok=True)
        page.screenshot(path=ARTEFACTS / f"ohif_{name}.png")
        if shown(now) and before is not None and now.shape == before.shape and (now == before).all():
            return now
        before = now


def coloured(pixels):
    """Where the pixels are no greys (H, W)."""
    return pixels.max(2) - pixels.min(2) > 40


def bright(pixels):
    """Where the marker of the phantom is (H, W)."""
    return (pixels.min(2) > 200) & ~coloured(pixels)


def to_film(marker, place):
    """Row and column of the film at a place of the viewport, by where the marker (H, W) is seen there."""
    spots = np.argwhere(marker)
    low, high = spots.min(0), spots.max(0) + 1
    start = np.array([side.start for side in MARKER])
    size = np.array([side.stop - side.start for side in MARKER])
    return start + (np.asarray(place) - low) * size / (high - low)


def hottest(pixels, where):
    """Centre of the reddest pixels among those (H, W)."""
    red = np.where(where, pixels[..., 0] - pixels[..., 2], -255)
    return np.argwhere(red >= red.max() - 10).mean(0)


def open_series(page, words, thumbnail):
    page.locator(f'[data-cy="{thumbnail}"]', has_text=words).dblclick()


@pytest.mark.slow
def test_a_viewer_shows_capture_and_map_over_the_right_quarter_of_the_film(page):
    page.wait_for_selector("canvas.cornerstone-canvas", timeout=PATIENCE_S * 1000)
    page.get_by_text("Skip all").click(timeout=PATIENCE_S * 1000)
    film = settled(page, "film", lambda pixels: bright(pixels).sum() > 1000)
    assert not coloured(film).any()
    where = np.argwhere(bright(film)).mean(0) / film.shape[:2]
    assert where[0] < 0.4 and where[1] > 0.6  # upper right: the viewer itself has not turned it

    open_series(page, "AI overlay", "study-browser-thumbnail")
    sheet = settled(page, "capture", lambda pixels: bright(pixels)[:, : pixels.shape[1] // 2].sum() > 500)
    middle = sheet.shape[1] // 2  # the film at the left, with the heat map at the right
    marker = bright(sheet) & (np.indices(sheet.shape[:2])[1] > middle)
    marker[: sheet.shape[0] // 16] = marker[sheet.shape[0] // 2 :] = False  # words
    heat = coloured(sheet) & (np.indices(sheet.shape[:2])[0] < sheet.shape[0] * 0.74)
    assert not heat[:, :middle].any()
    assert to_film(marker, hottest(sheet, heat)) == pytest.approx(HOT, abs=8)

    open_series(page, "AI map", "study-browser-thumbnail-no-image")
    mapped = settled(page, "map", lambda pixels: coloured(pixels).sum() > 1000)
    assert bright(mapped).sum() == pytest.approx(bright(film).sum(), rel=0.05)  # it lies over the film
    assert to_film(bright(mapped), hottest(mapped, coloured(mapped))) == pytest.approx(HOT, abs=8)

    assert page.locator('[data-cy="study-browser-thumbnail-no-image"]', has_text="AI findings").count() == 1
