"""Tiles for pre-training: drawn from the seed, mixed over slides, looked at as DINO does."""

import numpy as np
import pytest

from medvit.data.crops import Crops, jitter, turned
from medvit.data.tiles import TileOrder, Views, collate
from medvit.errors import MedvitError, Rejected

TILE = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)


def test_an_epoch_draws_so_many_of_each_slide_and_repeats_only_where_it_must() -> None:
    drawn = list(TileOrder([100, 3], 10, seed=1, shuffle=True))
    first = [tile for slide, tile, _ in drawn if slide == 0]
    assert len(first) == len(set(first)) == 10
    assert len([slide for slide, _, _ in drawn if slide == 1]) == 10
    assert len(list(TileOrder([100, 3], 0, seed=1, shuffle=True))) == 103


def test_tiles_of_all_slides_are_mixed_and_differ_from_epoch_to_epoch() -> None:
    order = TileOrder([50] * 4, 50, seed=1, shuffle=True)
    first = list(order)
    assert len({slide for slide, _, _ in first[:20]}) == 4
    assert first == list(order)
    order.set_epoch(1)
    assert first != list(order)


def test_validation_draws_the_same_in_every_epoch() -> None:
    order = TileOrder([50] * 4, 5, seed=1, shuffle=False)
    first = list(order)
    order.set_epoch(7)
    assert first == list(order)


def test_crops_have_their_sizes_and_come_from_the_seed() -> None:
    crops = Crops(32, 16, small=3)
    large, small = crops.cut(TILE, np.random.default_rng(5))
    assert large.shape == (2, 3, 32, 32) and small.shape == (3, 3, 16, 16) and large.dtype == np.uint8
    again = crops.cut(TILE, np.random.default_rng(5))
    assert all(np.array_equal(*pair) for pair in zip((large, small), again, strict=True))


def test_without_small_crops_there_are_large_ones_only() -> None:
    views = collate([Crops(32, 16, small=0).cut(TILE, np.random.default_rng(i)) for i in range(4)])
    assert [tuple(crops.shape) for crops in views.crops] == [(2, 4, 3, 32, 32)] and len(views) == 4


def test_large_crops_show_more_of_a_tile_than_small_ones() -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (64, 64, 3))
    crops = Crops(32, 32, small=8, scale=0.5, smallest=0.05, colour=0, grey=0, blur=0, solarise=0)
    large, small = crops.cut(np.ascontiguousarray(ramp), np.random.default_rng(0))
    span = [[float(np.ptp(crop.astype(int))) for crop in kind] for kind in (large, small)]
    assert min(span[0]) > np.mean(span[1])


def test_a_hue_that_is_turned_by_nothing_stays_and_by_a_third_makes_red_green() -> None:
    from PIL import Image

    red = Image.new("RGB", (2, 2), (255, 0, 0))
    assert turned(red, 0.0).getpixel((0, 0)) == (255, 0, 0)
    assert np.argmax(turned(red, 1 / 3).getpixel((0, 0))) == 1
    assert jitter(red, np.random.default_rng(0), 0.0).getpixel((0, 0)) == (255, 0, 0)


def test_a_tile_that_cannot_be_read_costs_itself_alone() -> None:
    cut = Crops(32, 16).cut(TILE, np.random.default_rng(0))
    assert (
        isinstance(collate([cut, Rejected("tile", "No.")]), Views) and len(collate([cut, Rejected("tile", "No.")])) == 1
    )
    with pytest.raises(MedvitError, match="None of 1 tiles"):
        collate([Rejected("tile", "No.")])
