"""``medvit evaluate`` on systems that answer masks: Dice and surface Dice, compared with counts made here."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tiny
import tiny_volumes
import torch
from PIL import Image as Pillow

from medvit.case import Case
from medvit.evaluate.mask_scores import Scored, differences, measured
from medvit.image import Image
from medvit.mask_evaluation import AskedMasks, evaluate_masks
from medvit.systems.db_sam import DBSAM
from medvit.tasks.prompted import asked_as_published

NAMES = {1: "left block", 2: "right block"}


class Filler(DBSAM):
    """Answers every box with the whole box, whatever the image shows."""

    def answered(self, planes, fit, prompts):
        told = []
        for one in prompts:
            mask = np.zeros(fit.source, bool)
            x0, y0, x1, y1 = (round(edge) for edge in one.box)
            mask[y0:y1, x0:x1] = True
            told.append((mask, 0.9))
        return told


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return tiny_volumes.write_set(tmp_path_factory.mktemp("set"), 5)


@pytest.fixture(scope="module")
def system():
    torch.manual_seed(0)
    return Filler(variant="none", trained="decoder", **tiny_volumes.NET)


def evaluated(system, table, out, **asked):
    identity = {"name": "best.ckpt", "sha256": "0" * 64, "version": "0"}
    return evaluate_masks(system, identity, table, out, AskedMasks("val", structures=NAMES, draws=50, **asked))


def truth_of(table: Path, number: int) -> list[np.ndarray]:
    rows = [row for row in tiny.read_rows(table) if row["split"] == "val"]
    voxels = [np.asarray(nibabel.load(table.parent / row["mask"]).dataobj).transpose(2, 1, 0) for row in rows]
    return [each == number for each in voxels]


def boxed(mask: np.ndarray) -> np.ndarray:
    """Each slice's box, a pixel larger, filled."""
    filled = np.zeros_like(mask)
    for plane, out in zip(mask, filled, strict=True):
        if plane.any():
            x0, y0, x1, y1 = tiny_volumes.box_of(plane)
            out[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = True
    return filled


def test_a_filled_box_on_every_slice_has_the_dice_that_counting_gives(system, table, tmp_path) -> None:
    told = evaluated(system, table, tmp_path)
    assert (told["cases"], told["patients"], told["split"]) == (2, 2, "val")
    for number, name in NAMES.items():
        each = [2 * (boxed(m) & m).sum() / (boxed(m).sum() + m.sum()) for m in truth_of(table, number)]
        value, low, high = told["structures"][name]["dice"]
        assert value == pytest.approx(np.mean(each), abs=1e-5) and min(each) - 1e-5 <= low <= high <= max(each) + 1e-5
        assert 0 < told["structures"][name]["nsd"][0] < 1
    assert told["mean"]["dice"][0] == pytest.approx(np.mean([told["structures"][n]["dice"][0] for n in NAMES.values()]))


def test_it_leaves_a_page_a_card_and_every_score(system, table, tmp_path) -> None:
    told = evaluated(system, table, tmp_path)
    page, card = (tmp_path / "evaluation.html").read_text(), (tmp_path / "model_card.md").read_text()
    assert "data:image/jpeg;base64," in page and "<script" not in page and "left block" in page
    assert "surface Dice within 2 mm" in card and "val: 2 cases of 2 patients" in card
    with (tmp_path / "masks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and {row["structure"] for row in rows} == set(NAMES.values())
    mean = np.mean([float(row["nsd"]) for row in rows if row["structure"] == "left block"])
    assert mean == pytest.approx(told["structures"]["left block"]["nsd"][0], abs=1e-5)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == told


def test_a_coarser_tolerance_never_lowers_the_surface_dice_and_a_huge_one_makes_it_whole(
    system, table, tmp_path
) -> None:
    tight, loose, huge = (evaluated(system, table, tmp_path / str(mm), tolerance_mm=mm) for mm in (1.0, 4.0, 400.0))
    assert tight["mean"]["nsd"][0] < loose["mean"]["nsd"][0] < huge["mean"]["nsd"][0] == 1.0


def test_the_papers_protocol_sees_256_pixels_and_boxes_of_nine_more(table) -> None:
    asked = []

    class Looker(Filler):
        def answered(self, planes, fit, prompts):
            asked.append((tuple(planes.shape), fit.source, prompts[0].box))
            return super().answered(planes, fit, prompts)

    truth = np.zeros((3, 64, 128), np.uint8)
    truth[1, 16:32, 32:64] = 1
    x = torch.zeros(1, 3, 64, 128, dtype=torch.uint8)
    found = asked_as_published(Looker(variant="none", trained="decoder", **tiny_volumes.NET), x, truth)
    assert asked == [((1, 256, 256), (256, 256), (64.0 - 9, 64.0 - 9, 127.0 + 9, 127.0 + 9))]
    assert found[1].slices == [1] and found[1].found.shape == found[1].truth.shape == (1, 256, 256)
    assert found[1].truth.sum() == 64 * 64


def test_the_papers_protocol_and_a_carried_box_are_measured_too(system, table, tmp_path) -> None:
    paper = evaluated(system, table, tmp_path / "paper", protocol="paper")
    assert paper["tolerance"] == "1 px" and 0.3 < paper["mean"]["dice"][0] < 1
    boxes = table.parent / "boxes.csv"
    rows = []
    for row in [row for row in tiny.read_rows(table) if row["split"] == "val"]:
        mask = np.asarray(nibabel.load(table.parent / row["mask"]).dataobj).transpose(2, 1, 0)
        rows.append((row["path"], "left block", *tiny_volumes.box_of(mask[2] == 1), 2))
    tiny_volumes.write_boxes(boxes, rows)
    carrier = Filler(variant="none", trained="decoder", **tiny_volumes.NET)
    carried = evaluated(carrier, table, tmp_path / "free", protocol="carried")
    assert set(carried["structures"]) == set(NAMES.values()) and carried["prompts"] == "boxes around the true masks"
    carrier.told("boxes", str(boxes))
    given = evaluated(carrier, table, tmp_path / "given", protocol="carried")
    assert set(given["structures"]) == {"left block"} and given["prompts"] == "boxes of --boxes"


def test_the_same_system_against_itself_differs_by_nothing(system, table, tmp_path) -> None:
    identity = {"name": "best.ckpt", "sha256": "0" * 64, "version": "0"}
    asked = AskedMasks("val", draws=20)
    told = evaluate_masks(system, identity, table, tmp_path, asked, (system, identity))
    assert told["against"]["mean"] == {"dice": [0, 0, 0], "nsd": [0, 0, 0]}
    assert "Against" in (tmp_path / "evaluation.html").read_text()


@pytest.mark.parametrize("layout", ["pictures", "medsam"])
def test_a_folder_is_measured_whole_even_of_one_patient(system, tmp_path, layout) -> None:
    volume, mask = tiny_volumes.block(1)
    if layout == "pictures":
        for name, planes in (("images", volume), ("masks", mask)):
            (tmp_path / "set" / name).mkdir(parents=True)
            Pillow.fromarray(planes[2]).save(tmp_path / "set" / name / "a.png")
    else:
        (tmp_path / "set").mkdir()
        np.savez(tmp_path / "set" / "a.npz", imgs=volume, gts=mask)
    told = evaluated(system, tmp_path / "set", tmp_path / "out", protocol="paper")
    assert (told["split"], told["cases"], told["table_sha256"]) == ("whole folder", 1, "a folder")
    for name in NAMES.values():
        assert 0.3 < told["structures"][name]["dice"][0] < 1 and 0 < told["structures"][name]["nsd"][0] < 1


def test_without_spacing_no_millimetres_are_invented(system, tmp_path) -> None:
    class Flat(Filler):
        def read(self, case: Case) -> Image:
            image = super().read(case)
            return Image(image.pixels, None, image.origin, image.mask, image.place)

    told = evaluated(
        Flat(variant="none", trained="decoder", **tiny_volumes.NET), tiny_volumes.write_set(tmp_path, 4), tmp_path / "o"
    )
    assert told["mean"]["nsd"] == [None, None, None] and told["mean"]["dice"][0] > 0


def test_intervals_draw_patients_and_not_cases() -> None:
    rng = np.random.default_rng(0)
    level = rng.uniform(0.2, 0.9, 20)
    values = np.repeat(level, 5)[:, None]  # five cases a patient, all alike
    who = [f"p{i // 5}" for i in range(100)]
    alone, shared = (Scored([str(i) for i in range(100)], patients, ("a",), {"dice": values, "nsd": values})
                     for patients in ([""] * 100, who))  # fmt: skip
    narrow, wide = (measured(one)["structures"]["a"]["dice"] for one in (alone, shared))
    assert 1.8 < (wide[2] - wide[1]) / (narrow[2] - narrow[1]) < 2.7  # the root of five
    assert differences(shared, shared)["mean"]["dice"] == [0, 0, 0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--structures", "liver"), "such as 1=liver,2=spleen"),
        (("--boxes", "cases.csv"), "add --protocol carried"),
        (("--tolerance-mm", "0"), "a length above 0"),
        (("--split", "test"), "no case in split 'test'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(table, tmp_path, words, said) -> None:
    checkpoint = table.parent / "net.ckpt"
    if not checkpoint.exists():
        net = DBSAM(variant="none", trained="decoder", pixels="medsam", **tiny_volumes.NET)
        card = {"system": "DBSAM", "version": "0", "arguments": {**net.hparams}, "labels": []}
        torch.save({"state_dict": net.state_dict(), "medvit": card}, checkpoint)
    done = tiny.medvit("evaluate", checkpoint, table, "-o", tmp_path / "o", "--workers", 0, *words, cwd=table.parent)
    assert done.code == 2 and said in done.err and "Traceback" not in done.err, done.err
