"""Weights of SAM's network, as Meta, MedSAM and transformers publish them: one adapter beside those of `medvit.weights`."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from medvit.errors import MedvitError
from medvit.nets.sam import Pixels
from medvit.nets.sam_encoder import resample_map, resample_relative
from medvit.weights import State, read_file, under

# transformers' names within SAM, as patterns, and SAM's own, one after the other
TRANSFORMERS_SAM = (
    (r"^vision_encoder\.", "image_encoder."), (r"^image_encoder\.layers\.", "image_encoder.blocks."),
    (r"patch_embed\.projection", "patch_embed.proj"),
    (r"neck\.conv1", "neck.0"), (r"neck\.layer_norm1", "neck.1"), (r"neck\.conv2", "neck.2"), (r"neck\.layer_norm2", "neck.3"),
    (r"mask_embed\.conv1", "mask_downscaling.0"), (r"mask_embed\.layer_norm1", "mask_downscaling.1"),
    (r"mask_embed\.conv2", "mask_downscaling.3"), (r"mask_embed\.layer_norm2", "mask_downscaling.4"),
    (r"mask_embed\.conv3", "mask_downscaling.6"), (r"\.point_embed\.", ".point_embeddings."),
    (r"shared_embedding\.positional_embedding", "pe_layer.positional_encoding_gaussian_matrix"),
    (r"upscale_conv1", "output_upscaling.0"), (r"upscale_layer_norm", "output_upscaling.1"),
    (r"upscale_conv2", "output_upscaling.3"), (r"layer_norm(\d|_final_attn)", r"norm\1"),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.0", r"\1.layers.1"),
    (r"(mlps\.\d|iou_prediction_head)\.proj_in", r"\1.layers.0"),
    (r"(mlps\.\d|iou_prediction_head)\.proj_out", r"\1.layers.2"),
)  # fmt: skip
# What published files of SAM's network were trained on: MedSAM's first on SAM's statistics, its later ones on 0 to 1.
SAM_FILES: dict[str, Pixels] = {"sam_vit_b": "sam", "medsam_20230423": "sam", "medsam_vit_b": "medsam"}


def sam(state: State, module: nn.Module) -> State:
    """SAM and MedSAM files, or our systems' checkpoints -> a `medvit.nets.sam.Sam`.

    Files of transformers' `SamModel`, such as MedSAM's on the hub, have other names for the same tensors. Positions and
    relative positions are resampled to the network's image size where the file's differs.
    """
    state = under("net.", state) or state
    if any(key.startswith("vision_encoder.") for key in state):
        state = {sam_name(key): value for key, value in state.items() if not key.startswith("shared_image_embedding.")}
    own = module.state_dict()
    resampled = {}
    for key, value in state.items():
        wanted = own[key].shape if key in own else value.shape
        if key.endswith(".pos_embed") and value.ndim == 4:
            resampled[key] = resample_map(value, (wanted[1], wanted[2]))
        elif ".rel_pos_" in key and value.ndim == 2:
            resampled[key] = resample_relative(value, wanted[0])
    return state | resampled


def sam_name(key: str) -> str:
    """SAM's own name of a tensor of transformers' `SamModel`."""
    for theirs, ours in TRANSFORMERS_SAM:
        key = re.sub(theirs, ours, key)
    return key


def sam_pixels(path: Path) -> Pixels:
    """How a SAM or MedSAM file wants its pixels, see `medvit.nets.sam.normalise`; the weights themselves do not say.

    The published files are known by their names, MedSAM's trainings by the ``model`` that they keep beside the optimiser.

    Raises:
        MedvitError: When neither tells.
    """
    for name, pixels in SAM_FILES.items():
        if path.name.lower().startswith(name):
            return pixels
    if isinstance(read_file(path).get("model"), Mapping):
        return "medsam"
    raise MedvitError(
        f"The weights {path} do not say how pixels were scaled in their training. Say pixels: sam for SAM's statistics, as "
        "SAM and MedSAM of April 2023 have it, or pixels: medsam for 0 to 1."
    )
