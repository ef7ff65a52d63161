"""Slides, smears and clips are cross-validated, evaluated and explained by the same three commands as films."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_clips
import tiny_slides
import tiny_smears
from PIL import Image

SPLITS = ["train"] * 4 + ["val"] * 4 + ["test"] * 8


def slides(folder: Path, index: int, ill: bool) -> tuple[str, str]:
    """A slide, and the picture of where its tumour lies."""
    x, y = tiny_slides.write_slide(folder / f"{index}.tif", index, ill)
    mask = np.zeros((tiny_slides.SIDE // 8, tiny_slides.SIDE // 8), np.uint8)
    mask[y // 8 : y // 8 + 6, x // 8 : x // 8 + 6] = 2 * ill
    Image.fromarray(mask + 1).save(folder / f"{index}_mask.png")
    return f"{index}.tif", f"{index}_mask.png"


def smears(folder: Path, index: int, ill: bool) -> tuple[str, str]:
    """A smear; nobody drew its cells."""
    tiny_smears.write_smear(folder / f"{index}.tif", index, ill)
    return f"{index}.tif", ""


def clips(folder: Path, index: int, ill: bool) -> tuple[str, str]:
    """A clip whose middle is bright or not."""
    frames = tiny_clips.scan(8, seed=index) // (1 if ill else 3)
    tiny_clips.write_us(folder / f"{index}.dcm", frames)
    return f"{index}.dcm", ""


CLIPS = {
    "seed": 3,
    "system": {"class": "ERDES", "net": "unet3d", "frames": 16, "side": 32, "slim": 16},
    "data": {"class": "Clips", "table": "cases.csv", "batch_size": 8, "cache": True},
    "trainer": {"max_epochs": 1, "accelerator": "cpu"},
}
KINDS = {
    "slides": (slides, tiny_slides.MIL, "tumour", ("--mask-values", "3")),
    "smears": (smears, tiny_smears.MIL, "malignant", ()),
    "clips": (clips, CLIPS, "Retinal_Detachment", ()),
}


@pytest.fixture(scope="module", params=KINDS)
def measured(request, tmp_path_factory):
    """A folder after ``train --folds 3``, ``evaluate`` and ``explain --score``, with the label and what they printed."""
    write, workflow, label, words = KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    with (folder / "cases.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "patient_id", "split", "mask", label))
        for index, split in enumerate(SPLITS):
            path, mask = write(folder, index, bool(index % 2))
            table.writerow((path, f"{tiny.SECRET}{index}", split, mask, index % 2))
    system = {key: value for key, value in workflow["system"].items() if key != "weights"}
    tiny.write_workflow(folder / "small.yaml", {**workflow, "system": system}, requires=None,
                        data={"table": "cases.csv"}, trainer={"max_epochs": 1})  # fmt: skip
    done = [tiny.medvit("train", "small.yaml", "--folds", 3, "-o", "cv", cwd=folder)]
    for verb in (("evaluate",), ("explain", "--score", "--most", 6)):
        more = (*words, "--silence-um", "40") if words and verb[0] == "evaluate" else words
        done.append(tiny.medvit(*verb, "cv/fold_0/best.ckpt", "cases.csv", "-o", verb[0], "--workers", 0, *more,
                                *(("--draws", 50) if verb[0] == "evaluate" else ()), cwd=folder))  # fmt: skip
    assert [one.code for one in done] == [0, 0, 0], "\n".join(one.err for one in done)
    return folder, request.param, label, "".join(one.out + one.err for one in done)


def test_every_case_is_tested_once_by_folds(measured) -> None:
    folder, _, label, _ = measured
    told = json.loads((folder / "cv/folds.json").read_text())
    assert sum(fold["cases"] for fold in told["folds"]) == len(SPLITS)
    assert len(told["together"][label]["auroc"]) == 3


def test_they_are_measured_calibrated_and_told_apart_from_training(measured) -> None:
    folder, kind, label, printed = measured
    told = json.loads((folder / "evaluate/evaluation.json").read_text())
    assert (told["cases"], told["patients"], told["labels"][label]["positives"]) == (8, 8, 4)
    assert told["calibration"].startswith("temperature") and told["out_of_distribution"]["known"] == 8
    value, low, high = told["labels"][label]["measures"]["auroc"]
    assert 0 <= low <= value <= high <= 1
    assert told["froc"] == {} and ("there is no FROC of it" in printed) == (
        kind == "slides"
    )  # 48 um are isolated cells
    page = (folder / "evaluate/evaluation.html").read_text()
    assert "<svg" in page and "<script" not in page


def test_methods_are_scored_against_chance(measured) -> None:
    folder, kind, _, _ = measured
    told = json.loads((folder / "explain/faithfulness.json").read_text())
    assert told["cases"] == 4 and told["recommended"] is None  # fewer questions than a recommendation needs
    wanted = {"clips": {"grad-cam", "gradient x input", "occlusion"},
              "smears": {"attention of tiles", "gradient x input", "occlusion"}}  # fmt: skip
    assert set(told["methods"]) == {"random", *wanted.get(kind, wanted["smears"] | {"scores of tiles"})}
    assert ("pointing" in told["methods"]["random"]) == (kind == "slides")
    assert all(0 <= row["deletion mean"][0] <= 1 for row in told["methods"].values())


def test_nobody_is_named(measured) -> None:
    folder, _, _, printed = measured
    assert tiny.SECRET not in printed
    texts = [path for name in ("evaluate", "explain") for path in (folder / name).iterdir() if path.suffix != ".lock"]
    assert all(tiny.SECRET not in path.read_text() for path in texts if path.is_file())
