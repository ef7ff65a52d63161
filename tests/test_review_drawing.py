"""What a reader draws from nothing: kept as strokes are, never in the place of the AI's mask, handed out as made by hand."""

import numpy as np
import pydicom
import pytest
from answers import dicom_errors
from PIL import Image as Pillow
from review_runs import leave_films
from test_review_app import at_case, press
from test_review_masks import office, packed

from apps.review.desk import Desk, Settings
from apps.review.export import hand_out
from apps.review.runs import NONE
from apps.review.store import Conflict, Store
from apps.review.verify import verify
from apps.review.volumes import read_drawn
from medvit.errors import MedvitError

__all__ = ["office"]  # a fixture of another file


def test_what_is_drawn_from_nothing_is_kept_like_strokes_and_is_handed_out_as_made_by_hand(office, tmp_path):
    desk, run, case, liver = office
    lesion = np.zeros_like(liver)
    lesion[2, 3:6, 4:9] = True
    first = desk.paint(run.key, case, "anna", "drawn 1", 0, [2], packed(lesion, [2]), True)
    lesion[1, 4, 5] = True
    desk.paint(run.key, case, "anna", "drawn 1", first["seq"], [1], packed(lesion, [1]))
    rows = Store(run.folder).since()
    assert [(row.finding, row.said["from"], row.said["drawn"]) for row in rows] == [
        ("drawn 1", "nothing", True), ("drawn 1", rows[0].said["sha256"], True)
    ]  # fmt: skip
    np.testing.assert_array_equal(
        read_drawn(str(run.folder / "review/masks" / rows[1].said["file"]), rows[1].said["sha256"]), lesion
    )
    desk.paint(run.key, case, "anna", "liver", 0, [1], packed(~liver, [1]))
    rubbed = desk.paint(run.key, case, "anna", "drawn 2", 0, [0], packed(~liver, [0]), True)
    desk.paint(run.key, case, "anna", "drawn 2", rubbed["seq"], [0], packed(np.zeros_like(liver), [0]))
    told = desk.masks(run.key, case, "anna", False).result().plain["masks"]
    assert {mask["label"]: mask["said"] for mask in told}["drawn 1"] == "drawn by you"
    assert hand_out(desk, run, tmp_path / "out", "anna") == (1, {}) and verify(run.folder).faults == ()
    folder = tmp_path / f"out/{case}_anna"
    segments = pydicom.dcmread(folder / "seg.dcm").SegmentSequence
    assert {one.SegmentLabel: one.SegmentAlgorithmType for one in segments} == {
        "drawn 1": "MANUAL", "liver": "SEMIAUTOMATIC"
    }  # fmt: skip
    assert dicom_errors(folder / "seg.dcm") == []
    assert not (folder / "mask_drawn-2.nii.gz").exists() and (folder / "mask_drawn-1.nii.gz").exists()


def test_nothing_is_begun_in_the_place_of_a_mask_or_under_a_name_that_there_is_not(office):
    desk, run, case, liver = office
    bits = packed(liver, [1])
    with pytest.raises(Conflict):
        desk.paint(run.key, case, "anna", "liver", 0, [1], bits, True)  # the AI has outlined it
    for name in (NONE, "box 3", "drawn x", "drawn 0", "drawn 1/../2", "spleen", ""):
        with pytest.raises(MedvitError, match="no such mask"):
            desk.paint(run.key, case, "anna", name, 0, [1], bits, True)
    with pytest.raises(MedvitError, match="no such mask"):
        desk.paint(run.key, case, "anna", "drawn 1", 0, [1], bits)
    assert Store(run.folder).since() == []
    desk.paint(run.key, case, "anna", "drawn 1", 0, [1], bits, True)
    with pytest.raises(Conflict):  # in another window meanwhile
        desk.paint(run.key, case, "anna", "drawn 1", 0, [1], bits, True)
    assert len(list((run.folder / "review/masks").glob("*.npz"))) == 1


def test_a_finding_of_a_film_is_drawn_and_handed_out_as_a_picture(tmp_path, make_film):
    out = leave_films(tmp_path, make_film, ((0.9, 0.2, 0.6),))
    desk = Desk(Settings((str(out),), (str(tmp_path),), workers=0))
    (run,) = desk.runs.values()
    (case,) = run.rows
    shape = tuple(desk.volume(run.key, case).result().plain["shape"])
    missed = np.zeros(shape, bool)
    missed[0, 100:130, 50:90] = True
    desk.paint(run.key, case, "anna", "Effusion", 0, [0], packed(missed, [0]), True)
    written, faults = hand_out(desk, run, tmp_path / "given", "anna")
    assert written == 1 and ["No SEG" in fault for fault in faults] == [True]  # a film lies on no plane in space
    given = np.asarray(Pillow.open(tmp_path / f"given/{case}_anna/mask_Effusion.png"))
    np.testing.assert_array_equal(given > 127, missed[0])


def test_a_film_is_turned_into_one_to_draw_on_and_back_and_a_blind_reader_is_not_offered_it(tmp_path, make_film):
    out = leave_films(tmp_path, make_film, ((0.9, 0.2, 0.6),))
    page, _ = at_case(out)
    assert page.button(key="draw").label == "Draw"
    assert press(page, "draw").button(key="draw").label == "Back to the film"
    assert press(page, "draw").button(key="draw").label == "Draw"
    blind, _ = at_case(out, blind=True)
    assert not [one for one in blind.button if one.key == "draw"]
    assert not [row for row in Store(out).since() if row.kind == "mask"]
