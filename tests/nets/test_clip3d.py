import argparse
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medvit import weights
from medvit.errors import MedvitError
from medvit.nets.clip3d import Net3D, clip_net, strongest
from medvit.pickled import Nothing, read_pickled

OFFICIAL = (96, 128, 128)
PARAMETERS = {  # of the release, with one answer
    "resnet3d": 70_770_369, "senet": 170_208_881, "unet3d": 25_017_763, "swinunetr": 10_879_963,
    "unetplusplus": 3_603_553, "vnet": 24_066_289, "unetr": 90_282_385, "vit": 31_850_497,
}  # fmt: skip
SMALL: dict[str, tuple[int, int, int]] = {"vit": (14, 14, 14)}
KEYS = {
    "resnet3d": ("model.conv1.weight", "model.layer4.3.bn2.bias", "model.fc.weight"),
    "senet": ("model.layer0.conv1.weight", "model.last_linear.bias"),
    "unet3d": (
        "enc.encoder.0.basic_module.SingleConv1.groupnorm.weight",
        "enc.encoder.4.basic_module.SingleConv2.conv.weight",
        "cls.fc1.weight",
    ),
    "swinunetr": ("enc.swinViT.patch_embed.proj.weight", "enc.encoder10.layer.conv1.conv.weight", "cls.fc2.bias"),
    "unetplusplus": ("enc.conv_0_0.conv_0.conv.bias", "enc.conv_4_0.convs.conv_1.adn.N.weight", "cls.fc1.bias"),
    "vnet": ("enc.in_tr.conv_block.conv.weight", "enc.down_tr256.ops.1.conv_block.adn.N.bias", "cls.fc1.weight"),
    "unetr": ("enc.vit.blocks.11.attn.qkv.weight", "enc.encoder4.transp_conv_init.conv.weight", "cls.fc1.weight"),
    "vit": ("enc.cls_token", "enc.blocks.3.mlp.linear2.bias", "enc.classification_head.0.weight"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_have_the_parameters_and_the_key_names_of_the_release(name: Net3D) -> None:
    net = clip_net(name, OFFICIAL)
    assert sum(parameter.numel() for parameter in net.parameters()) == PARAMETERS[name]
    assert set(KEYS[name]) <= net.state_dict().keys()


@pytest.mark.parametrize("name", ["unet3d", "swinunetr", "unetplusplus", "vnet", "vit"])
def test_networks_answer_clips_by_way_of_their_last_map(name: Net3D) -> None:
    torch.manual_seed(0)
    size = SMALL.get(name, (32, 32, 32))
    net = clip_net(name, size, classes=2).eval()
    clips = torch.rand(2, 1, *size)
    with torch.no_grad():
        features = net.features(clips)
        assert features.ndim == 5
        assert net.answer(features).shape == (2, 2)
        assert torch.equal(net.answer(features), net(clips))
        if name == "vit":
            assert torch.allclose(net.enc(clips)[0], net(clips), atol=1e-6)  # type: ignore[operator]


def test_the_resnet_answers_as_monais() -> None:
    net = clip_net("resnet3d", (32, 32, 32), slim=8).eval()
    clips = torch.rand(2, 1, 32, 32, 32)
    with torch.no_grad():
        assert torch.allclose(net(clips), net.model(clips), atol=1e-6)  # type: ignore[operator]
        selective = clip_net("resnet3d", (32, 32, 32), slim=8, top=0.5).eval()
        assert selective(clips).shape == (2, 1)
        assert "enc.layer4.3.bn2.bias" in selective.state_dict()


def test_the_unet_has_groups_of_eight_channels_and_one_group_below() -> None:
    shapes = {key: tuple(value.shape) for key, value in clip_net("unet3d", (16, 16, 16)).state_dict().items()}
    widths = [
        shapes[f"enc.encoder.{level}.basic_module.SingleConv{i}.conv.weight"][:2] for level in range(5) for i in (1, 2)
    ]
    assert widths == [(32, 1), (64, 32), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (512, 256), (512, 512),
                      (768, 512)]  # fmt: skip


@pytest.mark.parametrize(
    ("slices", "kept"), [(6, {0.3: 2, 0.5: 3, 0.7: 5}), (12, {0.3: 4, 0.5: 6, 0.7: 9}), (3, {0.3: 1, 0.5: 2, 0.7: 3})]
)
def test_selective_pooling_keeps_the_slices_with_the_longest_vectors(slices: int, kept: dict[float, int]) -> None:
    vectors = torch.zeros(1, slices, 4)
    vectors[0, :, 0] = torch.arange(slices)
    for share, number in kept.items():
        found = strongest(vectors, share)
        assert sorted(found[0, :, 0].tolist()) == list(range(slices - number, slices))
    assert torch.equal(strongest(vectors, None), vectors)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "vit", "size": (96, 128, 128), "top": 0.5}, "no such pooling"),
        ({"name": "unet3d", "size": (96, 128, 128), "top": 1.5}, "share of the slices"),
        ({"name": "vnet", "size": (96, 128, 128), "slim": 2}, "cannot be made thinner"),
        ({"name": "swinunetr", "size": (48, 64, 64)}, "multiples of 32, not 48 x 64 x 64"),
        ({"name": "unet3d", "size": (8, 64, 64)}, "from 16 on"),
    ],
)
def test_what_a_network_cannot_be_is_refused_in_a_sentence(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        clip_net(**arguments)


def tiny() -> nn.Module:
    torch.manual_seed(1)
    return clip_net("unet3d", (16, 16, 16), slim=16)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class Foreign(nn.Module):
    """An object as the authors' Lightning files pickle it; unpickling it must not run this."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise AssertionError("it was built")


def test_lightning_files_of_the_authors_load_without_building_their_objects(tmp_path: Path) -> None:
    net, path = tiny(), tmp_path / "unet3d_non_rd_vs_rd.ckpt"
    state = {f"net.{key}": value for key, value in net.state_dict().items()}
    torch.save(
        {"epoch": 3, "state_dict": state, "hyper_parameters": {"net": Foreign(net), "compile": False},
         "callbacks": [argparse.Namespace(a=1), Foreign(net)]},
        path,
    )  # fmt: skip
    torch.manual_seed(2)
    other = clip_net("unet3d", (16, 16, 16), slim=16)
    assert not same(net, other)
    with pytest.raises(MedvitError, match="could run code"):
        weights.load(other, path, weights.erdes)
    weights.load(other, path, weights.erdes, pickled=True)
    assert same(net, other)
    content = read_pickled(path)
    assert content["epoch"] == 3
    assert isinstance(content["hyper_parameters"]["net"], Nothing)


@pytest.mark.parametrize("named", ["new", "safetensors", "bare", "legacy"])
def test_every_layout_of_the_release_loads(tmp_path: Path, named: str) -> None:
    net, state = tiny(), tiny().state_dict()
    if named == "legacy":
        state = {key.removeprefix("enc.").removeprefix("cls."): value for key, value in state.items()}
    if named == "safetensors":
        path = tmp_path / "model.safetensors"
        save_file(state, path)
    else:
        path = tmp_path / "a.ckpt"
        torch.save({"state_dict": state if named == "bare" else {f"net.{k}": v for k, v in state.items()}}, path)
    torch.manual_seed(2)
    other = clip_net("unet3d", (16, 16, 16), slim=16)
    weights.load(other, path, weights.erdes, pickled=True)
    assert same(net, other)


def test_files_of_other_monai_versions_and_whole_decoders_load_into_the_vit(tmp_path: Path) -> None:
    net = clip_net("vit", (14, 14, 14))
    state = {f"net.{key}": value for key, value in net.state_dict().items() if "cross_attn" not in key}
    state["net.classification_head.0.weight"] = state.pop("net.enc.classification_head.0.weight")
    state["net.enc.blocks.0.cross_attn.q.weight"] = torch.zeros(3)
    torch.save({"state_dict": state}, tmp_path / "vit.ckpt")
    other = clip_net("vit", (14, 14, 14))
    weights.load(other, tmp_path / "vit.ckpt", weights.erdes, pickled=True)
    assert torch.equal(net.state_dict()["enc.cls_token"], other.state_dict()["enc.cls_token"])


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"state_dict": {f"net.{k}": v for k, v in tiny().state_dict().items()}}, tmp_path / "a.ckpt")
    with pytest.raises(MedvitError, match=r"missing: enc\.conv_0_0"):
        weights.load(clip_net("unetplusplus", (16, 16, 16)), tmp_path / "a.ckpt", weights.erdes, pickled=True)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (Path("/tmp/medvit-was-here"), "x")


@pytest.mark.parametrize("damage", ["evil", "cut", "text", "compressed", "beyond"])
def test_files_that_do_harm_or_are_damaged_do_nothing(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": tiny().state_dict(), "more": Evil()}, path)
    Path("/tmp/medvit-was-here").unlink(missing_ok=True)
    if damage == "evil":
        assert isinstance(read_pickled(path)["more"], Nothing)
    else:
        if damage == "cut":
            path.write_bytes(path.read_bytes()[:3000])
        elif damage == "text":
            path.write_bytes(b"nothing")
        elif damage == "compressed":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("a/data.pkl", pickle.dumps({}))
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a/data.pkl", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02K\x03tR.")
        with pytest.raises(MedvitError, match=r"cannot be read|no named tensors"):
            read_pickled(path)
    assert not Path("/tmp/medvit-was-here").exists()
