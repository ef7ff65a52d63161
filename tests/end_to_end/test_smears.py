"""Smears from a table to answers: cells found, learned from and shown; bad input is a sentence."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_slides
import tiny_smears
from PIL import Image

SPLITS = ["train"] * 10 + ["val"] * 6 + ["test"] * 6


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny smears, trained on by ``medvit train mil.yaml``."""
    folder = tmp_path_factory.mktemp("smears")
    rows = []
    for index, split in enumerate(SPLITS):
        tiny_smears.write_smear(folder / f"smears/{index:02d}.tif", index, bool(index % 2))
        rows.append((f"smears/{index:02d}.tif", f"{tiny.SECRET}{index}", split, index % 2))
    tiny.write_table(folder / "smears.csv", rows, ["malignant"])
    tiny.write_workflow(folder / "pre.yaml", tiny_smears.PRETRAIN)
    tiny.write_workflow(folder / "mil.yaml", tiny_smears.MIL)
    done = tiny.medvit("train", "mil.yaml", cwd=folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="module")
def out(work: Path) -> Path:
    """Its answers to its smears."""
    done = tiny.medvit("predict", "runs/mil/best.ckpt", "smears", "-o", "out", "--workers", 1, cwd=work)
    assert done.code == 0, done.err
    return work / "out"


def test_smears_that_were_never_seen_are_told_apart(out: Path) -> None:
    told = tiny.rows_of(out / "results.csv")
    answers = [float(told[f"{index:02d}.tif"]["probability"]) for index in range(16, 22)]
    assert min(answers[1::2]) > max(answers[::2])


def test_the_most_attended_cells_are_the_malignant_ones(out: Path) -> None:
    with gzip.open(tiny.case_of(out, "17.tif") / "tiles.geojson.gz") as file:
        tiles = json.load(file)["features"]
    assert len(tiles) == tiny_smears.CELLS
    tiles.sort(key=lambda tile: -tile["properties"]["measurements"]["medvit: malignant attention"])
    centres = np.array([np.mean(tile["geometry"]["coordinates"][0][:4], axis=0) for tile in tiles])
    _, large = tiny_smears.draw(17, True)
    gaps = np.linalg.norm(centres[:3, None] - large, axis=-1)
    assert (gaps.min(axis=1) < 8).sum() >= 2


def test_every_answer_comes_with_a_gallery_of_its_cells(out: Path) -> None:
    for name in ("16.tif", "17.tif"):
        with Image.open(tiny.case_of(out, name) / "gallery_malignant.png") as gallery:
            assert gallery.width >= 6 * 128 and "tiles by attention" in gallery.info["Description"]
            assert "not for diagnosis" in gallery.info["Description"]
    left = {path.name for path in tiny.case_of(out, "17.tif").iterdir()}
    assert left >= {"gallery_malignant.png", "heat_malignant.png", "tiles.geojson.gz", "tiles.png"}


def test_the_record_counts_the_cells(out: Path) -> None:
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert all(record["origin"]["cells"] == str(tiny_smears.CELLS) for record in records)


def test_bad_smears_are_sentences_and_cost_themselves_alone(work: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    tiny_smears.write_smear(bad / "good.tif", 17, True)
    for name, colour in (("empty", 245), ("black", 0), ("grey", 128)):
        tiny_slides.write_pyramid(bad / f"{name}.tif", np.full((256, 256, 3), colour, np.uint8), 1.0)
    tiny_slides.write_pyramid(bad / "small.tif", tiny_smears.draw(17, True)[0][:30, :30], 1.0)
    tiny_smears.write_smear(bad / "picture.png", 17, True)
    done = tiny.medvit("predict", work / "runs/mil/best.ckpt", bad, "-o", tmp_path / "out", "--workers", 1, cwd=work)
    told = tiny.rows_of(tmp_path / "out/inputs.csv")
    reasons = {name: (row["status"], row["reason"]) for name, row in told.items()}
    assert reasons.pop("small.tif") in (("rejected", "too_small"), ("rejected", "no_cells"))
    assert reasons == {
        "good.tif": ("ok", ""),
        "empty.tif": ("rejected", "no_cells"),
        "black.tif": ("rejected", "no_cells"),
        "grey.tif": ("rejected", "no_cells"),
        "picture.png": ("skipped", "picture"),
    }
    assert done.code == 3
    assert all(row["message"].endswith(".") for row in told.values() if row["status"] != "ok")


def test_a_stack_is_answered_at_its_sharpest_planes_and_a_missing_plane_is_refused(work: Path, tmp_path: Path) -> None:
    sharp, _ = tiny_smears.draw(17, True)
    pages = [Image.fromarray(sharp).resize((96, 96)).resize((192, 192)), Image.fromarray(sharp)]
    (tmp_path / "in").mkdir()
    pages[0].save(tmp_path / "in/stack.tif", save_all=True, append_images=pages[1:])
    answer = ["predict", work / "runs/mil/best.ckpt", tmp_path / "in", "-o", tmp_path / "o", "--workers", 0]
    done = tiny.medvit(*answer, "--mpp", "1.0", "--write", "csv", cwd=work)
    assert done.code == 0, done.err
    (record,) = [json.loads(line) for line in (tmp_path / "o/records.jsonl").read_text().splitlines()]
    assert record["origin"]["focal planes"] == "2, read: the sharpest of each tile"


def test_a_negative_plane_is_a_sentence(work: Path) -> None:
    done = tiny.medvit("train", "mil.yaml", "system.z=-1", "-o", "runs/z", cwd=work)
    assert done.code == 2 and "focal planes are counted from 0" in done.err


def test_nothing_that_is_written_names_a_patient(out: Path) -> None:
    texts = [path for path in out.rglob("*") if path.suffix in (".csv", ".json", ".jsonl", ".html")]
    assert texts and not any(tiny.SECRET in path.read_text() for path in texts)
