"""Slides, smears and clips in Chromium: what is drawn lies where its numbers say, compared by screenshots."""

import io
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from review_runs import App, leave_clip, leave_network, leave_slide, leave_volume
from test_review_browser import ARTEFACTS, browser, entered, settled, state

from apps.review.pictures import TILE
from apps.review.routes import tile_box
from apps.review.runs import Run
from apps.review.store import Store
from apps.review.volumes import read_drawn
from medvit.case import VOLUME, Case
from medvit.readers.clip import read_clip
from medvit.readers.slide import Slide

sys.path.insert(0, str(Path(__file__).parents[1] / "sample_data"))
from pyramids import Page, jpeg, write_pages

__all__ = ["browser"]  # a fixture of the other file
WIDE, MARK = 40_000, 1024
MARKS = ((8_192, 4_096), (30_720, 25_600), (20_480, 36_864))  # top left corners of dark squares of MARK pixels
PINK, DARK = (236, 205, 222), (70, 30, 110)
SVS = Path(__file__).parents[2] / "shared/data/wsi/open"


def write_large(path: Path) -> Path:
    """A slide of 40,000 pixels a side with dark squares at known places; equal tiles are stored once."""
    plain = np.full((256, 256, 3), PINK, np.uint8)
    light, pages = jpeg(plain, 70), []
    for reduced in (1, 4, 16, 64):
        side = -(-WIDE // reduced)
        count = -(-side // 256)
        tiles = [light] * count**2
        for x, y in MARKS:
            left, top, right, bottom = (edge // reduced for edge in (x, y, x + MARK, y + MARK))
            for row in range(top // 256, (bottom - 1) // 256 + 1):
                for column in range(left // 256, (right - 1) // 256 + 1):
                    tile = plain.copy()
                    rows, columns = (
                        slice(max(top - row * 256, 0), bottom - row * 256),
                        slice(max(left - column * 256, 0), right - column * 256),
                    )
                    tile[rows, columns] = DARK
                    tiles[row * count + column] = jpeg(tile, 70)
        pages.append(Page(side, side, tiles))
    write_pages(path, pages, 0.25)
    return path


def stage(page, name):
    """What the slide's stage shows, without words and the overview inset (H, W, 3)."""
    ARTEFACTS.mkdir(exist_ok=True)
    shot = page.locator(".stage").first.screenshot(path=ARTEFACTS / f"review_{name}.png")
    return np.asarray(Pillow.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def rested(page, wanted=lambda now: True):
    """The viewer's state once it has loaded and stays as it is."""
    before = None
    for _ in range(200):
        page.wait_for_timeout(150)
        now = settled(page, lambda now: now.get("loaded"))
        if now == before and wanted(now):
            page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            page.wait_for_timeout(400)
            return now
        before = now
    raise AssertionError(f"the viewer does not rest: {now}")


def box_of(changed):
    """Top, left, bottom, right of where something changed (H, W)."""
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    return rows[0], columns[0], rows[-1] + 1, columns[-1] + 1


def expected(now, x, y, side):
    """Where a rectangle of level 0 lies on the stage, which has a border of a pixel."""
    left, top = now["x"] + x * now["scale"] + 1, now["y"] + y * now["scale"] + 1
    return top, left, top + side * now["scale"], left + side * now["scale"]


def look(browser, tmp_path, slide, coords, side, mpp, name):
    """The page of a slide whose last tile alone has attention, and screenshots without and with it."""
    attention = np.zeros(len(coords), np.float32)
    attention[-1] = 1.0
    app = App(
        leave_slide(tmp_path, slide, np.array(coords), side, attention, mpp), "--reviewers", "anna", inputs=tmp_path
    )
    page = entered(browser, app, "anna")
    page.locator("[role=row][data-case]").click()
    rested(page, lambda now: now["tiles"] == len(coords))
    page.get_by_label("Least attention shown").evaluate(
        "one => { one.value = 95; one.dispatchEvent(new Event('input')); }"
    )
    with_map = stage(page, f"{name}_attention")
    page.keyboard.press("h")
    now = rested(page, lambda now: not now["attention"])
    return app, page, now, stage(page, f"{name}_bare"), with_map


@pytest.mark.slow
def test_attention_lies_over_its_tile_on_a_slide_of_40000_pixels_and_the_gallery_jumps_there(browser, tmp_path):
    slide = write_large(tmp_path / "large.tif")
    coords = [(0, 0), (4_096, 30_720), *MARKS]
    app, page, now, bare, with_map = look(browser, tmp_path, slide, coords, MARK, 0.25, "large")
    try:
        assert page.locator(".gallery figure").count() == min(len(coords), 8)
        page.keyboard.press("h")
        said = page.locator(".bar").first.inner_text()
        assert "regions that influenced this score; attention is not a diagnosis" in said
        page.keyboard.press("h")
        wanted = expected(now, *MARKS[-1], MARK)
        changed = np.abs(with_map - bare).sum(2) > 40
        assert box_of(changed) == pytest.approx(wanted, abs=1.2)
        for x, y in MARKS:  # the slide itself is drawn there, too
            top, left, bottom, right = expected(now, x, y, MARK)
            middle = bare[round((top + bottom) / 2), round((left + right) / 2)]
            assert np.abs(middle - DARK).max() < 45
            assert np.abs(bare[round(bottom + 6), round(right + 6)] - PINK).max() < 25
        page.locator(".gallery figure").first.click()
        near = rested(page, lambda one: one["scale"] > 3 * now["scale"])
        close = stage(page, "large_jump")
        top, left, bottom, right = expected(near, *MARKS[-1], MARK)
        assert ((top + bottom) / 2, (left + right) / 2) == pytest.approx(
            (close.shape[0] / 2, close.shape[1] / 2), abs=4
        )
        dark = np.abs(close - DARK).max(2) < 40
        dark[:40], dark[-40:], dark[:, -180:] = False, False, False  # words and the overview
        assert box_of(dark) == pytest.approx((top, left, bottom, right), abs=3)
        assert (
            "2.50 µm" not in page.content() and "µm a pixel of the screen" in page.locator(".said").nth(1).inner_text()
        )
    finally:
        page.context.close()
        app.close()


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(not SVS.is_dir(), reason="the real slides of ../shared/data are not here")
def test_a_real_svs_shows_its_tissue_and_the_attention_in_place(browser, tmp_path):
    slide = Path(shutil.copy(SVS / "CMU-1-Small-Region.svs", tmp_path))
    opened = Slide(slide)
    width, height = opened.size
    side = 240
    coords = [(0, 0), (width // 5, height // 2), (width // 2, height // 3)]
    app, page, now, bare, with_map = look(browser, tmp_path, slide, coords, side, opened.mpp, "svs")
    try:
        assert box_of(np.abs(with_map - bare).sum(2) > 25) == pytest.approx(expected(now, *coords[-1], side), abs=1.2)
        page.locator(".gallery figure").first.click()
        near = rested(page, lambda one: one["scale"] > now["scale"])
        close = stage(page, "svs_jump")
        top, left, bottom, right = (round(edge) for edge in expected(near, *coords[-1], side))
        true = opened.read(coords[-1], side, opened.mpp)

        def likeness(down, across):
            """Correlation of what is drawn with the tile, so many pixels of the screen from its place."""
            drawn = close[top + down : bottom + down, left + across : right + across].astype(np.uint8)
            grey = [np.asarray(Pillow.fromarray(one).resize((120, 120)).convert("L"), float) for one in (drawn, true)]
            return np.corrcoef(grey[0].ravel(), grey[1].ravel())[0, 1]

        # An edge in the middle of a pixel is rounded either way.
        best = max(likeness(down, across) for down in (-1, 0, 1) for across in (-1, 0, 1))
        assert best > 0.9
        assert max(likeness(0, 15), likeness(0, -15), likeness(15, 0), likeness(-15, 0)) < best - 0.1
    finally:
        page.context.close()
        app.close()


@pytest.mark.slow
def test_where_tiles_overlap_the_highest_is_drawn_alone(browser, tmp_path):
    slide = tmp_path / "slide.tif"
    write_pages(slide, [Page(1_024, 1_024, [jpeg(np.full((256, 256, 3), PINK, np.uint8), 70)] * 16)], 0.25)
    coords, attention = np.array([(512, 256), (384, 256), (0, 0)]), np.array([1.0, 0.5, 0.0], np.float32)
    app = App(leave_slide(tmp_path, slide, coords, 256, attention, 0.25), "--reviewers", "anna", inputs=tmp_path)
    page = entered(browser, app, "anna")
    try:
        page.locator("[role=row][data-case]").click()
        now = rested(page, lambda now: now["tiles"] == 3)
        drawn = stage(page, "overlap")

        def colour(x, y):
            """The mean colour around a place of level 0."""
            top, left, *_ = (round(edge) for edge in expected(now, x, y, 0))
            return drawn[top - 3 : top + 4, left - 3 : left + 4].mean((0, 1))

        lower, both, higher, bare = (colour(x, 384) for x in (448, 576, 704, 900))
        assert np.abs(both - higher).max() < 2
        assert min(np.abs(higher - lower).max(), np.abs(lower - bare).max()) > 20
    finally:
        page.context.close()
        app.close()


@pytest.mark.slow
def test_a_clip_plays_and_scrubbing_shows_the_frame_with_its_part_of_the_map(browser, tmp_path):
    from tiny_clips import scan, write_us

    clip = write_us(tmp_path / "clip.dcm", scan(16), FrameTime=50)
    heat = np.zeros((4, 6, 8), np.float32)
    heat[3, 4, 6] = 1.0  # late, at the lower right
    app = App(
        leave_clip(tmp_path, clip, heat, lambda case: read_clip(case.files[0])), "--reviewers", "anna", inputs=tmp_path
    )
    page = entered(browser, app, "anna")
    try:
        page.locator("[role=row][data-case]").click()
        settled(page, lambda now: now.get("frames") == 16 and now["label"])
        strip = page.locator("[role=slider][aria-label=Frame]")
        box = strip.bounding_box()
        shots = {}
        for frame in (2, 14):
            page.mouse.click(box["x"] + (frame + 0.5) * box["width"] / 16, box["y"] + 10)
            now = settled(page, lambda now, frame=frame: now["frame"] == frame)
            page.wait_for_timeout(200)
            shots[frame] = stage(page, f"clip_{frame}")
        coloured = {frame: (shot.max(2) - shot.min(2)) > 30 for frame, shot in shots.items()}
        assert coloured[2][40:-40].sum() == 0 and coloured[14][40:-40].sum() > 500
        y, x = np.argwhere(coloured[14])[np.argmax((shots[14].max(2) - shots[14].min(2))[coloured[14]])]
        rows, columns = (y - 1 - now["y"]) / now["scale"] / 96, (x - 1 - now["x"]) / now["scale"] / 128
        assert (rows, columns) == pytest.approx((4.5 / 6, 6.5 / 8), abs=0.12)
        page.keyboard.press("m")
        settled(page, lambda now: now["frame"] >= 13)
        page.keyboard.press("ArrowLeft")
        before = state(page)["frame"]
        page.keyboard.press(" ")
        settled(page, lambda now: now["playing"] and now["frame"] != before)
        page.keyboard.press(" ")
        settled(page, lambda now: not now["playing"])
    finally:
        page.context.close()
        app.close()


def test_tiles_cover_a_slide_without_gap_or_overlap_at_every_level():
    width, height = 1_000, 700
    for level in range(11):
        scale = 2 ** (10 - level)
        covered = np.zeros((height, width), int)
        for row in range(-(-height // (TILE * scale))):
            for column in range(-(-width // (TILE * scale))):
                left, top, across, down, fit = tile_box(width, height, level, column, row)
                assert 0 < across <= TILE and 0 < down <= TILE and fit >= 0.5
                assert left + across * fit <= width + 1e-6 and top + down * fit <= height + 1e-6
                covered[int(top) : int(top) + TILE * scale, int(left) : int(left) + TILE * scale] += 1
        assert (covered == 1).all()
    assert tile_box(width, height, 11, 0, 0) is None and tile_box(width, height, 10, 4, 0) is None


def test_a_run_with_smears_knows_them_from_slides(tmp_path):
    from review_runs import leave

    origin = {"mpp": "0.5", "mpp_source": "given"}
    one = {
        "key": "0" * 16,
        "source": "a.tif",
        "case": "0" * 16,
        "status": "ok",
        "header": {},
        "origin": origin,
        "findings": [],
    }
    leave(tmp_path, "CytoFM", [one])
    run = Run(tmp_path).refresh()
    assert run.kind(run.rows["0" * 16]) == "smear" and run.rows["0" * 16].mpp == 0.5


@pytest.fixture
def scan(tmp_path):
    """A run over a small volume with one outline, and a checkpoint that takes boxes."""
    import tiny_volumes

    volume, mask = tiny_volumes.block()
    file = tiny_volumes.write_nifti(tmp_path / "scans/one.nii.gz", volume)
    leave_volume(tmp_path, Case(os.path.realpath(file), VOLUME, (file,)), {"kidney": mask == 1})
    leave_network(tmp_path / "boxes.ckpt")
    return tmp_path, mask == 1


@pytest.mark.slow
def test_outlines_lie_on_their_slices_and_a_box_becomes_one_that_can_be_accepted(browser, scan):
    folder, kidney = scan
    app = App(folder / "out", "--reviewers", "anna", "--segment", folder / "boxes.ckpt", inputs=folder)
    page = entered(browser, app, "anna")
    try:
        page.locator("[role=row][data-case]").click()
        now = settled(page, lambda now: now.get("masks") == ["kidney"])
        assert now["slices"] == 5 and now["slice"] == int(kidney.sum((1, 2)).argmax())
        drawn = stage(page, "volume_outline")
        page.keyboard.press("h")
        settled(page, lambda now: not now["outlines"])
        changed = np.abs(drawn - stage(page, "volume_bare")).sum(2) > 60
        rows, columns = np.flatnonzero(kidney[now["slice"]].any(1)), np.flatnonzero(kidney[now["slice"]].any(0))
        wanted = (
            rows[0] * now["dy"],
            columns[0] * now["dx"],
            (rows[-1] + 1) * now["dy"],
            (columns[-1] + 1) * now["dx"],
        )
        offset = np.array([now["y"], now["x"], now["y"], now["x"]]) + 1
        assert box_of(changed) == pytest.approx(np.array(wanted) + offset, abs=2.5)
        page.mouse.wheel(0, 0)
        page.locator(".stage canvas").hover()
        page.mouse.wheel(0, 100)
        settled(page, lambda one: one["slice"] == now["slice"] + 1)
        box = page.locator(".stage canvas").bounding_box()
        corners = [
            (box["x"] + now["x"] + x * now["dx"], box["y"] + now["y"] + y * now["dy"]) for x, y in ((4, 6), (16, 18))
        ]
        page.keyboard.down("Shift")
        page.mouse.move(*corners[0])
        page.mouse.down()
        page.mouse.move(*corners[1], steps=3)
        page.mouse.up()
        page.keyboard.up("Shift")
        asked = settled(page, lambda one: one["box"])["box"]
        assert (asked["x_min"], asked["y_min"], asked["x_max"], asked["y_max"]) == pytest.approx(
            (4, 6, 16, 18), abs=0.2
        )
        page.get_by_role("button", name="Outline what is in the box").click()
        page.wait_for_selector('[data-finding="box 1"]')
        settled(page, lambda one: one["masks"] == ["kidney", "box 1"])
        page.keyboard.press("a")
        page.wait_for_selector('[data-finding="box 1"][data-verdict="accepted"]')
        rows = Store(folder / "out").since()
        (made,) = [row for row in rows if row.kind == "mask"]
        assert made.said["box"] == pytest.approx([4, 6, 16, 18], abs=0.2) and made.said["slice"] == now["slice"] + 1
        held = read_drawn(str(folder / "out/review/masks" / made.said["file"]))
        assert held.shape == kidney.shape and held.any() and rows[-1].said["reading"] == "present"
    finally:
        page.context.close()
        app.close()
