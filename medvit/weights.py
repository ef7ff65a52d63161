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
from medvit.nets.vit import ViT, resample_positions

State = dict[str, Tensor]
Adapter = Callable[[State, nn.Module], State]

# Everything that torch and safetensors were seen to raise on damaged files.
DAMAGE = (
    SafetensorError, struct.error, RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, AttributeError,
    AssertionError, ArithmeticError, MemoryError,
)  # fmt: skip
# Where published files keep their weights, most specific first.
CONTAINERS = ("model", "state_dict")
DECODER = ("mask_token", "decoder_")


def read_file(path: Path) -> dict[str, Any]:
    """The content of a checkpoint as plain data.

    Args:
        path: A ``.safetensors`` file, or a ``.pth`` / ``.pt`` / ``.ckpt`` file of tensors and plain types; an
            ``argparse.Namespace``, as the MAE releases save it, is allowed.

    Raises:
        MedvitError: When the file is missing, damaged or holds anything that could run code.
    """
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


def read_state(path: Path) -> State:
    """The named tensors of a checkpoint, unpacked from the container that published files put around them."""
    content = read_file(path)
    for name in CONTAINERS:
        if isinstance(content.get(name), Mapping):
            content = dict(content[name])
            break
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise MedvitError(f"The weights {path} hold no tensors under {', '.join(CONTAINERS)} or at the top.")
    return {name.removeprefix("module."): value for name, value in state.items()}


def load(module: nn.Module, path: Path, adapt: Adapter, new: Sequence[str] = ()) -> None:
    """Load weights into a module, strictly.

    Args:
        module: Receives the weights; nothing is changed when they do not fit.
        path: The file, see `read_file`.
        adapt: Turns the file's names into the module's: `mae`, `mae_encoder` or `vit_classifier`.
        new: Prefixes of the module's keys that keep their fresh initialisation, such as a new head.

    Raises:
        MedvitError: Naming every missing, unexpected and wrongly shaped key.
    """
    fit(module, adapt(read_state(path), module), str(path), new)


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


def under(prefix: str, state: State) -> State:
    """The part of a state whose keys begin with a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def resampled(state: State, module: nn.Module) -> State:
    """The state with positions resampled to a `ViT`'s own square grid where the file's differs."""
    positions = state.get("pos_embed")
    if not isinstance(module, ViT) or positions is None or positions.shape == module.pos_embed.shape:
        return state
    side = round((positions.shape[1] - 1) ** 0.5)
    if side * side != positions.shape[1] - 1 or positions.shape[2] != module.width:
        return state  # another width: `fit` names it
    return {**state, "pos_embed": resample_positions(positions, (side, side), module.grid)}


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            sha.update(block)
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


def release(checkpoint: Path, path: Path) -> None:
    """Write a checkpoint's weights and card as safetensors: what one hands on, without optimiser and history."""
    card, state = read_own(checkpoint)
    with whole(path) as part:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, part, {"medvit": json.dumps(card)})
