"""From a slide to a bag: tiles are read by workers, described here, and what goes wrong costs as little as it can."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_slides
import tiny_smears
import torch

from medvit.case import MICROSCOPY, Case
from medvit.data.bags import _kept as kept
from medvit.data.batch import Batch
from medvit.data.features import Features, write_features
from medvit.data.slides import CHUNK, Desk, Resolution, planned, thinned
from medvit.errors import MedvitError, Rejected, Unanswered
from medvit.explain.subjects import subject_of
from medvit.guard import Pool, Reply
from medvit.image import rescaled
from medvit.readers.slide import Slide
from medvit.systems.cytofm import CytoFM
from medvit.systems.self_vit_mil import SelfViTMIL, SelfViTMILPretraining
from medvit.workflow import build_system

SETTINGS: dict[str, Any] = {**tiny_slides.NET, "labels": ["tumour"]}


def system(**changes: Any) -> SelfViTMIL:
    torch.manual_seed(0)
    return SelfViTMIL(**{**SETTINGS, **changes}).eval()


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    tiny_slides.write_slide(path, 3, True)
    return Case(str(path), MICROSCOPY, (path,))


def collected(of: SelfViTMIL, case: Case, change: Callable[[Desk], None] = lambda desk: None) -> Any:
    desk = Desk(of.resolution, of.cutting)
    change(desk)
    pool = Pool(0, desk.duties)
    return of.collect(case, pool.submit("read", case).result(), pool)[0]


def test_a_bag_holds_what_the_network_says_of_each_tile(case: Case) -> None:
    of = system(tile=16, image_size=16, tile_mpp=1.0)
    sample = collected(of, case)
    assert len(sample.x) == len(sample.tiling.coords) > CHUNK  # more than one call of the worker
    x, y = sample.tiling.coords[-1]
    pixels = torch.from_numpy(Slide(case.files[0]).read((int(x), int(y)), 16, 1.0).copy())[None]
    assert torch.allclose(of.describe(pixels)[0], sample.x[-1], atol=1e-5)


def test_worker_processes_give_the_same_bag(case: Case) -> None:
    of = system(tile=16, image_size=16, tile_mpp=1.0)
    ((_, found, _),) = of.embed([case], 1, torch.no_grad())
    assert isinstance(found, Features)
    np.testing.assert_array_equal(found.features, collected(of, case).x.numpy())


def test_a_large_bag_is_thinned_evenly_and_says_so(case: Case) -> None:
    every, some = collected(system(), case), collected(system(most_tiles=10), case)
    kept = thinned(len(every.x), 10)
    assert len(some.x) == 10 and (some.tiling.coords == every.tiling.coords[kept]).all()
    assert some.origin["tiles"] == f"10 of 32 px at 1 um, evenly spaced among {len(every.x)}"


@pytest.mark.parametrize(("mpp", "step", "count"), [(1.0, 24, 10), (2.0, 48, 5)])
def test_neighbouring_tiles_share_the_pixels_that_the_system_says(
    case: Case, mpp: float, step: int, count: int
) -> None:
    of = system(tile_overlap=8, tile_mpp=mpp, min_tissue=0.0)
    ((_, found, _),) = of.embed([case], 0, torch.no_grad())
    assert isinstance(found, Features)
    columns, rows = np.meshgrid(step * np.arange(count), step * np.arange(count))
    assert found.coords.tolist() == np.stack([columns.ravel(), rows.ravel()], 1).tolist()
    assert found.facts["tiles"] == f"{count**2} of 32 px at {mpp:g} um, neighbours share 8 px"
    assert (found.grid.overlap, found.facts["tile_overlap"]) == (8, "8")
    torch.manual_seed(0)
    pretraining = SelfViTMILPretraining(**tiny_slides.NET | {"tile_mpp": mpp, "min_tissue": 0.0}, tile_overlap=8)
    assert np.array_equal(pretraining.tiles_of(case)[0].coords, found.coords)


@pytest.mark.parametrize("overlap", [-1, 32])
def test_an_overlap_that_leaves_no_step_is_refused(overlap: int) -> None:
    with pytest.raises(
        MedvitError, match=f"tile_overlap is {overlap}; of tiles of 32 px neighbours may share 0 to 31 px"
    ):
        system(tile_overlap=overlap)


def test_of_smears_the_tiles_of_a_grid_overlap_and_crops_of_cells_are_not_asked_to(tmp_path: Path) -> None:
    smear = tmp_path / "smear.tif"
    tiny_smears.write_smear(smear, 3, True)
    settings: dict[str, Any] = {**tiny_smears.NET, "attention": 8, "min_cells": 0.0}
    of = CytoFM(["malignant"], **settings, layout="grid", tile_overlap=16)
    coords = of.tiles_of(Case(str(smear), MICROSCOPY, (smear,)))[0].coords
    assert np.array_equal(np.unique(coords), 16 * np.arange(11))
    with pytest.raises(MedvitError, match="tile_overlap is 16; it is of tiles of `layout: grid`"):
        CytoFM(["malignant"], **settings, tile_overlap=16)


def test_features_of_another_overlap_are_not_taken_for_those_of_the_system(case: Case, tmp_path: Path) -> None:
    plain, wide = system(), system(tile_overlap=8)
    for of, other in ((plain, wide), (wide, plain)):
        ((_, found, _),) = of.embed([case], 0, torch.no_grad())
        assert isinstance(found, Features)
        path = write_features(tmp_path / "slide.h5", found)
        assert kept(path, of) and not kept(path, other)
        del found.facts["tile_overlap"]  # as files were before it was a setting
        path = write_features(tmp_path / "slide.h5", found)
        assert kept(path, of) and not kept(path, other)


def test_a_map_is_the_mean_of_the_tiles_over_a_place(case: Case) -> None:
    of = system(tile_overlap=16)
    sample = collected(of, case)
    of.thresholds.fill_(0.0)  # so that it is positive and drawn
    with torch.no_grad():
        (result,) = of.predict_step(Batch([sample]))
    assert result.tiles is not None and len(result.heatmaps) == 1
    shares = rescaled(result.tiles.scores["tumour attention"])
    drawn = result.heatmaps[0].values
    scale = drawn.shape[0] / tiny_slides.SIDE
    for x, y in ((40, 40), (100, 60), (130, 200)):
        over = ((sample.tiling.coords <= (x, y)) & (sample.tiling.coords + 32 > (x, y))).all(1)
        assert over.sum() == 4
        assert drawn[int(y * scale), int(x * scale)] == pytest.approx(shares[over].mean(), abs=1e-6)


def test_a_checkpoint_from_before_tiles_could_overlap_is_opened_without(tmp_path: Path) -> None:
    of = system(tile_overlap=8)
    state = of.state_dict()
    for arguments, overlap in ((SETTINGS | {"tile_overlap": 8}, 8), (SETTINGS, 0)):
        opened = build_system({"system": "SelfViTMIL", "arguments": arguments}, state, "old.ckpt")
        assert opened.cutting.overlap == overlap


@pytest.mark.parametrize(("count", "most"), [(5, 10), (10, 10), (11, 10), (1_000, 7)])
def test_thinning_keeps_first_and_last_and_no_tile_twice(count: int, most: int) -> None:
    kept = thinned(count, most)
    assert len(set(kept.tolist())) == min(count, most)
    assert kept[0] == 0 and kept[-1] == count - 1


def damaged(*lost: int) -> Callable[[Desk], None]:
    """Tiles that cannot be decoded, by their number."""

    def change(desk: Desk) -> None:
        read, calls = desk.cutting.read, iter(range(10_000))

        def sometimes(*arguments: Any) -> Any:
            if next(calls) in lost:
                raise Rejected("tile", "Its pixels cannot be decoded.")
            return read(*arguments)

        object.__setattr__(desk, "cutting", _Cutting(desk.cutting, sometimes))

    return change


class _Cutting:
    def __init__(self, cutting: Any, read: Any) -> None:
        self.plan, self.read, self.tile = cutting.plan, read, cutting.tile


def test_one_bad_tile_costs_one_tile_and_is_told(case: Case) -> None:
    whole, less = collected(system(), case), collected(system(), case, damaged(2))
    assert len(less.x) == len(whole.x) - 1 == len(less.tiling.coords)
    assert torch.equal(less.x[:2], whole.x[:2]) and torch.allclose(less.x[2:], whole.x[3:], atol=1e-5)
    assert less.origin["unreadable tiles"] == "1"


@pytest.mark.parametrize(("lost", "reason"), [(range(3), "tiles"), (range(10_000), "no_tiles")])
def test_a_slide_of_which_too_many_tiles_are_lost_is_refused(case: Case, lost: range, reason: str) -> None:
    with pytest.raises(Rejected) as refusal:
        collected(system(), case, damaged(*lost))
    assert refusal.value.reason == reason


def test_a_network_that_fails_on_tiles_costs_the_slide(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    of = system()

    def out_of_memory(pixels: Any) -> Any:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(of, "describe", out_of_memory)
    with pytest.raises(Unanswered) as refusal:
        collected(of, case)
    assert refusal.value.reason == "model"


def test_nonsense_of_a_worker_is_never_believed(case: Case) -> None:
    of = system()
    plain, arrays = Desk(of.resolution, of.cutting).read(case)
    coords, tissue, pixels, valid = arrays
    lies: list[tuple[Any, tuple[Any, ...]]] = [
        (None, arrays),
        ({**plain, "mpp": "wide"}, arrays),
        ({**plain, "mpp": -1}, arrays),
        ({**plain, "slide": [10, 10]}, arrays),
        ({**plain, "origin": 3}, arrays),
        (plain, (coords[:, :1], tissue, pixels, valid)),
        (plain, (coords - 10_000, tissue, pixels, valid)),
        (plain, (coords[:0], tissue, pixels[:0], valid[:0])),
        (plain, (coords, tissue, pixels[:3], valid)),
        (plain, (coords, tissue, pixels.astype(np.float32), valid)),
        ({**plain, "overlap": 32}, arrays),
        (plain, arrays[:2]),
    ]
    for told, sent in lies:
        with pytest.raises(Rejected) as refusal:
            planned(Reply(told, sent), of.cutting.tile)
        assert refusal.value.reason == "crashed"
    assert planned(Reply(plain, arrays), of.cutting.tile).grid.mpp == 1.0


def test_a_table_gives_single_slides_a_resolution(case: Case, tmp_path: Path) -> None:
    (tmp_path / "mpp.csv").write_text(f"path,mpp\n{case.files[0]},0.5\n")
    slide = Resolution.told(str(tmp_path / "mpp.csv")).open(case)
    assert (slide.mpp, slide.mpp_source) == (0.5, "given")
    with pytest.raises(MedvitError, match="is not there"):
        Resolution.told(str(tmp_path / "none.csv"))


@pytest.mark.parametrize("change", [{"tile_mpp": 0.0}, {"min_tissue": 2.0}, {"most_tiles": 0}])
def test_settings_of_tiles_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MedvitError, match="sizes and numbers must be positive"):
        system(**change)


def test_the_frozen_encoder_stays_in_its_answering_mode_and_is_not_trained() -> None:
    of = system().train()
    assert of.net.training and not of.vit.training
    assert not any(parameter.requires_grad for parameter in of.vit.parameters())


def test_maps_are_made_of_attention_or_of_gradients_as_the_system_says() -> None:
    attends, asks = system(), CytoFM(["malignant"], **tiny_smears.NET, attention=8).eval()
    attention = np.array([0.1, 0.6, 0.2, 0.1], np.float32)
    bag = torch.rand(1, 4, 24)
    assert attends.explainer == "attention of tiles" and attends.drawn(bag, 0, attention) is attention
    with torch.inference_mode():
        values = asks.drawn(bag, 0, attention)
    assert asks.explainer == "gradient x input" and values.shape == (4,) and values.min() >= 0
    np.testing.assert_allclose(values, subject_of(asks.net).methods["gradient x input"](bag, 0).numpy(), rtol=1e-5)
