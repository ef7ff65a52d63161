"""What this machine can do for medvit, and what to install where it cannot."""

import importlib.util
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from pydicom.uid import UID

from medvit import NOTICE, __version__
from medvit.readers.codecs import CODECS
from medvit.readers.pixels import NATIVE, available

PACKAGES = ("torch", "lightning", "jsonargparse", "numpy", "pydicom", "pillow", "safetensors", "torchmetrics")
BAD_RELEASES = {"lightning": ("2.6.2", "2.6.3")}  # malicious uploads of April 2026


def examine() -> dict[str, Any]:
    """Versions, arithmetic, decoders by transfer syntax, and problems with what to do about them."""
    problems = []
    if importlib.util.find_spec("torchvision"):
        problems.append(
            "torchvision is installed; beside this torch it breaks lightning. Run `pip uninstall torchvision`."
        )
    versions = {name: _version(name) for name in PACKAGES}
    for name, bad in BAD_RELEASES.items():
        if versions[name] in bad:
            problems.append(f"{name} {versions[name]} is a malicious release. Install the version in constraints.txt.")
    decoders = {UID(syntax).name: available(syntax) for syntax in (*NATIVE, *CODECS)}
    missing = [name for name, available in decoders.items() if not available]
    return {
        "medvit": __version__,
        "python": platform.python_version(),
        "versions": versions,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "fast bf16": precision("cuda" if torch.cuda.is_available() else "cpu") == "bf16",
        "transfer syntaxes": {name: "yes" if available else "no decoder" for name, available in decoders.items()},
        "advice": [f"`pip install medvit[codecs]` decodes {len(missing)} more transfer syntaxes."] if missing else [],
        "problems": problems,
        "notice": NOTICE,
    }


def precision(device: str) -> str:
    """``bf16`` where a device is faster at half-precision arithmetic than at ``32``, else that."""
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported() else "32"
    capabilities = torch.cpu.get_capabilities()
    fast = any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))
    return "bf16" if device == "cpu" and fast else "32"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def text(told: dict[str, Any]) -> str:
    """The examination as lines for a person."""
    lines = []
    for name, value in told.items():
        if isinstance(value, dict):
            lines += [f"{name}:", *(f"  {key:<60} {one}" for key, one in value.items())]
        else:
            lines.append(f"{name}: {'; '.join(value) or 'none'}" if isinstance(value, list) else f"{name}: {value}")
    return "\n".join(lines)
