"""Feature files: read back by h5py, read as TRIDENT and CLAM read them, and refused when no bag can be made of them."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from medvit.data.feature_imports import import_features
from medvit.data.features import (
    Features,
    Grid,
    check,
    export_clam,
    folder_name,
    read_features,
    write_coords,
    write_features,
)
from medvit.errors import MedvitError, Rejected

GRID = Grid("slide 1", 40_000, 30_000, 0.265, 256, 0.5, 256 * 0.5 / 0.265, overlap=32)


def some(count: int = 50, width: int = 12, **changes: Any) -> Features:
    rng = np.random.default_rng(0)
    found = Features(
        features=rng.standard_normal((count, width)).astype(np.float32),
        coords=rng.integers(0, 30_000, (count, 2)),
        valid=np.ones(count, bool),
        grid=GRID,
        encoder="dino vit_small",
        digest="ab" * 32,
        facts={"mpp_source": "file", "pooling": "4 cls + mean"},
    )
    return replace(found, **changes)


def refusal(make: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(Rejected) as caught:
        make(*arguments, **options)
    assert str(caught.value).endswith(".")
    return caught.value.reason


def write_h5(path: Path, datasets: dict[str, np.ndarray], attributes: dict[str, dict[str, Any]]) -> Path:
    """An HDF5 file as another tool would leave it; attributes of "/" are the file's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file.create_dataset(name, data=values)
        for name, values in attributes.items():
            file[name].attrs.update(values)
    return path


# medvit's own


def test_features_come_back_as_they_were_written(tmp_path: Path) -> None:
    valid = np.ones(300, bool)
    valid[[3, 7]] = False
    found = some(300, valid=valid)
    back = read_features(write_features(tmp_path / "a.h5", found))
    assert np.array_equal(back.features[valid], found.features[valid]) and not back.features[~valid].any()
    assert np.array_equal(back.coords, found.coords) and np.array_equal(back.valid, valid)
    assert (back.grid, back.encoder, back.digest, back.facts) == (GRID, found.encoder, found.digest, found.facts)
    assert len(back.only_valid()) == 298


def test_half_precision_stays_half(tmp_path: Path) -> None:
    half = some(features=some().features.astype(np.float16))
    assert read_features(write_features(tmp_path / "a.h5", half)).features.dtype == np.float16


def test_equal_features_give_equal_bytes_and_no_part_is_left(tmp_path: Path) -> None:
    first, second = (write_features(tmp_path / name, some()).read_bytes() for name in ("a.h5", "b.h5"))
    assert first == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_the_layout_is_the_one_that_trident_writes(tmp_path: Path) -> None:
    with h5py.File(write_features(tmp_path / "a.h5", some()), "r") as file:
        assert (file["features"].dtype, file["coords"].dtype, file["valid"].dtype) == (np.float32, np.int64, bool)
        assert file["features"].attrs["encoder"] == "dino vit_small"
        for name in ("features", "coords"):
            found = dict(file[name].attrs)
            assert found["patch_size"] == 256 and found["patch_size_level0"] == 483 and found["overlap"] == 32
            assert (found["level0_width"], found["level0_height"]) == (40_000, 30_000)
            assert (found["name"], found["savetodir"]) == ("slide 1", "None")
            # What TRIDENT computes of these: the pixels of level 0 that a tile spans.
            span = found["patch_size"] * found["level0_magnification"] / found["target_magnification"]
            assert span == pytest.approx(256 * 0.5 / 0.265) and round(span) == 483
        assert file["features"].chunks == (50, 12)


def test_coordinates_alone_are_written_as_patches(tmp_path: Path) -> None:
    with h5py.File(write_coords(tmp_path / "p.h5", some().coords, GRID), "r") as file:
        assert list(file) == ["coords"] and file["coords"].attrs["target_magnification"] == 20.0


def test_the_folder_is_named_as_trident_names_it() -> None:
    assert folder_name(GRID) == "20x_256px_32px_overlap"
    assert folder_name(replace(GRID, tile_mpp=0.486)) == "20.58x_256px_32px_overlap"


def test_without_resolution_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match="mpp"):
        write_features(tmp_path / "a.h5", some(grid=replace(GRID, mpp=None)))
    assert not list(tmp_path.iterdir())


# Refusals


def test_what_no_bag_can_be_made_of_is_refused_with_its_reason() -> None:
    nan = some().features.copy()
    nan[4, 2] = np.nan
    few = np.ones(50, bool)
    few[:2] = False
    assert refusal(check, some(features=nan)) == "not_finite"
    assert refusal(check, some(0)) == "no_tiles"
    assert refusal(check, some(valid=np.zeros(50, bool))) == "no_tiles"
    assert refusal(check, some(valid=few)) == "tiles"
    assert refusal(check, some(coords=some().coords[:-1])) == "features"
    assert refusal(check, some(valid=np.ones(49, bool))) == "features"
    assert refusal(check, some(features=np.zeros(50, np.float32))) == "features"


def test_a_tile_that_is_not_valid_may_hold_anything() -> None:
    nan = some().features.copy()
    nan[4] = np.nan
    valid = np.ones(50, bool)
    valid[4] = False
    assert check(some(features=nan, valid=valid))


def test_features_of_another_encoder_are_refused(tmp_path: Path) -> None:
    path = write_features(tmp_path / "a.h5", some())
    assert read_features(path, "dino vit_small", "ab" * 32, 12)
    assert refusal(read_features, path, "uni") == "encoder"
    assert refusal(read_features, path, digest="cd" * 32) == "encoder"
    assert refusal(read_features, path, width=384) == "encoder"
    assert refusal(read_features, write_features(tmp_path / "b.h5", some(digest="")), digest="ab" * 32) == "encoder"


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    whole = write_features(tmp_path / "a.h5", some(2_000, 64)).read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.h5").write_text("features")
    assert refusal(import_features, tmp_path / "gone.h5") == "missing"
    assert refusal(import_features, tmp_path / "cut.h5") == "unreadable"
    assert refusal(import_features, tmp_path / "text.h5") == "unreadable"
    assert refusal(import_features, write_h5(tmp_path / "x.h5", {"x": np.zeros(3)}, {})) == "features"


def test_data_that_lie_in_another_file_are_not_followed(tmp_path: Path) -> None:
    path = write_features(tmp_path / "a.h5", some())
    (tmp_path / "secret.bin").write_bytes(bytes(4 * 600))
    with h5py.File(path, "a") as file:
        attributes = dict(file["features"].attrs)
        del file["features"]
        file.create_dataset("features", (50, 12), np.float32, external=[(str(tmp_path / "secret.bin"), 0, 4 * 600)])
        file["features"].attrs.update(attributes)
    assert refusal(read_features, path) == "features"
    with h5py.File(path, "a") as file:
        del file["features"]
        file["features"] = h5py.ExternalLink("other.h5", "features")
    assert refusal(read_features, path) == "features"


def test_a_dataset_larger_than_any_slide_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write_features(tmp_path / "a.h5", some())
    with h5py.File(path, "a") as file:
        del file["features"]
        file.create_dataset("features", (10**8, 4_000), np.float32, chunks=(1, 4_000))
    assert refusal(read_features, path) == "features"


# Of other tools, as section 2 of the specification describes them

COORDS = np.array([[0, 512], [512, 512], [1024, 0]])
FEATURES = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)


def test_trident_files_are_read(tmp_path: Path) -> None:
    attributes = {
        "patch_size": 256, "patch_size_level0": 512, "level0_magnification": 40, "target_magnification": 20, "overlap": 0,
        "name": "TCGA-1", "savetodir": "/somewhere", "level0_width": 9_000, "level0_height": 8_000,
    }  # fmt: skip
    path = write_h5(
        tmp_path / "features_uni_v1/TCGA-1.h5",
        {"features": FEATURES, "coords": COORDS},
        {"coords": attributes, "features": {"name": "TCGA-1", "savetodir": "None", "encoder": "uni_v1"}},
    )
    found = import_features(path, encoder="uni_v1")
    assert found.source == "TRIDENT" and found.encoder == "uni_v1" and found.valid.all()
    assert np.array_equal(found.coords, COORDS) and np.array_equal(found.features, FEATURES)
    assert found.grid == Grid("TCGA-1", 9_000, 8_000, 0.25, 256, 0.5, 512, 0)
    assert refusal(read_features, path) == "features"  # not medvit's own


def test_an_empty_trident_slide_is_a_sentence(tmp_path: Path) -> None:
    attributes = {"patch_size": 256, "level0_magnification": 40, "target_magnification": 20, "name": "None"}
    empty = {"features": np.zeros((0, 8), np.float32), "coords": np.zeros((0, 2), np.int64)}
    assert refusal(import_features, write_h5(tmp_path / "e.h5", empty, {"coords": attributes})) == "no_tiles"


@pytest.mark.parametrize(
    "level, more, span",
    [(0, {}, 256), (1, {"downsample": [4.0001, 4.0001]}, 1024.0256), (1, {"custom_downsample": 2}, 512)],
)
def test_clam_files_are_read(tmp_path: Path, level: int, more: dict[str, Any], span: float) -> None:
    attributes = {"patch_size": 256, "patch_level": level, "name": "s", "save_path": "x", **more}
    datasets = {"features": FEATURES, "coords": COORDS.astype(np.int32)}
    found = import_features(write_h5(tmp_path / "h5_files/s.h5", datasets, {"coords": attributes}), mpp=0.25)
    assert found.source == "CLAM" and np.array_equal(found.coords, COORDS) and found.coords.dtype == np.int64
    assert (found.grid.size, found.grid.size_level0) == (256, pytest.approx(span))
    assert found.grid.tile_mpp == pytest.approx(0.25 * span / 256)


def test_clams_bare_tensors_take_their_places_from_beside_them(tmp_path: Path) -> None:
    attributes = {"patch_size": 256, "patch_level": 0}
    (tmp_path / "pt_files").mkdir()
    torch.save(torch.from_numpy(FEATURES), tmp_path / "pt_files/s.pt")
    assert refusal(import_features, tmp_path / "pt_files/s.pt") == "features"
    write_h5(tmp_path / "h5_files/s.h5", {"coords": COORDS}, {"coords": attributes})
    found = import_features(tmp_path / "pt_files/s.pt")
    assert np.array_equal(found.features, FEATURES) and np.array_equal(found.coords, COORDS)


def test_a_tensor_file_that_could_run_code_is_not_opened(tmp_path: Path) -> None:
    write_h5(tmp_path / "h5_files/s.h5", {"coords": COORDS}, {"coords": {"patch_size": 256, "patch_level": 0}})
    (tmp_path / "pt_files").mkdir()
    torch.save({"run": Path}, tmp_path / "pt_files/s.pt")
    assert refusal(import_features, tmp_path / "pt_files/s.pt") == "unreadable"


def test_a_level_whose_reduction_nobody_knows_is_refused(tmp_path: Path) -> None:
    datasets = {"features": FEATURES, "coords": COORDS}
    path = write_h5(tmp_path / "s.h5", datasets, {"coords": {"patch_size": 256, "patch_level": 2}})
    assert refusal(import_features, path) == "features"


def test_stamp_files_are_read_in_micrometres(tmp_path: Path) -> None:
    attributes = {
        "stamp_version": "2.3.0", "unit": "um", "extractor": "uni2", "tile_size_um": 256.0, "tile_size_px": 224,
        "code_hash": "0", "feat_type": "tile",
    }  # fmt: skip
    datasets = {"feats": FEATURES.astype(np.float16), "coords": COORDS * 0.265}
    path = write_h5(tmp_path / "s.h5", datasets, {"/": attributes})
    assert refusal(import_features, path) == "no_mpp"
    found = import_features(path, mpp=0.265)
    assert np.array_equal(found.coords, COORDS) and found.encoder == "uni2" and found.source == "STAMP"
    assert found.features.dtype == np.float16
    assert found.grid.size == 224 and found.grid.tile_mpp == pytest.approx(256 / 224)
    assert found.grid.size_level0 == pytest.approx(256 / 0.265)


def test_wsinfer_probabilities_are_read_with_their_places(tmp_path: Path) -> None:
    write_h5(
        tmp_path / "patches/s.h5",
        {"coords": COORDS},
        {"coords": {"patch_size": 483, "patch_level": 0, "patch_spacing_um_px": 0.5}},
    )
    table = tmp_path / "model-outputs-csv/s.csv"
    table.parent.mkdir()
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["minx", "miny", "width", "height", "prob_Tumor", "prob_Other"])
        writer.writerows([x, y, 483, 483, 0.25, 0.75] for x, y in COORDS)
    found = import_features(table, mpp=0.265)
    assert np.array_equal(found.coords, COORDS) and found.features[:, 0].tolist() == [0.25] * 3
    assert (found.source, found.facts) == ("WSInfer", {"classes": "Tumor,Other"})
    assert (found.grid.size, found.grid.tile_mpp, found.grid.size_level0) == (256, 0.5, 483)
    with_features = write_h5(
        tmp_path / "patches/t.h5",
        {"coords": COORDS, "features": FEATURES},
        {"coords": {"patch_size": 483, "patch_level": 0, "patch_spacing_um_px": 0.5}},
    )
    assert import_features(with_features).source == "WSInfer"
    table.write_text("a,b\n1,2\n")
    assert refusal(import_features, table) == "features"


def test_what_is_exported_for_clam_is_what_its_loader_reads(tmp_path: Path) -> None:
    valid = np.ones(300, bool)
    valid[5] = False
    path = export_clam(some(300, valid=valid), tmp_path)
    assert path == tmp_path / "h5_files/slide 1.h5"
    with h5py.File(path, "r") as file:
        assert (file["features"].shape, file["features"].dtype, file["coords"].dtype) == (
            (299, 12),
            np.float32,
            np.int32,
        )
        assert (file["coords"].attrs["patch_level"], file["coords"].attrs["patch_size"]) == (
            0,
            483,
        )  # 128 um at level 0
        assert "target_magnification" not in file["coords"].attrs
    back = import_features(path, mpp=0.265)
    assert back.source == "CLAM" and np.array_equal(back.coords, some(300).coords[valid])


def test_a_round_trip_through_every_layout_keeps_places(tmp_path: Path) -> None:
    found = some()
    ours = import_features(write_features(tmp_path / "a.h5", found))
    clam = import_features(export_clam(found, tmp_path), mpp=GRID.mpp)
    assert np.array_equal(ours.coords, clam.coords) and ours.source == "medvit"
    assert clam.grid.size_level0 == round(ours.grid.size_level0)
