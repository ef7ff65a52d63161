"""Masks of a reader's own, without a browser: how they are kept, refused, checked, read from series, and handed out."""

import json
import os
import shutil
import struct
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import tiny_volumes
from answers import dicom_errors
from highdicom.seg import segread
from review_runs import leave_volume, reply_of

from apps.review.desk import Desk, Settings
from apps.review.export import hand_out
from apps.review.files import files_of
from apps.review.store import Conflict, Store
from apps.review.verify import verify
from apps.review.volumes import CT_WINDOWS, read_drawn, slices
from medvit.case import Case, digest
from medvit.errors import MedvitError, Rejected
from medvit.readers.dicom import open_dicom
from medvit.readers.pixels import decode
from medvit.readers.series import read_series
from medvit.readers.survey import read_facts

REAL = Path(__file__).parents[2] / "shared/data"
FRAMED = {
    "cornerstone__CT0012.fragmented_no_bot_jpeg_baseline.51.dcm": ((2, 512, 512), "HU"),
    "fodicom__mr_brucker.dcm": ((4, 128, 256), ""),
}


def write_scan(folder, files, mask):
    facts, _ = read_facts(files[0])
    uid = facts["series_uid"] if len(files) > 1 else facts["sop_uid"]
    return leave_volume(folder, Case(uid, facts["modality"], tuple(files), header=facts), {"liver": mask})


@pytest.fixture
def office(tmp_path):
    """A desk over an oblique CT series in which the AI has outlined a liver; its run, its case and that mask."""
    volume, mask = tiny_volumes.block()
    files = sorted(tiny_volumes.write_series(tmp_path / "ct", volume))
    out = write_scan(tmp_path, files, mask == 1)
    opened = Desk(Settings((str(out),), (str(tmp_path),), workers=0))
    (run,) = opened.runs.values()
    return opened, run, next(iter(run.rows)), mask == 1


def packed(mask, chosen):
    return b"".join(np.packbits(mask[z]).tobytes() for z in chosen)


def test_every_stroke_is_a_file_and_a_row_of_its_own_and_nothing_is_overwritten(office):
    opened, run, case, liver = office
    one, two = liver.copy(), liver.copy()
    one[1, :3] = True
    two[1, :3], two[4, 5, 5] = True, True
    first = opened.paint(run.key, case, "anna", "liver", 0, [1], packed(one, [1]))
    second = opened.paint(run.key, case, "anna", "liver", first["seq"], [4], packed(two, [4]))
    rows = Store(run.folder).since()
    assert [(row.kind, row.said["slices"]) for row in rows] == [("mask", [1]), ("mask", [4])]
    assert rows[1].said["from"] == rows[0].said["sha256"] and rows[0].said["from"] == "the AI's mask"
    assert (first["added"], first["removed"], second["voxels"]) == (int((one & ~liver).sum()), 0, int(two.sum()))
    for row, mask in zip(rows, (one, two), strict=True):
        held = read_drawn(str(run.folder / "review/masks" / row.said["file"]), row.said["sha256"])
        np.testing.assert_array_equal(held, mask)
    with pytest.raises(Conflict, match="another window"):
        opened.paint(run.key, case, "anna", "liver", first["seq"], [0], packed(two, [0]))
    opened.paint(run.key, case, "ben", "liver", 0, [0], packed(liver, [0]))  # another reader begins with the AI's
    again = opened.paint(run.key, case, "anna", "liver", second["seq"], None, b"")
    assert again["voxels"] == int(liver.sum()) and len(Store(run.folder).since()) == 4
    assert len(list((run.folder / "review/masks").glob("*.npz"))) == 4 and verify(run.folder).faults == ()
    told = opened.masks(run.key, case, "anna", False).result().plain["masks"]
    assert [(mask["label"], mask["before"], mask["painted"]) for mask in told] == [
        ("liver", True, False),
        ("liver", False, False),
    ]


def test_what_is_no_mask_of_these_slices_is_refused_and_leaves_nothing(office):
    opened, run, case, liver = office
    for chosen, bits in (
        ([9], packed(liver, [1])),
        ([1], b"x"),
        ([1, 1], packed(liver, [1, 1])),
        ([-1], packed(liver, [1])),
    ):
        with pytest.raises(Rejected, match="no mask of these slices"):
            opened.paint(run.key, case, "anna", "liver", 0, chosen, bits)
    with pytest.raises(MedvitError, match="no such mask"):
        opened.paint(run.key, case, "anna", "spleen", 0, [1], packed(liver, [1]))
    assert Store(run.folder).since() == [] and not list((run.folder / "review").rglob("*.npz"))


def test_a_mask_that_was_changed_or_lost_shows_by_its_row_and_is_not_shown(office):
    opened, run, case, liver = office
    made = opened.paint(run.key, case, "anna", "liver", 0, [1], packed(~liver, [1]))
    (file,) = (run.folder / "review/masks").glob("*.npz")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"x")
    told = f"The mask of row {made['seq']} was changed: its file is another one than was kept."
    assert verify(run.folder).faults == (told,)
    assert opened.masks(run.key, case, "anna", False).result().plain["changed"] == ["liver"]
    with pytest.raises(Rejected, match="changed after it was kept"):
        opened.paint(run.key, case, "anna", "liver", made["seq"], [1], packed(liver, [1]))
    file.unlink()
    assert verify(run.folder).faults == (f"The mask of row {made['seq']} is missing.",)


def sent(app, path, cookie, body, own=True):
    """What an address answers to what somebody sends, from the app's own page or another."""
    return reply_of(app, path, cookie, "POST", body, [(b"x-medvit", b"1")] if own else ())


def test_only_who_is_let_in_may_paint_from_the_apps_own_page_and_no_blind_reader(office):
    from starlette.applications import Starlette
    from starlette.middleware import Middleware

    from apps.review.door import Door, Keys, Person
    from apps.review.routes import routes

    opened, run, case, liver = office
    keys = Keys((Person("anna"),), 1)
    cookie = f"medvit_review_1={keys.links['anna'].partition('key=')[2]}"
    head = json.dumps({"finding": "liver", "after": 0, "slices": [2], "reviewer": "eve"}).encode()
    body, where = struct.pack("<I", len(head)) + head + packed(~liver, [2]), f"/review/paint/{run.key}/{case}"
    app = Starlette(routes=routes(opened), middleware=[Middleware(Door, keys=keys)])
    assert sent(app, where, "", body)[0] == 401 and sent(app, where, cookie, body, own=False)[0] == 403
    blind = Desk(opened.settings._replace(blind=True))
    assert (
        sent(Starlette(routes=routes(blind), middleware=[Middleware(Door, keys=keys)]), where, cookie, body)[0] == 403
    )
    assert sent(app, where, cookie, b"\xff\xff\xff\xffnonsense")[0] == 404
    assert Store(run.folder).since() == []
    assert sent(app, where, cookie, body)[0] == 200
    assert [row.reviewer for row in Store(run.folder).since()] == ["anna"]  # whoever the body names
    status, said = sent(app, where, cookie, body)
    assert status == 409 and b"another window" in said


def test_masks_are_handed_out_as_nifti_and_seg_with_exactly_their_voxels(office, tmp_path):
    opened, run, case, liver = office
    painted = np.random.default_rng(0).random(liver.shape) < 0.3
    every = list(range(len(liver)))
    opened.paint(run.key, case, "anna", "liver", 0, every, packed(painted, every))
    written, faults = hand_out(opened, run, tmp_path / "given", "anna")
    assert (written, dict(faults)) == (1, {})
    folder = tmp_path / f"given/{case}_anna"
    given, source = nibabel.load(folder / "mask_liver.nii.gz"), read_series(sorted((tmp_path / "ct").glob("*.dcm")))
    np.testing.assert_allclose(given.affine, source.place.affine, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(given.dataobj) > 0, painted.transpose(2, 1, 0))
    files = sorted(
        (pydicom.dcmread(file) for file in (tmp_path / "ct").glob("*.dcm")), key=lambda one: -one.InstanceNumber
    )
    assert dicom_errors(folder / "seg.dcm") == []
    seg = segread(folder / "seg.dcm")
    held = seg.get_pixels_by_source_instance([one.SOPInstanceUID for one in files], ignore_spatial_locations=True)
    np.testing.assert_array_equal(held[..., 0].astype(bool), painted)
    assert seg.get_segment_description(1).algorithm_type.value == "SEMIAUTOMATIC" and seg.ContentCreatorName == "anna^"
    assert "no human in between" not in str(seg.ContributingEquipmentSequence)
    assert Store(run.folder).since()[-1].said["files"] == ["mask_liver.nii.gz", "seg.dcm"]


def test_a_series_is_put_together_from_its_folder_and_from_nothing_else_there(office, tmp_path):
    _, run, case, liver = office
    first = str(tmp_path / "ct/0.dcm")
    other = tiny_volumes.write_series(tmp_path / "other", *tiny_volumes.block()[:1])
    shutil.copy(other[0], tmp_path / "ct/other.dcm")
    shutil.copy(first, tmp_path / "ct/copy.dcm")
    (tmp_path / "ct/notes.txt").write_text("no image")
    assert run.kind(run.rows[case]) == "volume" and run.rows[case].slices == 5
    assert len(files_of(first, case, 5)[0]) == 5
    (tmp_path / "ct/3.dcm").unlink()
    with pytest.raises(Rejected, match="4 slices of the series lie in its folder and 5 were answered"):
        slices(first, case, 5)
    with pytest.raises(Rejected, match="Another image"):
        slices(str(other[0]), case, 5)
    assert liver.any()


@pytest.mark.real
@pytest.mark.skipif(not (REAL / "dicom_zoo").is_dir(), reason="the real files of ../shared/data are not here")
@pytest.mark.parametrize("name", FRAMED)
def test_real_multi_frame_ct_and_mr_are_volumes_whose_masks_go_out_by_frame(name, tmp_path):
    shape, unit = FRAMED[name]
    file = Path(shutil.copy(REAL / "dicom_zoo" / name, tmp_path / "one.dcm"))
    mask = np.random.default_rng(1).random(shape) < 0.2
    out = write_scan(tmp_path, [file], mask)
    opened = Desk(Settings((str(out),), (str(tmp_path),), workers=0))
    (run,) = opened.runs.values()
    case = next(iter(run.rows))
    told = opened.volume(run.key, case).result()
    assert tuple(told.plain["shape"]) == shape and told.plain["unit"] == unit and told.plain["spacing"]
    dataset = pydicom.dcmread(file)
    heights = [
        float(one.PlanePositionSequence[0].ImagePositionPatient[2]) for one in dataset.PerFrameFunctionalGroupsSequence
    ]
    cosines = np.array(
        dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient, float
    )
    order = np.argsort(np.array(heights) * np.cross(cosines[:3], cosines[3:])[2])
    values = told.plain["offset"] + told.plain["scale"] * told.arrays[0].astype(float)
    true = decode(open_dicom(file))[order].astype(float) + (-1024 if unit else 0)
    np.testing.assert_allclose(values, true, atol=0.5)
    painted = ~mask
    opened.paint(run.key, case, "anna", "liver", 0, [0], packed(painted, [0]))
    assert hand_out(opened, run, tmp_path / "given", "anna") == (1, {})
    assert dicom_errors(tmp_path / f"given/{case}_anna/seg.dcm") == []
    seg = pydicom.dcmread(tmp_path / f"given/{case}_anna/seg.dcm")
    frames = {
        int(one.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber): plane.astype(bool)
        for one, plane in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True)
    }
    for place, frame in enumerate(order):
        np.testing.assert_array_equal(frames[int(frame) + 1], painted[place] if place == 0 else mask[place])


@pytest.mark.real
@pytest.mark.skipif(not (REAL / "seg3d").is_dir(), reason="the real files of ../shared/data are not here")
def test_a_real_ct_series_has_hounsfield_units_spacing_windows_and_marks(tmp_path):
    (tmp_path / "ct").mkdir()
    for number, file in enumerate(sorted((REAL / "seg3d/open/totalseg/example_ct_dicom").iterdir())):
        one = pydicom.dcmread(file)  # its UIDs are blank
        one.SOPClassUID, one.SOPInstanceUID = one.file_meta.MediaStorageSOPClassUID, f"2.25.7{number:03d}"
        one.SeriesInstanceUID, one.StudyInstanceUID = "2.25.8", "2.25.9"
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        one.save_as(tmp_path / f"ct/{number:02d}.dcm")
    told = slices(str(tmp_path / "ct/00.dcm"), digest("2.25.8"), 20)
    plain, values = told.plain, told.arrays[0]
    assert values.shape == (20, 512, 512) and plain["unit"] == "HU"
    assert plain["offset"] <= -1000 and plain["scale"] == 1 and plain["spacing"][0] == 2
    assert (plain["marks"]["left"], plain["marks"]["right"], plain["marks"]["top"]) == ("R", "L", "A")
    assert [name for name, *_ in plain["windows"]][:2] == ["of the file", next(iter(CT_WINDOWS))]


def test_a_nifti_volume_is_marked_by_its_affine(tmp_path):
    volume, _ = tiny_volumes.block()
    file = tiny_volumes.write_nifti(tmp_path / "one.nii.gz", volume.astype(np.int16) * 8 - 1000)
    told = slices(str(file), digest(os.path.realpath(file)))
    assert told.plain["marks"] == {"left": "R", "right": "L", "top": "A", "bottom": "P", "onwards": "H"}
    assert told.plain["unit"] == "HU" and (told.plain["offset"], told.plain["scale"]) == (
        -1000 + 8 * int(volume.min()),
        1,
    )
