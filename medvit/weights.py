"""Foreign and own weights: read safely, rename by literal tables, load strictly.

Files are only ever opened as data (``weights_only=True`` or safetensors). An adapter turns one published layout into
the names of our modules; what is left over or missing afterwards is an error that names every key.
"""

import argparse
import hashlib
import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medvit.atomic import whole
from medvit.errors import MedvitError
from medvit.nets.video_vit import VideoViT
from medvit.nets.vit import STRETCH, ViT, resample_positions
from medvit.pickled import read_pickled

State = dict[str, Tensor]
Adapter = Callable[[State, nn.Module], State]

# Everything that torch and safetensors were seen to raise on damaged files.
DAMAGE = (
    SafetensorError, struct.error, RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, AttributeError,
    AssertionError, ArithmeticError, MemoryError,
)  # fmt: skip
# Where published files keep their weights, most specific first.
CONTAINERS = ("model", "module", "state_dict")
PARTS = ("student", "teacher", "dino_loss", "ibot_loss")  # of one training, side by side in DINO and iBOT files
DECODER = ("mask_token", "decoder_")
# Where a backbone lies, most wanted first.
BACKBONES = (
    "objective.teacher.backbone.", "teacher.backbone.", "student.backbone.", "teacher.", "student.", "backbone.", "encoder.",
)  # fmt: skip
VIDEO_ENCODERS = ("objective.encoder.", "encoder.", "net.", "backbone.")
ERDES_PARTS = ("enc.", "model.", "cls.")
UNUSED = re.compile(
    r"cross_attn|^enc\.(decoder\d|out\.|out_tr|up_tr|upcat_|final_conv|fc\.|last_linear\.)"
)  # of MONAI's
VIDEO_BODY = ("patch_embed.", "blocks.")  # of a video encoder, what a fine-tuned network takes over
MASK_TOKEN = "masked_embed"  # of iBOT's student, in its backbone
CENTRES = {"center": "centre", "center2": "patch_centre"}
# torch's newer names of a weight-normalised layer
RENAMED = {
    f"head.{layer}.parametrizations.weight.original{number}": f"head.{layer}.weight_{letter}"
    for layer in ("last_layer", "last_layer2")
    for number, letter in enumerate("gv")
}


def read_file(path: Path) -> dict[str, Any]:
    """The content of a checkpoint as plain data.

    Args:
        path: A ``.safetensors`` file, or a ``.pth`` / ``.pt`` / ``.ckpt`` file of tensors and plain types; an
            ``argparse.Namespace``, as the MAE releases save it, is allowed.

    Raises:
        MedvitError: When the file is missing, damaged or holds anything that could run code.
    """
    if path.is_dir():
        raise MedvitError(f"{path} is a folder. Name the file of weights in it, such as best.ckpt.")
    if not path.is_file():
        raise MedvitError(f"The weights {path} are not there. Train them first or give another path.")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is None:
            raise MedvitError(f"The weights {path} cannot be read: not a checkpoint, or damaged.") from error
        raise MedvitError(
            f"The weights {path} hold an object of type {named[1]}, which could run code, so they were not opened. "
            "Ask for the file as safetensors or as a plain state dict."
        ) from error
    except DAMAGE as error:
        raise MedvitError(f"The weights {path} cannot be read: not a checkpoint, or damaged.") from error
    if not isinstance(content, dict):
        raise MedvitError(f"The weights {path} hold a {type(content).__name__}, not named tensors.")
    return content


def read_state(path: Path, pickled: bool = False) -> State:
    """The named tensors of a checkpoint, unpacked from the container that published files put around them.

    With ``pickled``, also those of a file that holds objects beside them, see `medvit.pickled`.

    Of a DINO or iBOT training every part's tensors come, under ``student.``, ``teacher.`` and ``dino_loss.`` or
    ``ibot_loss.``.
    """
    content = read_pickled(path) if pickled and path.suffix != ".safetensors" else read_file(path)
    parts = [part for part in PARTS if isinstance(content.get(part), Mapping)]
    if parts:
        content = {f"{part}.{name.removeprefix('module.')}": v for part in parts for name, v in content[part].items()}
    for name in CONTAINERS:
        if isinstance(content.get(name), Mapping):
            content = dict(content[name])
            break
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise MedvitError(f"The weights {path} hold no tensors under {', '.join(CONTAINERS)} or at the top.")
    return {name.removeprefix("module."): value for name, value in state.items()}


def load(module: nn.Module, path: Path, adapt: Adapter, new: Sequence[str] = (), pickled: bool = False) -> None:
    """Load weights into a module, strictly.

    Args:
        module: Receives the weights; nothing is changed when they do not fit.
        path: The file, see `read_file`.
        adapt: Turns the file's names into the module's: `mae`, `mae_encoder`, `vit_classifier`, `dino`, `dino_backbone`,
            `ibot_teacher`, `dino_head`, `bag_network`, `videomae`, `videomae_encoder`, `video_classifier` or `erdes`.
        new: Prefixes of the module's keys that keep their fresh initialisation, such as a new head.
        pickled: Whether the file may hold objects beside its tensors, which then count for nothing.

    Raises:
        MedvitError: Naming every missing, unexpected and wrongly shaped key.
    """
    fit(module, adapt(read_state(path, pickled), module), str(path), new)


def fit(module: nn.Module, state: State, source: str, new: Sequence[str] = ()) -> None:
    """Copy named tensors into a module, strictly; see `load`."""
    own = module.state_dict()
    wanted = {key for key in own if not key.startswith(tuple(new))}
    missing = sorted(wanted - state.keys())
    unexpected = sorted(state.keys() - wanted)
    shapes = [f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}" for key in sorted(wanted & state.keys())
              if state[key].shape != own[key].shape]  # fmt: skip
    problems = [f"{len(keys)} {what}: {', '.join(keys)}" for what, keys in
                (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)) if keys]  # fmt: skip
    if problems:
        raise MedvitError(f"The weights {source} do not fit {type(module).__name__}. Keys {'; '.join(problems)}.")
    module.load_state_dict({**own, **state})


def mae(state: State, module: nn.Module) -> State:
    """MAE and medical_mae pre-training files -> `MAE`: their encoder keys are flat, ours lie under ``encoder``."""
    own = under("objective.", state)
    return own or {key if key.startswith(DECODER) else f"encoder.{key}": value for key, value in state.items()}


def mae_encoder(state: State, module: nn.Module) -> State:
    """MAE pre-training files, ours or theirs -> a `ViT` to fine-tune.

    The decoder is left behind and, under mean pooling, the encoder's ``norm``: ``fc_norm`` starts afresh, as in the
    release. Positions are resampled to the network's grid.
    """
    state = under("objective.encoder.", state) or {k: v for k, v in state.items() if not k.startswith(DECODER)}
    if isinstance(module, ViT) and module.pool == "mean":
        state = {key: value for key, value in state.items() if not key.startswith("norm.")}
    return resampled(state, module)


def vit_classifier(state: State, module: nn.Module) -> State:
    """Fine-tuned MAE and medical_mae files, or our systems' checkpoints -> a `ViT` with its head."""
    return resampled(under("net.", state) or state, module)


def dino(state: State, module: nn.Module) -> State:
    """DINO and iBOT training files, theirs or ours -> a `DINO` or `IBOT`.

    Of a file with one network only, student and teacher both start as it. The centre is the file's, or starts at zero.
    """
    own = under("objective.", state)
    if own:
        return own
    one = {key: value for key, value in state.items() if key.startswith(("backbone.", "head."))}
    student = under("student.", state) or one or under("teacher.", state)
    teacher = under("teacher.", state) or student
    loss = under("dino_loss.", state) or under("ibot_loss.", state)
    fresh = {key: torch.zeros_like(value) for key, value in module.state_dict().items() if key in CENTRES.values()}
    return (
        fresh
        | {CENTRES.get(key, key): value for key, value in loss.items()}
        | {f"student.{key}": value for key, value in branch(student).items()}
        | {f"teacher.{key}": value for key, value in branch(teacher).items()}
        | {key: value for key, value in under("backbone.", student).items() if key == MASK_TOKEN}
    )


def branch(state: State) -> State:
    """A student or teacher under our names: without the mask token, and without names for tensors that stand twice."""
    state = {RENAMED.get(key, key): value for key, value in state.items() if key != f"backbone.{MASK_TOKEN}"}
    first, second = (under(f"head.{layer}.", state) for layer in ("last_layer", "last_layer2"))
    shared = first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    return {key: value for key, value in state.items() if not (shared and key.startswith("head.last_layer2."))}


def dino_backbone(state: State, module: nn.Module) -> State:
    """DINO, iBOT, Self-ViT-MIL and CytoFM files, or our pre-training -> a `ViT` without a head.

    The teacher's backbone where there are two, flat files as they are. Positions of another image size are resampled as
    DINO does for such images.
    """
    found = next(filter(None, (under(prefix, state) for prefix in BACKBONES)), state)
    return resampled({key: value for key, value in found.items() if key != MASK_TOKEN}, module, STRETCH)


def ibot_teacher(state: State, module: nn.Module) -> State:
    """CytoFM and iBOT files, or our pre-training -> a `ViT` without a head; the teacher's backbone, never the student's.

    Raises:
        MedvitError: For a file that holds the student alone.
    """
    of_student = f"backbone.{MASK_TOKEN}" in state or any(key.startswith("student.") for key in state)
    if of_student and not under("teacher.", state):
        raise MedvitError(
            "The weights are those of iBOT's student; CytoFM describes cells by the teacher. Give the whole checkpoint, or the "
            "part that it keeps under 'teacher'."
        )
    return dino_backbone(state, module)


def dino_head(state: State, module: nn.Module) -> State:
    """The projection head of DINO files, the teacher's where there are two -> a `medvit.nets.dino.Head`."""
    prefixes = ("objective.teacher.head.", "teacher.head.", "student.head.", "head.")
    found = next(filter(None, (under(prefix, state) for prefix in prefixes)), state)
    return under("head.", branch({f"head.{key}": value for key, value in found.items()}))


def bag_network(state: State, module: nn.Module) -> State:
    """DSMIL, Self-ViT-MIL and ABMIL files, or our systems' checkpoints -> a network of `medvit.nets.mil`."""
    return under("net.", state) or state


def videomae(state: State, module: nn.Module) -> State:
    """VideoMAE and VideoMAE V2 pre-training files, theirs or ours -> a `VideoMAE`."""
    return one_bias(under("objective.", state) or state)


def videomae_encoder(state: State, module: nn.Module) -> State:
    """VideoMAE pre-training, fine-tuned and distilled files, theirs or ours -> a `VideoViT` to fine-tune.

    The decoder and every head stay behind, and the last norm: ``fc_norm`` starts afresh. Positions are computed, never
    loaded. A network of one channel takes the sum over the file's three, which is what it would see in grey clips.
    """
    found = next(filter(None, (under(prefix, state) for prefix in VIDEO_ENCODERS)), state)
    body = one_bias({key: value for key, value in found.items() if key.startswith(VIDEO_BODY)})
    patches = "patch_embed.proj.weight"
    if isinstance(module, VideoViT) and module.patch_embed.proj.in_channels == 1 and patches in body:
        body[patches] = body[patches].sum(dim=1, keepdim=True)
    return body


def video_classifier(state: State, module: nn.Module) -> State:
    """Fine-tuned VideoMAE files, or our systems' checkpoints -> a `VideoViT` with its head."""
    return one_bias(under("net.", state) or under("backbone.", state) or state)


def erdes(state: State, module: nn.Module) -> State:
    """ERDES files, old and new, or our systems' checkpoints -> a network of `medvit.nets.clip3d`.

    Decoders of full MONAI networks stay behind, and so do cross-attention weights, which MONAI's versions save or not and
    these networks never use.
    """
    own, found = module.state_dict(), under("net.", state) or state
    if not any(key.startswith(ERDES_PARTS) for key in found):  # the oldest files
        whole = any(key.startswith("model.") for key in own)
        found = {f"{'model.' if whole else 'cls.' if key.startswith('fc') else 'enc.'}{key}": value
                 for key, value in found.items()}  # fmt: skip
    named = {f"enc.{key}" if key.startswith("classification_head.") else key: value for key, value in found.items()}
    kept = {key: value for key, value in named.items() if not UNUSED.search(key)}
    return kept | {key: value for key, value in own.items() if "cross_attn" in key}


def one_bias(state: State) -> State:
    """Query and value biases of the VideoMAE releases as one bias of all three; keys have none, which is a bias of 0."""
    joined = {key: value for key, value in state.items() if not key.endswith((".q_bias", ".v_bias"))}
    for key, queries in state.items():
        if key.endswith(".q_bias"):
            values = state.get(f"{key.removesuffix('q_bias')}v_bias", queries)
            joined[f"{key.removesuffix('q_bias')}qkv.bias"] = torch.cat([queries, torch.zeros_like(queries), values])
    return joined


def under(prefix: str, state: State) -> State:
    """The part of a state whose keys begin with a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def resampled(state: State, module: nn.Module, stretch: float = 0.0) -> State:
    """The state with positions resampled to a `ViT`'s own square grid where the file's differs, see `resample_positions`."""
    positions = state.get("pos_embed")
    if not isinstance(module, ViT) or positions is None or positions.shape == module.pos_embed.shape:
        return state
    side = round((positions.shape[1] - 1) ** 0.5)
    if side * side != positions.shape[1] - 1 or positions.shape[2] != module.width:
        return state  # another width: `fit` names it
    return {**state, "pos_embed": resample_positions(positions, (side, side), module.grid, stretch)}


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            sha.update(block)
    return sha.hexdigest()


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors, in hex."""
    sha = hashlib.sha256()
    for name in sorted(state):
        sha.update(name.encode())
        sha.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def read_own(path: Path) -> tuple[dict[str, Any], State]:
    """What one of our checkpoints says of itself (system, version, arguments), and its tensors.

    Raises:
        MedvitError: When the file is no checkpoint that ``medvit train`` wrote.
    """
    card = None
    if path.suffix == ".safetensors":
        state = read_state(path)
        with safe_open(path, "pt") as file, suppress(json.JSONDecodeError):
            card = json.loads((file.metadata() or {}).get("medvit", "null"))
    else:
        content = read_file(path)
        card, state = content.get("medvit"), dict(content.get("state_dict", {}))
    if not isinstance(card, dict) or not isinstance(card.get("arguments"), dict):
        raise MedvitError(
            f"{path} is no checkpoint of a medvit system. Published weights are not answered with directly: "
            "name them as system.weights in a workflow and train."
        )
    return card, state


def told_by(path: Path) -> Mapping[str, Any]:
    """What a checkpoint of ours says of itself; nothing for other files."""
    with suppress(MedvitError):
        return read_own(path)[0]
    return {}


def release(checkpoint: Path, path: Path) -> None:
    """Write a checkpoint's weights and card as safetensors: what one hands on, without optimiser and history."""
    card, state = read_own(checkpoint)
    with whole(path) as part:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, part, {"medvit": json.dumps(card)})
