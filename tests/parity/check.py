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

from medvit import weights
from medvit.nets.mae import MAE
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


KINDS: dict[str, Callable[[Mapping[str, Any], Tensors, Tensors], Tensors]] = {
    "mae_pretrain": mae_pretrain,
    "vit_classifier": vit_classifier,
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
    wanted = {name: parts["output"].get(name, torch.zeros(())) for name in computed}
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
