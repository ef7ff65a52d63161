"""Slides from a table to answers: one command trains what it requires, every input is accounted for, whatever it is."""

import csv
import gzip
import json
import os
import shutil
import signal
import time
import uuid
import zipfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
import tiny
import tiny_mirax
import tiny_slides
from PIL import Image

SPLITS = ["train"] * 10 + ["val"] * 6 + ["test"] * 6


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny slides, trained on by ``medvit train mil.yaml``."""
    folder = tmp_path_factory.mktemp("slides")
    rows, corners = [], {}
    for index, split in enumerate(SPLITS):
        tumour = index % 2
        path = f"slides/{index:02d}.tif"
        corners[f"{index:02d}"] = tiny_slides.write_slide(folder / path, index, bool(tumour))
        rows.append((path, f"{tiny.SECRET}{index}", split, tumour))
    tiny_slides.write_table(folder / "slides.csv", rows)
    (folder / "corners.json").write_text(json.dumps(corners))
    tiny.write_workflow(folder / "pre.yaml", tiny_slides.PRETRAIN)
    tiny.write_workflow(folder / "mil.yaml", tiny_slides.MIL)
    done = tiny.medvit("train", "mil.yaml", cwd=folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="module")
def out(lab: Path) -> Path:
    """Its answers to its slides."""
    done = tiny.medvit("predict", "runs/mil/best.ckpt", "slides", "-o", "out", "--workers", 2, cwd=lab)
    assert done.code == 0, done.err
    return lab / "out"


def tiles_of(folder: Path) -> list[dict]:
    with gzip.open(folder / "tiles.geojson.gz") as file:
        return json.load(file)["features"]


def test_slides_that_were_never_seen_are_told_apart(out: Path) -> None:
    told = tiny.rows_of(out / "results.csv")
    ill = [float(told[f"{i:02d}.tif"]["probability"]) for i in range(16, 22) if i % 2]
    well = [float(told[f"{i:02d}.tif"]["probability"]) for i in range(16, 22) if not i % 2]
    assert min(ill) > max(well)
    assert all(told[f"{i:02d}.tif"]["positive"] == str(i % 2) for i in range(16, 22))


def test_attention_lies_on_the_tumour(lab: Path, out: Path) -> None:
    x, y = json.loads((lab / "corners.json").read_text())["17"]
    best = max(
        tiles_of(tiny.case_of(out, "17.tif")), key=lambda t: t["properties"]["measurements"]["medvit: tumour attention"]
    )
    left, top = best["geometry"]["coordinates"][0][0]
    assert x - 32 < left < x + 48 and y - 32 < top < y + 48


def test_tiles_are_as_qupath_wants_them(out: Path) -> None:
    tiles = tiles_of(tiny.case_of(out, "17.tif"))
    assert len({tile["id"] for tile in tiles}) == len(tiles) > 30
    for tile in tiles:
        uuid.UUID(tile["id"])
        ring = tile["geometry"]["coordinates"][0]
        assert ring[0] == ring[-1] and len(ring) == 5
        assert tile["properties"]["objectType"] == "tile"
        assert set(tile["properties"]["measurements"]) == {
            "medvit: tumour attention", "medvit: tumour attention percentile", "medvit: tumour score",
        }  # fmt: skip
    assert any(tile["properties"].get("classification", {}).get("name") == "tumour" for tile in tiles)


def test_pictures_have_the_shape_of_the_slide_and_only_positive_slides_have_a_heat_map(out: Path) -> None:
    ill, well = tiny.case_of(out, "17.tif"), tiny.case_of(out, "16.tif")
    assert {path.name for path in ill.iterdir()} == {
        "heat_tumour.npz",
        "heat_tumour.png",
        "tiles.geojson.gz",
        "tiles.png",
    }
    assert {path.name for path in well.iterdir()} >= {"tiles.geojson.gz", "tiles.png"}
    assert not list(well.glob("heat_*"))
    with Image.open(ill / "heat_tumour.png") as heat, Image.open(ill / "tiles.png") as grid:
        assert heat.size == grid.size == (tiny_slides.SIDE, tiny_slides.SIDE)


def test_the_record_says_resolution_and_tiles(out: Path) -> None:
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    origin = next(record["origin"] for record in records if record["source"].endswith("17.tif"))
    assert origin["mpp"] == "1" and origin["mpp_source"] == "file"
    assert origin["tiles"].endswith("of 32 px at 1 um")


def test_every_bad_input_is_a_sentence_and_costs_itself_alone(lab: Path, out: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    tiny_slides.write_slide(bad / "good.tif", 17, True)
    tiny_slides.write_slide(bad / "no_mpp.tif", 17, True, None)
    whole = (bad / "good.tif").read_bytes()
    (bad / "cut.tif").write_bytes(whole[: len(whole) // 3])
    (bad / "empty.svs").write_bytes(b"")
    (bad / "text.svs").write_text("nothing")
    blank = np.full((256, 256, 3), 245, np.uint8)
    tiny_slides.write_pyramid(bad / "glass.tif", blank, 1.0)
    pages = [Image.fromarray(np.full((n, n), 9, np.uint8)) for n in (40, 60)]
    pages[0].save(bad / "stack.tif", save_all=True, append_images=pages[1:])
    tiny_slides.write_pyramid(bad / "coarse.tif", tiny_slides.draw(17, True)[0], 4.0)
    tiny_slides.write_pyramid(bad / "small.tif", tiny_slides.draw(17, True)[0][:24, :24], 1.0)
    Image.fromarray(tiny_slides.draw(17, True)[0]).save(bad / "picture.png")
    for name in ("mirax", "cut", "alone"):
        tiny_mirax.write_mirax(bad / f"{name}.mrxs", tiny_slides.draw(17, True)[0], 1.0)
    images = bad / "cut/Data0000.dat"
    images.write_bytes(images.read_bytes()[:-100])
    shutil.rmtree(bad / "alone")
    done = tiny.medvit("predict", lab / "runs/mil/best.ckpt", bad, "-o", tmp_path / "out", "--workers", 2, cwd=lab)
    told = tiny.rows_of(tmp_path / "out/inputs.csv")
    assert {name: (row["status"], row["reason"]) for name, row in told.items()} == {
        "good.tif": ("ok", ""),
        "no_mpp.tif": ("rejected", "no_mpp"),
        "cut.tif": ("rejected", "truncated"),
        "empty.svs": ("rejected", "empty"),
        "text.svs": ("rejected", "unsupported"),
        "glass.tif": ("rejected", "no_tissue"),
        "stack.tif": ("rejected", "no_slide"),
        "coarse.tif": ("rejected", "too_coarse"),
        "small.tif": ("rejected", "too_small"),
        "picture.png": ("skipped", "picture"),
        "mirax.mrxs": ("ok", ""),
        "cut.mrxs": ("rejected", "truncated"),
        "alone.mrxs": ("rejected", "incomplete_mrxs"),
        **dict.fromkeys((path.name for path in (bad / "mirax").iterdir()), ("skipped", "slide_part")),
    }
    assert done.code == 3
    assert all(row["message"].endswith(".") for row in told.values() if row["status"] != "ok")
    alike = tiny.rows_of(out / "results.csv")["17.tif"]["probability"]
    answered = tiny.rows_of(tmp_path / "out/results.csv")
    assert float(answered["good.tif"]["probability"]) == pytest.approx(float(alike), abs=1e-3)
    assert float(answered["mirax.mrxs"]["probability"]) == pytest.approx(float(alike), abs=0.05)


def test_slides_in_a_zip_are_answered_as_those_outside(lab: Path, out: Path, tmp_path: Path) -> None:
    tiny_slides.write_slide(tmp_path / "17.tif", 17, True)
    tiny_mirax.write_mirax(tmp_path / "mirax.mrxs", tiny_slides.draw(17, True)[0], 1.0)
    with zipfile.ZipFile(tmp_path / "slides.zip", "w") as archive:
        for file in ("17.tif", "mirax.mrxs", *(f"mirax/{path.name}" for path in (tmp_path / "mirax").iterdir())):
            archive.write(tmp_path / file, file)
    command = ["predict", lab / "runs/mil/best.ckpt", tmp_path / "slides.zip", "-o", tmp_path / "out"]
    assert tiny.medvit(*command, cwd=lab).code == 3
    told = tiny.rows_of(tmp_path / "out/inputs.csv")
    assert {name: row["reason"] for name, row in told.items()} == {
        "17.tif": "",
        "mirax.mrxs": "incomplete_mrxs",
        **dict.fromkeys((path.name for path in (tmp_path / "mirax").iterdir()), "slide_part"),
    }
    assert "not in a zip" in told["mirax.mrxs"]["message"]
    alike = tiny.rows_of(out / "results.csv")["17.tif"]["probability"]
    assert tiny.rows_of(tmp_path / "out/results.csv")["17.tif"]["probability"] == alike


def test_a_resolution_that_is_given_makes_slides_and_pictures_answerable(lab: Path, tmp_path: Path) -> None:
    tiny_slides.write_slide(tmp_path / "in/no_mpp.tif", 17, True, None)
    Image.fromarray(tiny_slides.draw(17, True)[0]).save(tmp_path / "in/picture.png")
    command = ["predict", lab / "runs/mil/best.ckpt", tmp_path / "in", "-o", tmp_path / "out", "--workers", 0]
    assert tiny.medvit(*command, "--mpp", "1.0", cwd=lab).code == 0
    records = [json.loads(line) for line in (tmp_path / "out/records.jsonl").read_text().splitlines()]
    assert [record["origin"]["mpp_source"] for record in records] == ["default", "default"]
    done = tiny.medvit(*command, "--resume", "--mpp", "0.5", cwd=lab)
    assert done.code == 2 and "another mpp" in done.err


def test_a_system_of_films_has_no_use_for_a_resolution(trained, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = tiny.medvit(
        "predict", trained.checkpoint, trained.folder, "-o", tmp_path / "o", "--mpp", 1, cwd=trained.folder
    )
    assert done.code == 2 and "--mpp says nothing to ThoraxMAE" in done.err


def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(lab: Path, out: Path) -> None:
    command = ["predict", "runs/mil/best.ckpt", "slides", "-o", "killed", "--workers", 2]
    running = tiny.Command(*command, cwd=lab)
    journal = lab / "killed/records.jsonl"
    until = time.monotonic() + 60
    while time.monotonic() < until and not (journal.exists() and journal.read_bytes().count(b"\n") >= 3):
        time.sleep(0.01)
    os.kill(running.process.pid or 0, signal.SIGKILL)
    running.process.join()
    assert tiny.medvit(*command, "--resume", cwd=lab).code == 0
    for name in ("results.csv",):
        assert (lab / "killed" / name).read_bytes() == (out / name).read_bytes()
    for file in sorted((out / "cases").rglob("*.*")):
        assert (lab / "killed/cases" / file.relative_to(out / "cases")).read_bytes() == file.read_bytes()


def test_embed_leaves_files_that_trident_reads_and_that_are_learned_from(lab: Path) -> None:
    embed = ("embed", "runs/mil/best.ckpt", "slides", "-o", "features", "--workers", 2, "--clam")
    done = tiny.medvit(*embed, cwd=lab)
    assert done.code == 0, done.err
    (folder,) = (lab / "features").glob("*x_32px_0px_overlap")
    (encoder,) = folder.glob("features_*")
    assert len(list(encoder.glob("*.h5"))) == len(list((folder / "patches").glob("*_patches.h5"))) == len(SPLITS)
    with h5py.File(encoder / "17.h5") as file:
        assert file["features"].shape[1] == 3 * 24 and len(file["features"]) == len(file["coords"])
        power = float(file["coords"].attrs["target_magnification"])
        assert power == pytest.approx(10) and int(file["coords"].attrs["patch_size"]) == 32
        described = file["features"][:]
    with h5py.File(lab / "features/clam/h5_files/17.h5") as file:
        assert np.array_equal(file["features"][:], described) and file["coords"].attrs["patch_size"] == 32
    again = tiny.medvit(*embed, "--resume", "--json", cwd=lab)
    assert json.loads(again.out)["ok"] == len(SPLITS)
    learned = tiny.medvit(
        "train", "mil.yaml", f"data.features={encoder}", "trainer.max_epochs=1", "-o", "runs/imported", cwd=lab
    )
    assert learned.code == 0, learned.err
    assert not (lab / "runs/imported/features").exists()


def test_features_of_another_encoder_are_refused_by_name(lab: Path) -> None:
    overlap = "system.tile_overlap=8"
    made = tiny.medvit("train", "pre.yaml", "seed=9", overlap, "-o", "runs/other_pre", cwd=lab)
    assert made.code == 0, made.err
    assert tiny.medvit("embed", "runs/other_pre/best.ckpt", "slides", "-o", "other", "--workers", 0, cwd=lab).code == 0
    (encoder,) = (lab / "other").glob("*x_32px_8px_overlap/features_*")
    with h5py.File(encoder / "17.h5") as file:
        assert file["coords"].attrs["overlap"] == 8 and not (file["coords"][:] % 24).any()
    done = tiny.medvit("train", "mil.yaml", f"data.features={encoder}", "-o", "runs/refused", cwd=lab)
    assert done.code == 2
    assert "another weights of the encoder" in done.err and "has features; the warnings above say why" in done.err


def test_nothing_that_is_written_or_said_names_a_patient(lab: Path, out: Path) -> None:
    texts = [path for path in out.rglob("*") if path.suffix in (".csv", ".json", ".jsonl", ".html")]
    assert texts and not any(tiny.SECRET in path.read_text() for path in texts)
    assert Counter(row["status"] for row in tiny.read_rows(out / "inputs.csv")) == {"ok": len(SPLITS)}
    with (out / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(SPLITS)
