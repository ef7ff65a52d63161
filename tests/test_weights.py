"""Weights: read as data, renamed by table, loaded strictly, or refused with everything that is wrong."""

import argparse
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medvit.errors import MedvitError
from medvit.nets.dino import DINO, Head
from medvit.nets.ibot import IBOT
from medvit.nets.mae import MAE
from medvit.nets.mil import ABMIL, DSMIL
from medvit.nets.vit import STRETCH, ViT, resample_positions
from medvit.systems.thorax_mae import ThoraxMAE, ThoraxMAEPretraining
from medvit.weights import (
    bag_network,
    dino,
    dino_backbone,
    dino_head,
    file_digest,
    load,
    mae,
    mae_encoder,
    read_file,
    read_own,
    read_state,
    release,
    resampled,
    vit_classifier,
)

# Encoder and decoder of a tiny MAE as `models_mae.py` of the release names them: flat.
ENCODER = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")
SMALL = {"width": 16, "depth": 2, "heads": 2}


def small_vit(seed: int = 0, **options: Any) -> ViT:
    torch.manual_seed(seed)
    return ViT(**{"image_size": 32, "patch": 8, **SMALL, **options})


def small_mae(seed: int = 0) -> MAE:
    return MAE(small_vit(seed), 0.5, decoder_width=8, decoder_depth=1, decoder_heads=2)


def pretraining_state(seed: int = 1) -> dict[str, Tensor]:
    """What a published pre-training file holds: encoder keys flat, decoder keys as they are; every value random."""
    state = {key.removeprefix("encoder."): value for key, value in small_mae().state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(value.shape, generator=generator) for key, value in state.items()}


def finetuned_state(classes: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    shapes = small_vit(pool="mean", classes=classes).state_dict()
    return {key: torch.randn(value.shape, generator=generator) for key, value in shapes.items()}


def published(path: Path, state: dict[str, Tensor]) -> Path:
    """A file as the release's ``util/misc.py`` writes it."""
    args = argparse.Namespace(model="mae_vit_small", blr=1.5e-4, output_dir="out", mask_ratio=0.9)
    torch.save(
        {"model": state, "optimizer": {"state": {}, "param_groups": []}, "epoch": 799, "scaler": {}, "args": args}, path
    )
    return path


def complaint(module: nn.Module, path: Path, adapt: Any, new: tuple[str, ...] = ()) -> str:
    """The message of a refused load, after which the module is as before."""
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(MedvitError) as caught:
        load(module, path, adapt, new)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    return str(caught.value)


def test_a_published_pretraining_file_becomes_a_mae(tmp_path) -> None:
    state, module = pretraining_state(), small_mae()
    load(module, published(tmp_path / "vit-s_CXR_mae.pth", state), mae)
    loaded = module.state_dict()
    assert len(loaded) == len(state)
    for key, value in state.items():
        assert torch.equal(loaded[f"encoder.{key}" if key.startswith(ENCODER) else key], value), key


def test_a_published_pretraining_file_becomes_a_vit_with_a_new_head(tmp_path) -> None:
    state, net = pretraining_state(), small_vit(pool="mean", classes=5)
    fresh = {key: value.clone() for key, value in net.state_dict().items()}
    load(net, published(tmp_path / "mae.pth", state), mae_encoder, new=("head.", "fc_norm."))
    loaded = net.state_dict()
    for key, value in loaded.items():
        # `fc_norm` starts afresh: it is not the encoder's `norm`
        wanted = fresh[key] if key.startswith(("head.", "fc_norm.")) else state[key]
        assert torch.equal(value, wanted), key


def test_a_class_token_vit_keeps_the_norm_of_the_encoder(tmp_path) -> None:
    state, net = pretraining_state(), small_vit(pool="class", classes=5)
    load(net, published(tmp_path / "mae.pth", state), mae_encoder, new=("head.",))
    assert torch.equal(net.norm.weight, state["norm.weight"])


def test_a_published_finetuned_file_becomes_a_classifier(tmp_path) -> None:
    state, net = finetuned_state(), small_vit(pool="mean", classes=3)
    load(net, published(tmp_path / "ft.pth", state), vit_classifier)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s}])
def test_weights_are_found_at_the_top_or_in_their_container(tmp_path, wrap) -> None:
    state = {f"module.{key}": value for key, value in finetuned_state().items()}  # as parallel training names them
    torch.save(wrap(state), tmp_path / "ft.pth")
    load(small_vit(pool="mean", classes=3), tmp_path / "ft.pth", vit_classifier)
    assert read_state(tmp_path / "ft.pth").keys() == finetuned_state().keys()


def test_positions_are_resampled_to_another_image_size(tmp_path) -> None:
    state, net = pretraining_state(), small_vit(pool="mean", classes=5, image_size=48)
    load(net, published(tmp_path / "mae.pth", state), mae_encoder, new=("head.", "fc_norm."))
    assert net.pos_embed.shape == (1, 37, 16)
    torch.testing.assert_close(net.pos_embed.data, resample_positions(state["pos_embed"], (4, 4), (6, 6)))
    assert torch.equal(net.pos_embed[:, 0], state["pos_embed"][:, 0])  # the class token's is kept
    # a smooth table stays what it was where old and new places meet
    ramp = torch.linspace(0, 1, 4)[:, None].expand(4, 4).reshape(1, 16, 1).expand(1, 16, 16)
    there = resampled({"pos_embed": torch.cat([torch.zeros(1, 1, 16), ramp], 1)}, net)["pos_embed"][0, 1:, 0].view(6, 6)
    assert there.diff(dim=0).min() > 0
    assert there.diff(dim=1).abs().max() < 1e-6


def test_a_run_of_our_own_pretraining_starts_a_classifier(tmp_path) -> None:
    options = {"image_size": 32, "patch": 8, **SMALL}
    torch.manual_seed(3)
    first = ThoraxMAEPretraining(**options, decoder_width=8, decoder_depth=1, decoder_heads=2, mask_ratio=0.5)
    path = tmp_path / "pretrained.ckpt"
    torch.save({"medvit": {"arguments": {}}, "state_dict": first.state_dict()}, path)
    system = ThoraxMAE(labels=["Mass"], **options, weights=path)
    assert torch.equal(system.net.blocks[1].mlp.fc1.weight, first.objective.encoder.blocks[1].mlp.fc1.weight)
    again = ThoraxMAEPretraining(
        **options, decoder_width=8, decoder_depth=1, decoder_heads=2, mask_ratio=0.5, weights=path
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


class Runs:
    """Would run a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.canary}'",)


class Imports(Runs):
    """Would instantiate whatever is named, as instantiators do."""

    def __reduce__(self) -> Any:
        return eval, (f"open({str(self.canary)!r}, 'w')",)


class Foreign:
    """Harmless, but no tensor."""


def legacy(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def zipped(content: Any, path: Path) -> None:
    torch.save(content, path)


@pytest.mark.parametrize("save", [legacy, zipped])
@pytest.mark.parametrize("kind", ["command", "instantiator", "foreign"])
def test_a_file_that_could_run_code_is_refused_and_runs_none(tmp_path, kind, save) -> None:
    canary, path = tmp_path / "canary", tmp_path / "weights.pth"
    what = {"command": Runs(canary), "instantiator": Imports(canary), "foreign": Foreign()}[kind]
    save({"model": finetuned_state(), "args": what}, path)
    said = complaint(small_vit(pool="mean", classes=3), path, vit_classifier)
    assert not canary.exists()
    assert str(path) in said
    assert "run code" in said
    assert "safetensors" in said


def test_the_canary_would_have_sung(tmp_path) -> None:
    """The payloads above are live: a plain pickle load runs them."""
    for kind in (Runs, Imports):
        canary = tmp_path / kind.__name__
        pickle.loads(pickle.dumps(kind(canary)))  # noqa: S301
        assert canary.exists()


def test_a_named_instantiator_in_hyper_parameters_stays_text(tmp_path) -> None:
    path = tmp_path / "own.ckpt"
    arguments = {"_instantiator": "os.system", "labels": "nih14"}
    torch.save({"medvit": {"arguments": arguments}, "state_dict": finetuned_state()}, path)
    card, state = read_own(path)
    assert card == {"arguments": arguments}
    assert state.keys() == finetuned_state().keys()


def test_damaged_files_are_refused_by_name(tmp_path) -> None:
    whole = published(tmp_path / "whole.pth", finetuned_state()).read_bytes()
    save_file(finetuned_state(), tmp_path / "whole.safetensors")
    safe = (tmp_path / "whole.safetensors").read_bytes()
    contents = {
        "empty.pth": b"",
        "empty.safetensors": b"",
        "cut.pth": whole[: len(whole) // 2],
        "cut.safetensors": safe[: len(safe) // 2],
        "flipped.pth": whole[:40] + bytes(200) + whole[240:],
        "text.pth": b"<html>Quota exceeded</html>",
        "text.safetensors": b"<html>Quota exceeded</html>",
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        said = complaint(small_vit(pool="mean", classes=3), path, vit_classifier)
        assert str(path) in said


def test_any_cut_and_many_mutants_are_read_or_refused_but_never_raise_otherwise(tmp_path) -> None:
    torch.save({"a": torch.ones(3), "args": argparse.Namespace(b=1)}, tmp_path / "zip.pth")
    torch.save({"a": torch.ones(3), "c": [1, "x"]}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    generator, refused = torch.Generator().manual_seed(0), 0
    for name in ("zip.pth", "old.pth"):
        whole = (tmp_path / name).read_bytes()
        for trial in range(120):
            data = bytearray(whole)
            places = torch.randint(len(data), (4,), generator=generator).tolist()
            if trial % 2:
                data = data[: places[0]]
            else:
                for place in places:
                    data[place] = int(torch.randint(256, (), generator=generator))
            (tmp_path / "mutant.pth").write_bytes(data)
            try:
                read_file(tmp_path / "mutant.pth")
            except MedvitError:
                refused += 1
    assert refused > 100


def test_a_folder_is_told_from_a_file_that_is_not_there(tmp_path) -> None:
    with pytest.raises(MedvitError, match="is a folder"):
        read_file(tmp_path)


def test_a_zip_that_is_no_checkpoint_is_refused(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as file:
        file.writestr("readme.txt", "weights are elsewhere")
    assert "not a checkpoint, or damaged" in complaint(small_vit(), tmp_path / "a.pth", vit_classifier)


def test_files_without_named_tensors_are_refused(tmp_path) -> None:
    net, path = small_vit(), tmp_path / "a.pth"
    assert "are not there" in complaint(net, tmp_path / "nothing.pth", vit_classifier)
    assert "is a folder" in complaint(net, tmp_path, vit_classifier)
    torch.save([torch.zeros(2)], path)
    assert "hold a list" in complaint(net, path, vit_classifier)
    torch.save(torch.zeros(2), path)
    assert "hold a Tensor" in complaint(net, path, vit_classifier)
    torch.save({"epoch": 3}, path)
    assert "no tensors under model, module, state_dict" in complaint(net, path, vit_classifier)


def test_every_key_that_does_not_fit_is_named_at_once(tmp_path) -> None:
    state = finetuned_state()
    del state["blocks.0.norm1.weight"], state["cls_token"]
    state["head.extra"] = torch.zeros(1)
    state["blocks.7.norm1.weight"] = torch.zeros(16)
    state["head.weight"] = torch.zeros(14, 16)
    said = complaint(small_vit(pool="mean", classes=3), published(tmp_path / "ft.pth", state), vit_classifier)
    assert "2 missing: blocks.0.norm1.weight, cls_token" in said
    assert "2 unexpected: blocks.7.norm1.weight, head.extra" in said
    assert "1 of another shape: head.weight (14, 16) for (3, 16)" in said
    assert "do not fit ViT" in said


def test_another_width_is_named_and_not_resampled(tmp_path) -> None:
    path = published(tmp_path / "ft.pth", finetuned_state())
    said = complaint(small_vit(pool="mean", classes=3, width=32, image_size=48), path, vit_classifier)
    assert "pos_embed (1, 17, 16) for (1, 37, 32)" in said


def test_a_head_is_only_new_when_the_caller_says_so(tmp_path) -> None:
    path = published(tmp_path / "mae.pth", pretraining_state())
    net = small_vit(pool="mean", classes=3)
    said = complaint(net, path, mae_encoder)
    assert "4 missing: fc_norm.bias, fc_norm.weight, head.bias, head.weight" in said
    said = complaint(net, published(tmp_path / "ft.pth", finetuned_state()), mae_encoder, ("head.", "fc_norm."))
    assert "head.weight" in said  # a head in the file is not dropped silently


def own_checkpoint(path: Path) -> dict[str, Any]:
    card = {
        "system": "ThoraxMAE",
        "version": "0",
        "arguments": {"labels": "nih14", "mean": 0.5},
        "metrics": {"val/auroc": 0.9},
    }
    state = {f"net.{key}": value for key, value in finetuned_state().items()} | {
        "thresholds": torch.tensor([0.1, 0.2, 0.3])
    }
    content = {"medvit": card, "state_dict": state, "optimizer_states": [{"big": torch.zeros(100)}], "epoch": 3}
    torch.save(content, path)
    return content


def test_a_release_holds_the_same_weights_and_card_and_nothing_else(tmp_path) -> None:
    content = own_checkpoint(tmp_path / "best.ckpt")
    release(tmp_path / "best.ckpt", tmp_path / "best.safetensors")
    tensors = load_file(tmp_path / "best.safetensors")  # by the library alone
    assert tensors.keys() == content["state_dict"].keys()
    assert all(torch.equal(value, tensors[key]) for key, value in content["state_dict"].items())
    with safe_open(tmp_path / "best.safetensors", "pt") as file:
        assert json.loads(file.metadata()["medvit"]) == content["medvit"]
    for path in (tmp_path / "best.ckpt", tmp_path / "best.safetensors"):
        card, state = read_own(path)
        assert card == content["medvit"]
        assert all(torch.equal(value, content["state_dict"][key]) for key, value in state.items())
    for path in (tmp_path / "best.ckpt", tmp_path / "best.safetensors"):
        net = small_vit(pool="mean", classes=3)
        load(net, path, vit_classifier)
        assert torch.equal(net.head.weight, content["state_dict"]["net.head.weight"])


def test_a_release_of_the_same_checkpoint_has_the_same_bytes(tmp_path) -> None:
    own_checkpoint(tmp_path / "best.ckpt")
    for name in ("a", "b"):
        release(tmp_path / "best.ckpt", tmp_path / f"{name}.safetensors")
    assert file_digest(tmp_path / "a.safetensors") == file_digest(tmp_path / "b.safetensors")
    assert file_digest(tmp_path / "a.safetensors") != file_digest(tmp_path / "best.ckpt")


@pytest.mark.parametrize("metadata", [None, {"medvit": "no json"}, {"medvit": "[]"}, {"medvit": '{"arguments": 3}'}])
def test_foreign_weights_are_no_system(tmp_path, metadata) -> None:
    save_file(finetuned_state(), tmp_path / "a.safetensors", metadata)
    with pytest.raises(MedvitError, match="is no checkpoint of a medvit system"):
        read_own(tmp_path / "a.safetensors")
    with pytest.raises(MedvitError, match="is no checkpoint of a medvit system"):
        read_own(published(tmp_path / "a.pth", finetuned_state()))


def small_dino(kind: type[DINO] = DINO, **head: Any) -> DINO:
    return kind(small_vit(), Head(16, 6, hidden=8, bottleneck=4, **head))


def random_like(module: nn.Module, seed: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(value.shape, generator=generator) for key, value in module.state_dict().items()}


def dino_file(path: Path, net: DINO) -> dict[str, Tensor]:
    """A training file as ``main_dino.py`` or ``main_ibot.py`` writes it, every value random; its tensors by our names."""
    state = random_like(net)
    student = {f"module.{key.removeprefix('student.')}": v for key, v in state.items() if key.startswith("student.")}
    teacher = {key.removeprefix("teacher."): v for key, v in state.items() if key.startswith("teacher.")}
    loss = {"center": state["centre"]}
    if isinstance(net, IBOT):
        loss["center2"] = state["patch_centre"]
        student["module.backbone.masked_embed"] = state["masked_embed"]
        for part, prefix in ((student, "module."), (teacher, "")):  # a shared layer stands there twice
            for letter in "gv" if net.student.head.last_layer2 is None else "":
                part[f"{prefix}head.last_layer2.weight_{letter}"] = part[f"{prefix}head.last_layer.weight_{letter}"]
    content = {"student": student, "teacher": teacher, f"{type(net).__name__.lower()}_loss": loss, "epoch": 99,
               "optimizer": {"state": {}, "param_groups": []}, "args": argparse.Namespace(arch="vit_small")}  # fmt: skip
    torch.save(content, path)
    return state


@pytest.mark.parametrize(("kind", "head"), [(DINO, {}), (IBOT, {"patch_out": 5}), (IBOT, {})])
def test_a_published_distillation_is_taken_up_with_both_networks_and_its_centres(tmp_path, kind, head) -> None:
    net = small_dino(kind, **head)
    state = dino_file(tmp_path / "checkpoint.pth", net)
    load(net, tmp_path / "checkpoint.pth", dino)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_the_teachers_backbone_is_taken_and_nothing_else(tmp_path) -> None:
    state, net = dino_file(tmp_path / "checkpoint.pth", small_dino(IBOT)), small_vit()
    load(net, tmp_path / "checkpoint.pth", dino_backbone)
    assert all(torch.equal(value, state[f"teacher.backbone.{key}"]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("wrap", [
    lambda s: s,
    lambda s: {"state_dict": s},
    lambda s: {"teacher": {f"backbone.{k}": v for k, v in s.items()} | {"head.mlp.0.bias": torch.zeros(1)}},
    lambda s: {"teacher": {f"module.backbone.{k}": v for k, v in s.items()}},
    lambda s: {"teacher": s},
    lambda s: {"student": {f"module.backbone.{k}": v for k, v in s.items()} | {"module.backbone.masked_embed": torch.ones(1)}},
    lambda s: {"state_dict": {"objective.centre": torch.ones(1)} | {f"objective.teacher.backbone.{k}": s[k] for k in s}},
])  # fmt: skip
def test_a_backbone_is_found_under_every_published_name(tmp_path, wrap) -> None:
    state, net = random_like(small_vit()), small_vit()
    torch.save(wrap(state), tmp_path / "a.pth")
    load(net, tmp_path / "a.pth", dino_backbone)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_a_backbone_with_a_key_too_few_or_of_another_kind_is_refused(tmp_path) -> None:
    state = random_like(small_vit())
    del state["blocks.1.norm2.bias"]
    torch.save({"teacher": {f"backbone.{key}": value for key, value in state.items()}}, tmp_path / "a.pth")
    assert "1 missing: blocks.1.norm2.bias" in complaint(small_vit(), tmp_path / "a.pth", dino_backbone)
    assert "unexpected" in complaint(small_vit(), published(tmp_path / "b.pth", finetuned_state()), dino_backbone)
    torch.save({"teacher": {}, "student": {}}, tmp_path / "c.pth")
    assert "hold no tensors" in complaint(small_vit(), tmp_path / "c.pth", dino_backbone)


def test_a_backbone_of_another_image_size_answers_as_dino_would_for_that_size(tmp_path) -> None:
    state, x = random_like(small_vit()), torch.randn(2, 3, 48, 48)
    torch.save(state, tmp_path / "a.pth")
    small, large = small_vit(), small_vit(image_size=48)
    load(small, tmp_path / "a.pth", dino_backbone)
    load(large, tmp_path / "a.pth", dino_backbone)
    torch.testing.assert_close(large(x), small(x))
    assert torch.equal(large.pos_embed, resample_positions(state["pos_embed"], (4, 4), (6, 6), STRETCH))


def test_a_file_with_one_network_starts_student_and_teacher_alike(tmp_path) -> None:
    net = small_dino()
    state = {key.removeprefix("teacher."): v for key, v in random_like(net).items() if key.startswith("teacher.")}
    torch.save({"teacher": state}, tmp_path / "a.pth")
    net.centre.fill_(1)
    load(net, tmp_path / "a.pth", dino)
    for branch in (net.student, net.teacher):
        assert all(torch.equal(value, state[key]) for key, value in branch.state_dict().items())
    assert not net.centre.any()


def test_our_own_distillation_is_taken_up_again(tmp_path) -> None:
    net, state = small_dino(), random_like(small_dino())
    torch.save({"state_dict": {f"objective.{key}": value for key, value in state.items()}}, tmp_path / "own.ckpt")
    load(net, tmp_path / "own.ckpt", dino)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    backbone, head = small_vit(), Head(16, 6, hidden=8, bottleneck=4)
    load(backbone, tmp_path / "own.ckpt", dino_backbone)
    load(head, tmp_path / "own.ckpt", dino_head)
    assert torch.equal(backbone.norm.weight, state["teacher.backbone.norm.weight"])
    assert torch.equal(head.last_layer.weight_v, state["teacher.head.last_layer.weight_v"])


def test_a_head_under_torchs_newer_names_is_the_same_head(tmp_path) -> None:
    ours, net = Head(16, 6, hidden=8, bottleneck=4), Head(16, 6, hidden=8, bottleneck=4)
    state = random_like(ours)
    newer = {key: value for key, value in state.items() if key.startswith("mlp.")} | {
        "last_layer.parametrizations.weight.original0": state["last_layer.weight_g"],
        "last_layer.parametrizations.weight.original1": state["last_layer.weight_v"],
    }
    torch.save({"teacher": {f"head.{key}": value for key, value in newer.items()}}, tmp_path / "a.pth")
    load(net, tmp_path / "a.pth", dino_head)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("net", [DSMIL(8, 2), DSMIL(8, 1, query="mlp", value="identity"), ABMIL(8, 3, hidden=4)])
def test_bag_networks_load_flat_files_and_our_own(tmp_path, net) -> None:
    for prefix in ("", "module.", "net."):
        state = random_like(net, seed=len(prefix))
        torch.save({f"{prefix}{key}": value for key, value in state.items()}, tmp_path / "a.pth")
        load(net, tmp_path / "a.pth", bag_network)
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_a_bag_network_of_another_form_is_refused(tmp_path) -> None:
    torch.save(DSMIL(8, 1).state_dict(), tmp_path / "old.pth")
    said = complaint(DSMIL(8, 1, query="mlp", value="identity"), tmp_path / "old.pth", bag_network)
    assert "b_classifier.q.0.weight" in said and "b_classifier.v.1.weight" in said
    assert "of another shape" in complaint(DSMIL(16, 1), tmp_path / "old.pth", bag_network)
