"""What this machine can do for medvit, and what to install where it cannot."""

import importlib.util
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from medvit import NOTICE, __version__

PACKAGES = ("torch", "lightning", "jsonargparse", "numpy", "pydicom", "pillow", "safetensors", "torchmetrics")
SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203",
)  # fmt: skip
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
    decoders = {UID(syntax).name: get_decoder(UID(syntax)).is_available for syntax in SYNTAXES}
    missing = [name for name, available in decoders.items() if not available]
    return {
        "medvit": __version__,
        "python": platform.python_version(),
        "versions": versions,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "fast bf16": _fast_bf16(),
        "transfer syntaxes": {name: "yes" if available else "no decoder" for name, available in decoders.items()},
        "advice": [f"`pip install medvit[codecs]` decodes {len(missing)} more transfer syntaxes."] if missing else [],
        "problems": problems,
        "notice": NOTICE,
    }


def _fast_bf16() -> bool:
    """Whether bf16 arithmetic is faster than fp32 here, so that ``precision: bf16-mixed`` is worth it."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))


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
