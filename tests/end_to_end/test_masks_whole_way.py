"""From generated volumes to masks: trained, asked by boxes, written as PNG, NIfTI and SEG, read back by other libraries."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import tiny
import tiny_volumes
from answers import dicom_errors
from highdicom.seg import segread
from PIL import Image as Pillow

from medvit.evaluate.segmentation import dice

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A folder with a trained system and inputs of every kind."""
    folder = tmp_path_factory.mktemp("masks")
    tiny_volumes.write_set(folder / "set")
    system = {
        "class": "DBSAM",
        "variant": "none",
        "trained": "everything",
        **tiny_volumes.NET,
        "lr": 3e-3,
        "min_score": 0.0,
    }
    data = {"class": "Masks", "table": "set/cases.csv", "batch_size": 8, "cache": True, "draws": 16, "flip": 0.5}
    (folder / "whole.yaml").write_text(json.dumps({"system": system, "data": data,
        "trainer": {"max_epochs": 16, "accelerator": "cpu"}}))  # fmt: skip
    done = tiny.medvit("train", "whole.yaml", cwd=folder)
    assert done.code == 0, done.err
    volume, mask = tiny_volumes.block(77)
    (folder / "in").mkdir()
    tiny_volumes.write_nifti(folder / "in" / "oblique.nii.gz", volume, tiny_volumes.oblique())
    tiny_volumes.write_series(folder / "in" / "series", volume)
    Pillow.fromarray(volume[2]).save(folder / "in" / "flat.png")
    rows = []
    for name in ("oblique.nii.gz", "series", "flat.png"):
        for number in (1, 2):
            # NIfTI is displayed with slices upwards, rows to the back, columns to the left: as these arrays lie.
            rows.append((f"in/{name}", f"block {number}", *tiny_volumes.box_of(mask[2] == number),
                         "" if name == "flat.png" else 2))  # fmt: skip
    tiny_volumes.write_boxes(folder / "boxes.csv", rows)
    done = tiny.medvit("predict", "runs/whole/best.ckpt", "in", "-o", "out", "--boxes", "boxes.csv", "--write",
                       "csv,png,nifti,seg", cwd=folder)  # fmt: skip
    assert done.code == 0, done.err
    return folder, mask


def rows_of(folder: Path, source: str) -> dict[str, dict[str, str]]:
    rows = tiny.read_rows(folder / "out" / "masks.csv")
    return {row["label"]: row for row in rows if source in row["source"]}


def case_of(folder: Path, source: str) -> Path:
    return folder / "out" / "cases" / rows_of(folder, source)["block 1"]["case"]


def test_every_input_is_accounted_for(learned) -> None:
    folder, _ = learned
    rows = tiny.read_rows(folder / "out" / "inputs.csv")
    assert sorted((row["status"], row["reason"]) for row in rows) == [("ok", "")] * 3 + [("skipped", "series_part")] * 4


def test_masks_agree_with_the_truth(learned) -> None:
    folder, mask = learned
    found = np.asarray(Pillow.open(case_of(folder, "flat.png") / "mask_block-1.png"))
    assert set(np.unique(found)) <= {0, 255}
    assert dice(found > 0, mask[2] == 1) > 0.4  # sixteen epochs of a second


def test_a_mask_of_an_oblique_volume_comes_back_on_its_voxels_through_nibabel(learned) -> None:
    folder, mask = learned
    for name in ("oblique.nii.gz", "series"):
        for number in (1, 2):
            written = nibabel.load(case_of(folder, name) / f"mask_block-{number}.nii.gz")
            np.testing.assert_allclose(written.affine, tiny_volumes.oblique(), atol=1e-3)
            # Were an axis turned or mirrored, the two blocks would change places or leave the slices of the truth.
            other = mask == 3 - number
            voxels = np.asarray(written.dataobj).transpose(2, 1, 0) > 0
            assert dice(voxels, mask == number) > 2 * dice(voxels, other)


def test_a_mask_of_an_oblique_series_lies_on_the_same_voxels_in_nifti_and_seg(learned) -> None:
    folder, _ = learned
    case = case_of(folder, "series")
    assert dicom_errors(case / "seg.dcm") == []
    segments = segread(case / "seg.dcm")
    files = [pydicom.dcmread(file) for file in (folder / "in" / "series").iterdir()]
    for number in (1, 2):
        labels = nibabel.load(case / f"mask_block-{number}.nii.gz")
        voxels, affine = np.asarray(labels.dataobj), labels.affine
        assert voxels.any()
        assert segments.get_segment_description(number).segment_label == f"block {number}"
        for one in files:
            planes = segments.get_pixels_by_source_instance(
                [one.SOPInstanceUID],
                segment_numbers=[number],
                ignore_spatial_locations=True,
                assert_missing_frames_are_empty=True,
            )
            # Where the NIfTI's affine puts this slice's first pixel, by the header of the slice itself.
            ras = np.array([-1, -1, 1]) * np.array(one.ImagePositionPatient, float)
            at = np.linalg.inv(affine) @ [*ras, 1]
            np.testing.assert_allclose(at[:2], 0, atol=1e-2)
            np.testing.assert_array_equal(planes[0, :, :, 0] > 0, voxels[:, :, round(at[2])].T > 0)


def test_sizes_are_in_mm_only_where_spacing_is_known(learned) -> None:
    folder, _ = learned
    flat, solid = rows_of(folder, "flat.png")["block 1"], rows_of(folder, "series")["block 1"]
    assert flat["area_mm2"] == flat["volume_ml"] == solid["area_mm2"] == ""
    ml = np.prod(tiny_volumes.SPACING) / 1000
    assert float(solid["volume_ml"]) == pytest.approx(int(solid["pixels"]) * ml, abs=1e-3)
    assert 0 <= float(solid["score"]) <= 1
    assert solid["prompt"] == "box" and "upwards" in solid["stopped"]
    assert flat["slices"] == flat["stopped"] == flat["cleaned"] == ""


def test_a_run_goes_on_with_the_same_prompts_and_refuses_others(learned) -> None:
    folder, _ = learned
    before = {p.name: p.read_bytes() for p in (folder / "out").glob("*.csv")}
    command = ("predict", "runs/whole/best.ckpt", "in", "-o", "out", "--write", "csv,png,nifti,seg", "--resume")
    done = tiny.medvit(*command, "--boxes", "boxes.csv", cwd=folder)
    assert done.code == 0, done.err
    assert {p.name: p.read_bytes() for p in (folder / "out").glob("*.csv")} == before
    other = tiny_volumes.write_boxes(folder / "other.csv", [("in/flat.png", "x", 1, 1, 9, 9, "")])
    assert "with another boxes" in tiny.medvit(*command, "--boxes", other, cwd=folder).err
    assert "with another boxes" in tiny.medvit(*command, cwd=folder).err


def test_without_a_prompt_a_rule_proposes_and_is_named(learned) -> None:
    folder, _ = learned
    done = tiny.medvit(
        "predict", "runs/whole/best.ckpt", "in/flat.png", "-o", "free", "--clean", "largest,4", cwd=folder
    )
    assert done.code == 0, done.err
    rows = tiny.read_rows(folder / "free" / "masks.csv")
    assert rows and all(row["prompt"].startswith("proposed: bright part") for row in rows)
    assert all(row["cleaned"].startswith("largest,4: ") for row in rows)
    (record,) = [json.loads(line) for line in (folder / "free" / "records.jsonl").read_text().splitlines()]
    assert "Otsu" in record["origin"]["prompts"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("in/flat.png", "x", 5, 5, 40, 9, ""), "lies outside the image of 28 x 24 pixels"),
        (("in/flat.png", "x", -1, 5, 9, 9, ""), "lies outside the image"),
        (("in/oblique.nii.gz", "x", 5, 5, 9, 9, 5), "slices are 0 to 4"),
        (("in/oblique.nii.gz", "x", 5, 5, 9, 9, ""), "names no slice, and this is a volume of 5"),
    ],
)
def test_a_prompt_that_does_not_fit_its_image_rejects_it_in_a_sentence(learned, tmp_path, row, words) -> None:
    folder, _ = learned
    boxes = tiny_volumes.write_boxes(folder / f"{tmp_path.name}.csv", [row])
    done = tiny.medvit("predict", "runs/whole/best.ckpt", row[0], "-o", tmp_path / "o", "--boxes", boxes, "--workers", 0,
                       cwd=folder)  # fmt: skip
    assert done.code == 1
    (found,) = tiny.read_rows(tmp_path / "o" / "inputs.csv")
    assert (found["status"], found["reason"]) == ("rejected", "prompt")
    assert words in found["message"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("in/flat.png", "x", 5, 5, 5, 9, ""), "boxes.csv:2: the box has no area"),
        (("in/flat.png", "x", 5, "wide", 9, 9, ""), "must be numbers of source pixels"),
        (("in/flat.png", "x", 5, 5, 9, 9, -1), "slice is '-1'"),
        (("in/gone.png", "x", 5, 5, 9, 9, ""), "names in/gone.png, which is not there"),
    ],
)
def test_a_table_of_boxes_that_makes_no_sense_is_refused_before_anything_is_read(learned, row, words) -> None:
    folder, _ = learned
    (folder / "wrong").mkdir(exist_ok=True)
    boxes = tiny_volumes.write_boxes(
        folder / "wrong" / "boxes.csv", [(f"../{row[0]}" if "gone" not in row[0] else row[0], *row[1:])]
    )
    done = tiny.medvit("predict", "runs/whole/best.ckpt", "in", "-o", "never", "--boxes", boxes, cwd=folder)
    assert done.code == 2 and words in done.err
    assert not (folder / "never").exists()


def test_other_systems_say_that_boxes_are_not_for_them(trained) -> None:
    done = tiny.medvit("predict", trained.checkpoint, "films", "-o", "o", "--boxes", "cases.csv", cwd=trained.folder)
    assert done.code == 2 and "--boxes says nothing to ThoraxMAE" in done.err
