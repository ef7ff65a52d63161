from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from medvit import weights
from medvit.errors import MedvitError
from medvit.nets.mae import take
from medvit.nets.video_vit import VideoViT, cut_tubelets, index_positions
from medvit.nets.videomae import PHASES, VideoMAE, running_cells, shows, tube_masks

OFFICIAL = (8, 14, 14)  # 16 frames of 224 x 224 pixels


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(frames: int = 8, channels: int = 1, **settings: object) -> VideoMAE:
    torch.manual_seed(0)
    encoder = VideoViT(frames, 32, 8, 2, 32, 2, 4, pool="none", channels=channels)
    return VideoMAE(encoder, 0.75, decoder_width=24, decoder_depth=2, decoder_heads=3, **settings)  # type: ignore[arg-type]


def trained_parameters(net: nn.Module) -> int:
    """As the release counts them: it has no bias of keys, which changes nothing and is a third of ours."""
    sizes = {name: parameter.numel() for name, parameter in net.named_parameters()}
    return sum(size - size // 3 * name.endswith("qkv.bias") for name, size in sizes.items())


@pytest.mark.parametrize(
    ("width", "depth", "heads", "decoder", "decoder_depth", "count"),
    [
        (384, 12, 6, (192, 3), 4, 24_029_376),
        (768, 12, 12, (384, 6), 4, 94_210_944),
        (1024, 24, 16, (512, 8), 12, 342_996_992),
        (1280, 32, 16, (640, 8), 12, 692_487_296),
        (1024, 24, 16, (512, 8), 4, 317_782_016),  # VideoMAE V2
        (1280, 32, 16, (512, 8), 4, 645_659_392),
    ],
)
def test_pre_training_networks_have_the_published_number_of_parameters(
    width: int, depth: int, heads: int, decoder: tuple[int, int], decoder_depth: int, count: int
) -> None:
    with torch.device("meta"):
        encoder = VideoViT(width=width, depth=depth, heads=heads, pool="none")
        net = VideoMAE(encoder, decoder_width=decoder[0], decoder_depth=decoder_depth, decoder_heads=decoder[1])
        assert trained_parameters(net) == count


def test_the_giant_has_the_published_number_of_parameters_too() -> None:
    with torch.device("meta"):
        encoder = VideoViT(width=1408, depth=40, heads=16, patch=14, mlp_ratio=48 / 11, pool="none")
        net = VideoMAE(encoder, decoder_width=512, decoder_depth=4, decoder_heads=8, mlp_ratio=48 / 11)
        assert trained_parameters(encoder) == 1_011_610_752
        assert trained_parameters(net) == 1_026_306_560


@pytest.mark.parametrize(("width", "heads", "count"), [(384, 6, 22_033_936), (768, 12, 86_534_800)])
def test_classifiers_have_the_published_number_of_parameters(width: int, heads: int, count: int) -> None:
    with torch.device("meta"):
        assert trained_parameters(VideoViT(width=width, heads=heads, classes=400)) == count


def test_tubes_leave_160_of_1568_tubelets_visible_20_in_every_slice() -> None:
    mask = tube_masks(3, OFFICIAL, 0.9).reshape(3, *OFFICIAL)
    assert mask.shape[1:].numel() == 1568
    assert (~mask).sum(dim=(2, 3)).tolist() == [[20] * 8] * 3
    assert bool((mask == mask[:, :1]).all()), "the same places in every slice"
    assert not bool((mask[0] == mask[1]).all()), "other places in every clip"


def test_running_cells_decode_784_of_1568_tubelets_in_the_order_of_the_release() -> None:
    painted = running_cells(torch.arange(PHASES), OFFICIAL).reshape(PHASES, *OFFICIAL)
    assert painted.sum(dim=(1, 2, 3)).tolist() == [784] * PHASES
    first = [[[1, 0], [0, 1]], [[0, 0], [1, 1]], [[0, 1], [1, 0]], [[1, 1], [0, 0]]]  # 1: not decoded
    assert (~painted[:, 0, :2, :2]).int().tolist() == first
    assert (~painted[0, :4, 4:6, 4:6]).int().tolist() == first, "one step before every slice"


def test_dual_masking_counts_only_what_is_painted_and_hidden() -> None:
    net = tiny(masking="dual").eval()
    clips = torch.rand(2, 1, 8, 32, 32)
    hidden, painted = tube_masks(2, (4, 4, 4), 0.75), running_cells(torch.tensor([0, 1]), (4, 4, 4))
    told = net.measure(clips, clips, hidden, painted)
    assert told["prediction"].shape == (2, 32, 128)
    counted = hidden[painted].reshape(2, 32)
    assert 0 < counted.sum() < counted.numel()
    errors = (told["prediction"] - told["target"]).square().mean(-1)
    assert torch.isclose(told["loss"], errors[counted].mean())


@pytest.mark.parametrize("frames", [8, 12])  # 12: other clips of a batch paint other numbers of visible places
def test_what_is_painted_though_visible_is_left_out_at_the_end_and_changes_no_loss(frames: int) -> None:
    net = tiny(frames, masking="dual")
    clips = torch.rand(3, 1, frames, 32, 32)
    torch.manual_seed(1)
    loss = net(clips)["loss"]
    torch.manual_seed(1)
    hidden = tube_masks(3, net.encoder.grid, 0.75)
    painted = running_cells(torch.randint(PHASES, (3,)), net.encoder.grid)
    assert bool((painted & ~hidden).any())
    torch.testing.assert_close(loss, net.measure(clips, clips, hidden, painted)["loss"])


def test_positions_count_tokens_one_by_one_with_sines_on_even_channels() -> None:
    table = index_positions(6, 5)
    assert table[0].tolist() == [0, 1, 0, 1, 0, 1]
    angle = torch.tensor(3 / 10_000 ** (2 / 6))
    assert torch.allclose(table[3, 2:4], torch.stack([angle.sin(), angle.cos()]))


def test_targets_are_normalised_by_tubelet_and_channel_in_the_order_frame_row_column_channel() -> None:
    net = tiny(channels=3)
    clips = torch.rand(1, 3, 8, 32, 32) * torch.tensor([1.0, 0.1, 0.01]).reshape(1, 3, 1, 1, 1)
    target = net.target(cut_tubelets(clips, 2, 8)).reshape(1, 64, 2, 8, 8, 3)
    assert torch.allclose(target.mean(dim=(2, 3, 4)), torch.zeros(1, 64, 3), atol=1e-4)
    assert torch.allclose(target.std(dim=(2, 3, 4)), torch.ones(1, 64, 3), atol=1e-3)
    raw = clips[0, 1, :2, :8, 8:16]  # the second tubelet, green
    assert torch.allclose(target[0, 1, ..., 1], (raw - raw.mean()) / raw.std(), atol=1e-3)


@pytest.mark.parametrize(("frames", "channels"), [(2, 1), (4, 3), (24, 1)])
def test_any_number_of_frames_and_one_or_three_channels_will_do(frames: int, channels: int) -> None:
    net = tiny(frames=8, channels=channels)
    assert net(torch.rand(2, channels, frames, 32, 32))["loss"].isfinite()


def test_within_the_sector_nothing_black_is_seen_or_counted() -> None:
    net = tiny(within=True)
    clips = torch.zeros(2, 1, 8, 32, 32)
    clips[:, :, :, :16, :24] = torch.rand(2, 1, 8, 16, 24)
    region = shows(clips, net.encoder).reshape(2, 4, 4, 4)
    assert region[0, 0].int().tolist() == [[1, 1, 1, 0]] * 2 + [[0] * 4] * 2
    mask = tube_masks(2, (4, 4, 4), 0.75, region.flatten(1))
    assert not bool((~mask & ~region.flatten(1)).any())
    assert (~mask).sum(dim=1).tolist() == [8, 8], "a quarter of six places, rounded up, in four slices"
    assert net(clips)["loss"].isfinite()
    assert net(torch.zeros(2, 1, 8, 32, 32))["loss"].isfinite()


def test_masks_of_other_sizes_in_one_batch_are_refused() -> None:
    net, clips = tiny(), torch.rand(2, 1, 8, 32, 32)
    mask = tube_masks(2, (4, 4, 4), 0.75)
    mask[0, 0] = ~mask[0, 0]
    with pytest.raises(ValueError, match="as many tubelets of every clip"):
        net.measure(clips, clips, mask)


def test_it_learns_to_paint_a_moving_wave() -> None:
    net = tiny().train()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    angle = 0.5 * torch.arange(8.0)[:, None] + 0.4 * torch.arange(32.0)  # (T, W)
    waves = (0.5 + 0.5 * angle.sin())[:, None].expand(8, 1, 8, 32, 32)
    losses = []
    for step in range(240):
        torch.manual_seed(step)
        loss = net(waves)["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) / 10 < 0.7 * sum(losses[:10]) / 10


def official(net: nn.Module) -> dict[str, torch.Tensor]:
    """A network's weights as the releases save them: biases of queries and values apart."""
    state = {}
    for key, value in net.state_dict().items():
        if key.endswith("qkv.bias"):
            q, _, v = value.chunk(3)
            state[key.replace("qkv.bias", "q_bias")] = q
            state[key.replace("qkv.bias", "v_bias")] = v
        else:
            state[key] = value
    return state


@pytest.mark.parametrize("container", ["model", "module", ""])
def test_published_pre_training_files_load_into_it_and_into_a_classifier(tmp_path: Path, container: str) -> None:
    net = tiny(channels=3)
    nn.init.normal_(net.encoder.blocks[1].attn.qkv.bias)  # type: ignore[union-attr, arg-type]
    net.encoder.blocks[1].attn.qkv.bias.data[32:64] = 0  # type: ignore[union-attr]
    state = official(net)
    torch.save({container: state, "epoch": 3} if container else state, tmp_path / "checkpoint-3.pth")
    other = tiny(channels=3, mean=(0.1,))
    weights.load(other, tmp_path / "checkpoint-3.pth", weights.videomae)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))

    fine = VideoViT(16, 48, 8, 2, 32, 2, 4, classes=2)  # another size, another number of frames
    weights.load(fine, tmp_path / "checkpoint-3.pth", weights.videomae_encoder, new=("head.", "fc_norm."))
    assert torch.equal(fine.blocks[1].attn.qkv.bias, net.encoder.blocks[1].attn.qkv.bias)  # type: ignore[union-attr, arg-type]

    grey = VideoViT(8, 32, 8, 2, 32, 2, 4, classes=2, channels=1)
    weights.load(grey, tmp_path / "checkpoint-3.pth", weights.videomae_encoder, new=("head.", "fc_norm."))
    clip = torch.rand(1, 1, 8, 32, 32)
    colour = cut_tubelets(clip.expand(-1, 3, -1, -1, -1), 2, 8)
    there = net.encoder.patch_embed(take(colour, torch.arange(64)[None]))
    assert torch.allclose(grey.patch_embed(cut_tubelets(clip, 2, 8)), there, atol=1e-5)


def test_files_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"module": official(tiny())}, tmp_path / "pre.pth")
    deeper = VideoViT(8, 32, 8, 2, 32, 3, 4, classes=2, channels=1)
    with pytest.raises(MedvitError, match=r"missing: blocks\.2\.attn"):
        weights.load(deeper, tmp_path / "pre.pth", weights.videomae_encoder, new=("head.", "fc_norm."))
