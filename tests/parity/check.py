"""Compare our networks with golden vectors: ``python tests/parity/check.py FILE…``.

A file holds ``state/<key>`` weights under official names, ``input/<name>`` and ``output/<name>`` tensors, and as metadata
the ``kind`` and a JSON ``config``. Each kind has one function here that builds the network from the config, loads the
weights through the adapter a user would use and returns what it computes. One line is printed a compared output; the exit
code is 1 where any differs by more than 1e-4, 2 where a file is of an unknown kind.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medvit import weights, weights_sam
from medvit.nets.dino import Head, move_centre, soften, view_loss
from medvit.nets.ibot import IBOT, hidden_loss
from medvit.nets.mae import MAE
from medvit.nets.mil import ABMIL, DSMIL, BagAnswer
from medvit.nets.sam import Sam
from medvit.nets.sam_decoder import MaskDecoder
from medvit.nets.sam_encoder import SamEncoder
from medvit.nets.sam_prompt import PromptEncoder
from medvit.nets.video_vit import VideoViT
from medvit.nets.videomae import VideoMAE
from medvit.nets.vit import ViT, cut_patches, sincos_positions

TOLERANCE = 1e-4
Tensors = dict[str, Tensor]


def vit_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "image_size": config["img_size"],
        "patch": config["patch_size"],
        "width": config["embed_dim"],
        "depth": config["depth"],
        "heads": config["num_heads"],
        "mlp_ratio": config.get("mlp_ratio", 4.0),
        "channels": config.get("in_chans", 3),
    }


def through_adapter(module: nn.Module, state: Tensors, adapt: weights.Adapter) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "official.safetensors"
        save_file(state, path)
        weights.load(module, path, adapt)
    module.eval()


def mae_pretrain(config: Mapping[str, Any], state: Tensors, given: Tensors) -> Tensors:
    encoder = ViT(**vit_sizes(config), learn_positions=False)
    net = MAE(
        encoder,
        config["mask_ratio"],
        decoder_width=config["decoder_embed_dim"],
        decoder_depth=config["decoder_depth"],
        decoder_heads=config["decoder_num_heads"],
        normalise_targets=config["norm_pix_loss"],
    )
    built = (
        sincos_positions(config["embed_dim"], encoder.grid),
        sincos_positions(config["decoder_embed_dim"], encoder.grid),
    )
    through_adapter(net, state, weights.mae)
    out = net.reconstruct(given["images"], given["noise"])
    channels = config["in_chans"]
    patches = cut_patches(given["images"], config["patch_size"]).unflatten(2, (channels, -1)).transpose(2, 3).flatten(2)
    return {
        "loss": net(given["images"], given["noise"])["loss"],
        "pred": out["prediction"],
        "mask": out["mask"],
        "ids_restore": out["restore"],
        "latent": out["latent"],
        "patches": patches,
        "built pos_embed": built[0] - state["pos_embed"],
        "built decoder_pos_embed": built[1] - state["decoder_pos_embed"],
    }


def vit_classifier(config: Mapping[str, Any], state: Tensors, given: Tensors) -> Tensors:
    pool = "mean" if config["global_pool"] else "class"
    net = ViT(**vit_sizes(config), classes=config["num_classes"], pool=pool)
    through_adapter(net, state, weights.vit_classifier)
    return {"features": net.features(given["images"]), "logits": net(given["images"])}


def head_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "hidden": config["hidden_dim"],
        "bottleneck": config["bottleneck_dim"],
        "layers": config.get("nlayers", 3),
        "fixed_length": config.get("norm_last_layer", True),
    }


def dino_vit(config: Mapping[str, Any], state: Tensors, given: Tensors) -> Tensors:
    net = ViT(**vit_sizes(config))
    through_adapter(net, state, weights.dino_backbone)
    images, other = given["images"], given["images_other_size"]
    return {
        "features": net(images),
        "features_other_size": net(other),
        "intermediate_last2": torch.stack(net.tokens(images, last=2)),
        "last_attention": net.attention(images)[-1],
        "last_attention_other_size": net.attention(other)[-1],
    }


def dino_head(config: Mapping[str, Any], state: Tensors, given: Tensors) -> Tensors:
    head = Head(config["in_dim"], config["out_dim"], **head_sizes(config))
    through_adapter(head, state, weights.dino_head)
    return {"logits": head(given["x"])}


def dino_loss(config: Mapping[str, Any], state: Tensors, given: Tensors) -> Tensors:
    centre = given["center"]
    student = given["student"].unflatten(0, (config["ncrops"], -1))
    teacher = given["teacher"].unflatten(0, (config["global_crops"], -1))
    targets = soften(teacher, centre, config["teacher_temp"])
    moved = centre.clone()
    move_centre(moved, teacher.mean(dim=(0, 1)), config["center_momentum"])
    return {"loss": view_loss(student, targets, config["student_temp"]), "center_after": moved}


def ibot_network(config: Mapping[str, Any], state: Tensors, given: Tensors) -> Tensors:
    patch_out = None if config["shared_head"] else config["patch_out_dim"]
    head = Head(config["embed_dim"], config["out_dim"], patch_out=patch_out, **head_sizes(config))
    net = IBOT(ViT(**vit_sizes(config)), head)
    through_adapter(net, state, weights.dino)
    masked = net.tokens(given["images"], given["mask"].flatten(1))
    head = net.student.head
    return {
        "cls_logits": head(masked[:, 0]),
        "patch_logits": head.of_patches(head.directions(masked[:, 1:])),
        "tokens": net.encoder.tokens(given["images"])[-1],
        "tokens_masked": masked,
    }


def ibot_loss(config: Mapping[str, Any], state: Tensors, given: Tensors) -> Tensors:
    batch, mask = config["batch"], given["mask"].flatten(0, 1).flatten(1)  # (G*B, N)
    teacher, patches = given["teacher_cls"].unflatten(0, (-1, batch)), given["teacher_patch"]
    student = torch.cat([given["student_cls_global"], given["student_cls_local"]]).unflatten(0, (-1, batch))
    centre, patch_centre = given["center_cls"].clone(), given["center_patch"].clone()
    temperature = config["student_temp"]
    targets = soften(teacher, centre, config["teacher_temp"])
    patch_targets = soften(patches, patch_centre, config["teacher_patch_temp"])[mask]
    of_classes = config["lambda1"] * view_loss(student, targets, temperature)
    of_patches = config["lambda2"] * hidden_loss(given["student_patch"][mask], patch_targets, mask, temperature)
    move_centre(centre, teacher.mean(dim=(0, 1)), config["center_momentum"])
    move_centre(patch_centre, patches.mean(dim=(0, 1)), config["center_momentum_patch"])
    return {
        "loss": of_classes + of_patches,
        "loss_cls": of_classes,
        "loss_patch": of_patches,
        "center_cls_after": centre,
        "center_patch_after": patch_centre,
    }


def of_one_bag(answer: BagAnswer) -> Tensors:
    """An answer for a batch of one bag, as the releases give it."""
    told = {"attention": answer.attention[0], "bag_embedding": answer.embedding, "bag_logits": answer.logits}
    return told if answer.instances is None else told | {"instance_logits": answer.instances[0]}


def dsmil_self_vit(config: Mapping[str, Any], state: Tensors, given: Tensors) -> Tensors:
    net = DSMIL(config["input_size"], config["num_classes"], query="linear", value="linear")
    through_adapter(net, state, weights.bag_network)
    return of_one_bag(net(given["bag"][None]))


def dsmil(config: Mapping[str, Any], state: Tensors, given: Tensors) -> Tensors:
    query = "mlp" if config["nonlinear"] else "linear"
    value = "relu" if config["passing_v"] else "identity"
    net = DSMIL(config["input_size"], config["num_classes"], query=query, value=value)
    through_adapter(net, state, weights.bag_network)
    return of_one_bag(net(given["bag"][None]))


def gated_abmil(config: Mapping[str, Any], state: Tensors, given: Tensors) -> Tensors:
    net = ABMIL(config["input_size"], config["num_classes"], hidden=config["attention_dim"])
    through_adapter(net, state, weights.bag_network)
    return of_one_bag(net(given["bag"][None]))


def video_sizes(config: Mapping[str, Any], part: str = "") -> dict[str, Any]:
    return {
        "frames": config["frames"],
        "image_size": config["img_size"],
        "patch": config["patch_size"],
        "tubelet": config["tubelet_size"],
        "width": config[f"{part}embed_dim"],
        "depth": config[f"{part}depth"],
        "heads": config[f"{part}num_heads"],
        "mlp_ratio": config.get("mlp_ratio", 4.0),
        "channels": config.get("in_chans", 3),
    }


def videomae_pretrain(config: Mapping[str, Any], state: Tensors, given: Tensors) -> Tensors:
    net = VideoMAE(
        VideoViT(**video_sizes(config, "encoder_"), pool="none"),
        decoder_width=config["decoder_embed_dim"],
        decoder_depth=config["decoder_depth"],
        decoder_heads=config["decoder_num_heads"],
        mlp_ratio=config.get("mlp_ratio", 4.0),
    )
    through_adapter(net, state, weights.videomae)
    hidden, unit = given["mask"].bool().flatten(1), given["clips_unit_range"]
    painted = ~given["decode_mask"].bool().flatten(1) if "decode_mask" in given else None
    told = net.measure(given["clips"], unit, hidden, painted)
    return {"loss": told["loss"], "pred": told["prediction"], "targets": told["target"]}


def videomae_classifier(config: Mapping[str, Any], state: Tensors, given: Tensors) -> Tensors:
    net = VideoViT(**video_sizes(config), classes=config["num_classes"])
    through_adapter(net, state, weights.video_classifier)
    return {"features": net.features(given["clips"]), "logits": net(given["clips"])}


def sam(config: Mapping[str, Any], state: Tensors, given: Tensors) -> Tensors:
    sizes = {**vit_sizes(config | {"img_size": config["image_size"]}), "out": config["out_chans"]}
    del sizes["channels"]
    encoder = SamEncoder(**sizes, everywhere=config["global_attn_indexes"], window=config["window_size"])
    channels = config["prompt_embed_dim"]
    decoder = MaskDecoder(
        channels,
        config["decoder_depth"],
        config["decoder_heads"],
        config["decoder_mlp_dim"],
        quality_depth=config["iou_head_depth"],
        quality_hidden=config["iou_head_hidden_dim"],
    )
    prompts = PromptEncoder(channels, config["mask_in_chans"])
    net = Sam(encoder, channels, prompt_encoder=prompts, mask_decoder=decoder)
    through_adapter(net, state, weights_sam.sam)
    embedding = net.embed(given["images"])
    found = {"image_embedding": embedding, "dense_pe": prompts.positions(encoder.grid)}
    side = config["image_size"]
    for n, one in enumerate(embedding.split(1)):
        box, points, labels = (given[name][n : n + 1] for name in ("boxes", "points", "point_labels"))
        found[f"box{n}_sparse"] = prompts.sparse((side, side), box)
        found[f"box{n}_low_res_logits"], found[f"box{n}_iou"] = net.answer(one, box)
        answer = net.answer(one, points=points, labels=labels, several=True)
        found[f"points{n}_low_res_logits"], found[f"points{n}_iou"] = answer
    return found


KINDS: dict[str, Callable[[Mapping[str, Any], Tensors, Tensors], Tensors]] = {
    "mae_pretrain": mae_pretrain,
    "vit_classifier": vit_classifier,
    "dino_vit": dino_vit,
    "dino_head": dino_head,
    "dino_loss": dino_loss,
    "ibot_network": ibot_network,
    "ibot_loss": ibot_loss,
    "dsmil_self_vit": dsmil_self_vit,
    "dsmil": dsmil,
    "gated_abmil": gated_abmil,
    "sam": sam,
    "videomae_pretrain": videomae_pretrain,
    "videomae_classifier": videomae_classifier,
}


def kind_of(path: Path) -> str:
    """The kind that a golden file's metadata names."""
    with safe_open(path, "pt") as file:
        return str(file.metadata()["kind"])


@torch.no_grad()
def errors(path: Path) -> dict[str, float]:
    """Largest absolute error of every output of a golden file; what was only built is compared with zero."""
    parts: dict[str, Tensors] = {"state": {}, "input": {}, "output": {}}
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
        for name in file.keys():  # noqa: SIM118  (no mapping)
            part, key = name.split("/", 1)
            parts[part][key] = file.get_tensor(name)
    computed = KINDS[kind_of(path)](config, parts["state"], parts["input"])
    lacking = parts["output"].keys() - computed.keys()
    if lacking:
        raise KeyError(f"{path}: nothing computes {sorted(lacking)}")
    wanted = {name: parts["output"].get(name, torch.zeros_like(value)) for name, value in computed.items()}
    for name, value in computed.items():
        if value.shape != wanted[name].shape:
            raise ValueError(f"{path}: {name} is {tuple(value.shape)}, not {tuple(wanted[name].shape)}")
    return {name: (computed[name].double() - wanted[name].double()).abs().max().item() for name in computed}


def main(files: list[str]) -> int:
    """Print a line an output; see the module's text for the exit code."""
    code = 0
    for path in map(Path, files):
        kind = kind_of(path)
        if kind not in KINDS:
            print(f"{path.name}  unknown kind {kind!r}; known: {', '.join(KINDS)}")
            code = max(code, 2)
            continue
        for name, error in errors(path).items():
            print(f"{path.stem}/{name}  {error:.2e}")
            code = max(code, int(not error <= TOLERANCE))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
