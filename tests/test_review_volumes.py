"""Volumes, series and focal planes in Chromium: what is painted with the mouse is kept and handed out, voxel for voxel."""

import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tiny_volumes
from review_runs import App, leave_network, leave_stack, leave_volume
from test_review_browser import ARTEFACTS, browser, entered, settled
from test_review_places import box_of, rested, stage

from apps.review.runs import Run
from apps.review.store import Store
from apps.review.verify import verify
from apps.review.volumes import read_drawn
from medvit.case import VOLUME, Case
from medvit.cli import DONE, main
from medvit.readers.headers import read_facts
from medvit.readers.series import read_series
from medvit.readers.slide import Slide
from medvit.readers.volume import read_volume

__all__ = ["browser"]  # a fixture of another file
STACK = Path(__file__).parents[1] / "sample_data/smears/stack/field.tif"
OBLIQUE = np.array([[-1.5, 0.6, 0, 20], [0.6, 1.5, 0, -30], [0, 0, 4.0, 5], [0, 0, 0, 1]])  # its rows lead to the front


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """One app over three runs: a NIfTI volume, a series of CT slices, a stack of focal planes."""
    pytest.importorskip("streamlit")
    folder = tmp_path_factory.mktemp("volumes")
    volume, mask = tiny_volumes.block()
    file = tiny_volumes.write_nifti(folder / "nifti/one.nii.gz", volume, OBLIQUE)
    display = read_volume(file).place.to_display(mask.transpose(2, 1, 0))
    nifti = leave_volume(folder / "nifti", Case(os.path.realpath(file), VOLUME, (file,)), {"kidney": display == 1})
    files = sorted(tiny_volumes.write_series(folder / "series/ct", volume, WindowCenter=100, WindowWidth=300))
    (folder / "series/ct/notes.txt").write_text("something else lies there, too")
    shutil.copy(files[0], folder / "series/ct/copy.dcm")  # the same slice once more
    facts, _ = read_facts(files[0])
    series = leave_volume(
        folder / "series", Case(facts["series_uid"], "CT", tuple(files), header=facts), {"liver": mask == 2}
    )
    (folder / "smear").mkdir()
    smear = leave_stack(folder / "smear", Path(shutil.copy(STACK, folder / "smear")), 0.5)
    started = App(nifti, series, smear, "--reviewers", "anna", "--segment", leave_network(folder / "boxes.ckpt"), inputs=folder,
                  roots=("nifti", "series", "smear"))  # fmt: skip
    started.nifti, started.series, started.smear = nifti, series, smear
    started.truth = {"kidney": display == 1, "liver": mask == 2}
    yield started
    started.close()


@pytest.fixture(scope="module")
def page(browser, app):
    shown = entered(browser, app, "anna")
    yield shown
    shown.context.close()


def opened(page, app, out):
    """The only case of a run."""
    run = Run(out).refresh()
    (case,) = run.rows
    page.goto(f"{app.root}/?view=case&run={run.key}&case={case}")
    return case


def at(page, now, x, y):
    """Where the middle of a pixel of a slice lies on the screen."""
    box = page.locator(".stage canvas").bounding_box()
    return box["x"] + now["x"] + (x + 0.5) * now["dx"], box["y"] + now["y"] + (y + 0.5) * now["dy"]


def stroke(page, now, *places):
    """Paint through some pixels."""
    page.mouse.move(*at(page, now, *places[0]))
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*at(page, now, *place), steps=2)
    page.mouse.up()
    return settled(page, lambda one: not one["waiting"])


def last_mask(out, finding):
    row = [row for row in Store(out).since() if row.kind == "mask" and row.finding == finding][-1]
    return row, read_drawn(str(out / "review/masks" / row.said["file"]), row.said["sha256"])


@pytest.mark.slow
def test_what_is_painted_is_kept_is_there_after_a_reload_and_is_handed_out_voxel_for_voxel(page, app, tmp_path):
    case = opened(page, app, app.nifti)
    now = settled(page, lambda one: one.get("masks") == ["kidney"])
    kidney = app.truth["kidney"]
    assert now["marks"] == {"left": "RP", "right": "LA", "top": "AR", "bottom": "PL", "onwards": "H"}
    assert "mm apart" in page.locator(".said").nth(2).inner_text()
    page.keyboard.press("e")
    settled(page, lambda one: one["painting"])
    for _ in range(4):
        page.keyboard.press("[")
    z, painted = now["slice"], kidney.copy()
    assert settled(page, lambda one: one["size"] == 1)["tool"] == "brush"
    stroke(page, now, (2, 3), (7, 3))
    painted[z, 3, 2:8] = True
    page.keyboard.press("d")
    y, x = np.argwhere(kidney[z])[0]
    stroke(page, now, (int(x), int(y)))
    painted[z, y, x] = False
    page.keyboard.press("p")
    stroke(page, now, (20, 20))
    page.keyboard.press("z")  # takes the last stroke back, as a row of its own
    settled(page, lambda one: not one["waiting"] and one["seq"] == Store(app.nifti).head()[0])
    page.locator(".stage canvas").hover()
    page.mouse.wheel(0, 100)
    there = settled(page, lambda one: one["slice"] == z + 1)
    stroke(page, there, (1, 1))
    painted[z + 1, 1, 1] = True
    page.screenshot(path=ARTEFACTS / "review_volume_page.png")
    assert (
        page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight") <= 800
    )  # nothing is pushed out of sight
    row, held = last_mask(app.nifti, "kidney")
    np.testing.assert_array_equal(held, painted)
    assert (row.reviewer, row.case, row.said["voxels"], row.said["added"]) == ("anna", case, int(painted.sum()), 1)
    page.keyboard.press("e")
    page.keyboard.press("a")
    page.wait_for_selector('[data-finding="kidney"][data-verdict="accepted"]')
    assert Store(app.nifti).since()[-1].said["mask"] == row.said["sha256"]
    page.reload()
    back = settled(page, lambda one: one.get("masks") == ["kidney"] and one["before"] == ["kidney"])
    assert back["seq"] == row.seq
    drawn = stage(page, "volume_reloaded")
    page.keyboard.press("h")
    settled(page, lambda one: not one["outlines"])
    changed = np.abs(drawn - stage(page, "volume_reloaded_bare")).sum(2) > 60
    rows, columns = (np.flatnonzero((painted | kidney)[back["slice"]].any(axis)) for axis in (1, 0))
    wanted = [
        rows[0] * back["dy"],
        columns[0] * back["dx"],
        (rows[-1] + 1) * back["dy"],
        (columns[-1] + 1) * back["dx"],
    ]
    assert box_of(changed) == pytest.approx(np.array(wanted) + [back["y"] + 1, back["x"] + 1] * 2, abs=2.5)
    original = app.nifti / f"cases/{case}/mask_kidney.nii.gz"
    np.testing.assert_array_equal(read_drawn(str(original)), kidney)  # the AI's own stays as it was
    assert main(["review", str(app.nifti), "--inputs", str(app.nifti.parent), "--export", str(tmp_path)]) == DONE
    source, given = (
        nibabel.load(file) for file in (app.nifti.parent / "one.nii.gz", *tmp_path.rglob("mask_kidney.nii.gz"))
    )
    np.testing.assert_allclose(given.affine, source.affine, atol=1e-6)
    voxels = np.asarray(given.dataobj) > 0
    np.testing.assert_array_equal(voxels, read_volume(app.nifti.parent / "one.nii.gz").place.to_source(painted))
    assert verify(app.nifti).faults == ()


@pytest.mark.slow
def test_a_ct_series_is_shown_with_marks_and_windows_and_a_box_in_it_becomes_a_mask(page, app):
    opened(page, app, app.series)
    now = settled(page, lambda one: one.get("masks") == ["liver"])
    assert now["slices"] == 5 and now["window"] == [100, 300]
    assert now["marks"] == {"left": "RA", "right": "LP", "top": "AH", "bottom": "PF", "onwards": "HP"}
    names = page.get_by_label("Window").locator("option").all_inner_texts()
    assert names[:3] == ["of the file", "soft tissue", "lung"] and names[-1] == "whole range"
    before = stage(page, "series_of_file")
    page.get_by_label("Window").select_option(label="lung")
    settled(page, lambda one: one["window"] == [-600, 1500])
    volume = read_series(sorted((app.series.parent / "ct").glob("[0-9]*.dcm"))).pixels[0]
    page.keyboard.press("h")
    settled(page, lambda one: not one["outlines"])
    shot, plane = stage(page, "series_lung"), volume[now["slice"]]
    assert np.abs(before - shot).max() > 20
    grey_here = (plane > -150) & (plane < 100)  # in this window
    grey_here[:4], grey_here[-4:] = False, False  # words and marks
    assert grey_here.sum() > 80
    for y, x in np.argwhere(grey_here)[:: int(grey_here.sum()) // 16]:
        grey = shot[round(now["y"] + (y + 0.5) * now["dy"]) + 1, round(now["x"] + (x + 0.5) * now["dx"]) + 1]
        assert grey == pytest.approx([255 * ((plane[y, x] + 600) / 1500 + 0.5)] * 3, abs=2)
    page.keyboard.press("h")
    page.keyboard.down("Shift")
    stroke(page, now, (4, 6), (16, 18))
    page.keyboard.up("Shift")
    settled(page, lambda one: one["box"])
    page.get_by_role("button", name="Outline what is in the box").click()
    page.wait_for_selector('[data-finding="box 1"]', timeout=240_000)  # a worker loads torch
    settled(page, lambda one: one["masks"] == ["liver", "box 1"])
    assert last_mask(app.series, "box 1")[1].shape == app.truth["liver"].shape
    page.locator('[data-finding="liver"]').click()
    page.wait_for_selector('[data-finding="liver"][aria-selected="true"]')
    page.keyboard.press("e")
    settled(page, lambda one: one["painting"])
    stroke(page, now, (3, 3))
    assert last_mask(app.series, "liver")[0].said["added"] > 1
    before, held = Store(app.series).head()[0], []
    page.route("**/review/paint/**", lambda route: held.append(route))  # a slow line
    for place in ((20, 3), (24, 20)):
        page.mouse.move(*at(page, now, *place))
        page.mouse.down()
        page.mouse.up()
    page.get_by_role("button", name="Worklist").click()  # the reader goes on before anything is kept
    page.wait_for_selector("[role=row][data-case]")
    for number in (0, 1):
        for _ in range(300):
            if len(held) > number:
                break
            page.wait_for_timeout(100)
        held[number].continue_()
    for _ in range(300):
        if sum(row.kind == "mask" for row in Store(app.series).since(before)) == 2:
            break
        page.wait_for_timeout(100)
    mask = last_mask(app.series, "liver")[1][now["slice"]]
    assert mask[3, 20] and mask[20, 24]
    page.unroute("**/review/paint/**")


@pytest.mark.slow
def test_the_focal_plane_that_is_chosen_is_the_one_that_is_drawn(page, app):
    opened(page, app, app.smear)
    now = rested(page, lambda one: one["plane"] == 2)
    page.get_by_role("button", name="1:1").click()
    now = rested(page, lambda one: one["scale"] == pytest.approx(1, abs=0.01))
    slide = Slide(app.smear.parent / "field.tif", 0.5)
    true = [np.asarray(slide.region((0, 0), (320, 320), 0.5, plane), int) for plane in range(5)]
    page.keyboard.press("ArrowUp")
    rested(page, lambda one: one["plane"] == 3)
    for wanted in (0, 4, 2):
        page.get_by_label("Focal plane").evaluate(
            f"one => {{ one.value = {wanted}; one.dispatchEvent(new Event('input')); }}"
        )
        then = rested(page, lambda one, wanted=wanted: one["plane"] == wanted)
        assert (then["x"], then["y"], then["scale"]) == pytest.approx((now["x"], now["y"], now["scale"]), abs=0.6)
        shot = stage(page, f"plane_{wanted}")
        top, left = round(then["y"]) + 1, round(then["x"]) + 1
        rows, columns = slice(max(40 - top, 0), 250 - max(top, 0)), slice(40, 280)
        part = shot[rows.start + top : rows.stop + top, columns.start + left : columns.stop + left]
        gaps = [np.abs(part - plane[rows, columns]).mean() for plane in true]
        assert int(np.argmin(gaps)) == wanted, gaps


@pytest.mark.slow
def test_in_the_browser_another_structure_is_drawn_and_is_there_after_a_reload(page, app):
    case = opened(page, app, app.series)
    there = settled(page, lambda one: one.get("case") == case and "liver" in one["masks"])["masks"]
    rows = len(Store(app.series).since())
    page.keyboard.press("d")
    page.wait_for_selector('[data-finding="drawn 1"][aria-selected=true]')
    page.keyboard.press("e")
    now = settled(page, lambda one: one["painting"] and one["masks"] == [*there, "drawn 1"])
    assert len(Store(app.series).since()) == rows  # nothing is kept before a stroke
    for _ in range(4):
        page.keyboard.press("[")
    stroke(page, now, (2, 3), (7, 3))
    wanted = np.zeros_like(app.truth["liver"])
    wanted[now["slice"], 3, 2:8] = True
    _, held = last_mask(app.series, "drawn 1")
    np.testing.assert_array_equal(held, wanted)
    page.keyboard.press("e")
    page.wait_for_timeout(1_500)
    page.keyboard.press("a")  # there is nothing of the AI's to accept
    page.wait_for_timeout(1_500)
    assert [one.kind for one in Store(app.series).since()][-1] == "mask"
    page.reload()
    settled(page, lambda one: "drawn 1" in one.get("masks", ()))
