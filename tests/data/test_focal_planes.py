"""Bags of every focal plane: each plane of a cell is a tile that says which one it is, from the file to what is written."""

import gzip
import json
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from medvit.case import MICROSCOPY, Case
from medvit.data.bags import _Bags
from medvit.data.batch import Batch
from medvit.data.crops import Crops
from medvit.data.features import Features, read_features
from medvit.data.slides import Resolution
from medvit.data.tiles import _Tiles
from medvit.embed import write
from medvit.errors import Rejected, Unanswered
from medvit.explain.bags import spread
from medvit.guard import Pool
from medvit.image import Tiling
from medvit.readers.slide import Slide
from medvit.result import Run
from medvit.systems.cytofm import CytoFM
from medvit.writers.gallery import write_gallery
from medvit.writers.geojson import write_tiles

STACK = Path(__file__).resolve().parents[2] / "sample_data/smears/stack/field.tif"
PLANES, MPP = 5, 0.5
NET: dict[str, Any] = {"tile": 16, "tile_mpp": 1.0, "image_size": 16, "patch": 8, "width": 24, "depth": 1, "heads": 3}
CASE = Case(str(STACK), MICROSCOPY, (STACK,), {"malignant": 1.0})
RUN = Run("CytoFM", "0", "f" * 64, datetime(2026, 1, 1, tzinfo=UTC))


def system(z: Any = "all", **changes: Any) -> CytoFM:
    torch.manual_seed(0)
    made = CytoFM(["malignant"], **{**NET, "z": z, **changes}).eval()
    made.resolution = Resolution(MPP)
    return made


def described(of: CytoFM) -> Features:
    ((_, found, _),) = of.embed([CASE], 0, nullcontext())
    assert isinstance(found, Features), found
    return found


def test_every_plane_of_a_cell_is_a_tile_and_says_which_plane_it_is() -> None:
    of, one = system(), system(3)
    every, third, best = described(of), described(one), described(system("best"))
    assert every.planes is not None and every.planes.tolist() == list(range(PLANES)) * (len(every) // PLANES)
    assert np.array_equal(every.coords[::PLANES], best.coords) and np.array_equal(every.coords[4::PLANES], best.coords)
    assert best.planes is None
    assert third.planes is not None and set(third.planes.tolist()) == {3}
    np.testing.assert_allclose(every.features[3::PLANES], third.features, atol=1e-5)
    x, y = every.coords[-1]
    pixels = Slide(STACK, MPP).read((int(x), int(y)), 16, 1.0, z=PLANES - 1)
    np.testing.assert_allclose(of.describe(torch.from_numpy(pixels.copy())[None])[0], every.features[-1], atol=1e-5)


def test_a_thinned_bag_keeps_all_planes_of_the_cells_that_it_keeps() -> None:
    few = described(system(most_tiles=14))
    assert len(few) == 10 and len(np.unique(few.coords, axis=0)) == 2


def test_a_plane_that_is_not_there_is_refused_with_the_slide() -> None:
    ((_, answer, _),) = system(7).embed([CASE], 0, nullcontext())
    assert isinstance(answer, Unanswered) and "5 focal planes, counted from 0; there is no plane 7" in str(answer)


def test_planes_stand_beside_the_features_in_the_file_and_come_back_into_bags(tmp_path: Path) -> None:
    of = system()
    found = described(of)
    path = write(tmp_path, "field", found, of)
    with h5py.File(path) as file, h5py.File(next(tmp_path.rglob("field_patches.h5"))) as patches:
        assert file["coords"].shape == (len(found), 2)
        assert np.array_equal(file["z"], found.planes) and np.array_equal(patches["z"], found.planes)
    back = read_features(path)
    sample = _Bags([(CASE, back)], of.labels, 1_000, drop=0.5)[0, 7]
    assert not isinstance(sample, Unanswered) and sample.tiling is not None and sample.tiling.planes is not None
    assert len(sample.tiling.planes) == len(sample.x) == round(len(found) / 2)
    with pytest.raises(Rejected, match="one a tile"):
        write(tmp_path, "odd", replace(found, planes=np.zeros(3, np.int64)), of)


def test_pre_training_draws_from_every_plane() -> None:
    of = system()
    crops = Crops(size=16, small_size=8, small=0)
    of.size = 16  # type: ignore[assignment]
    tiles = _Tiles(of, [CASE], crops, cache=True)  # type: ignore[arg-type]
    assert tiles.counts == [len(described(of))]
    for number in (0, 2):
        tiles[0, number, 1]
    assert not np.array_equal(tiles.held[0, 0], tiles.held[0, 2])


def test_answers_tell_the_plane_in_geojson_gallery_and_map(tmp_path: Path) -> None:
    of = system()
    pool = Pool(0, lambda: of.duties())
    sample, _ = of.collect(CASE, pool.submit("read", CASE).result(), pool)
    assert sample.origin["focal planes"] == "5, read: every one of each tile"
    with torch.no_grad():
        (result,) = of.predict_step(Batch([sample]))
    shown = replace(result, close_up=lambda index: of.close_up(result, index))
    with gzip.open(write_tiles(replace(shown, read=None), tmp_path, RUN)[0]) as file:
        tiles = json.load(file)["features"]
    assert len({tile["id"] for tile in tiles}) == len(tiles) == len(sample.x)
    assert [tile["properties"]["measurements"]["medvit: focal plane"] for tile in tiles[:5]] == [0, 1, 2, 3, 4]
    assert [tile["geometry"].get("plane", {}).get("z", 0) for tile in tiles[:5]] == [0, 1, 2, 3, 4]
    (path,) = write_gallery(shown, tmp_path, RUN)
    assert path.stat().st_size > 10_000
    assert np.array_equal(of.close_up(result, 1), Slide(STACK, MPP).read(tuple(sample.tiling.coords[1]), 16, 1.0, z=1))


def test_a_map_shows_the_highest_plane_of_a_place_and_overlapping_places_as_their_mean() -> None:
    coords = np.array([[0, 0], [0, 0], [64, 0]])
    tiling = Tiling(coords, 64.0, (128, 64), 0.5, planes=np.array([0, 1, 0]))
    plane = spread(tiling, np.array([1.0, 3.0, 2.0], np.float32))
    assert plane[:, 0].max() == 3 and plane[:, -1].max() == 2
