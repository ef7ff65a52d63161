"""The tensors of a PyTorch checkpoint that pickles whole objects beside them: nothing of it is run or built but tensors.

ERDES's Lightning files hold their networks as objects of modules that nobody else has. Here every name in the file that is
not part of a tensor stands for an empty class, so that a file can neither import nor call anything.

Source: the format of `torch.save` since version 1.6: a zip of ``data.pkl``, ``byteorder`` and one file a storage.
"""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medvit.budgets import GIB
from medvit.errors import MedvitError

STRUCTURE_BYTES = GIB // 4  # of data.pkl
STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


class Nothing:
    """What stands for every object that is no tensor; it takes whatever a file gives it and keeps none of it."""

    def __init__(self, *arguments: Any, **named: Any) -> None: ...
    def __setstate__(self, state: Any) -> None: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...
    def append(self, item: Any) -> None: ...
    def extend(self, items: Any) -> None: ...
    def add(self, item: Any) -> None: ...
    def __hash__(self) -> int:
        return 0

    def __call__(self, *arguments: Any, **named: Any) -> "Nothing":
        return self


def _tensor(
    storage: Tensor | Nothing, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any
) -> Tensor | Nothing:
    if not isinstance(storage, Tensor):
        return Nothing()
    reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if all(size) else 0
    if min((offset, *size, *stride), default=0) < 0 or reach > storage.numel():
        raise ValueError("a tensor reaches beyond its storage")
    return storage.as_strided(size, stride, offset)


def _parameter(data: Any, *rest: Any) -> Any:
    return data


KNOWN: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("collections", "OrderedDict"): OrderedDict,
}


class _Tensors(pickle.Unpickler):
    """Reads a structure of mappings, lists, numbers, texts and tensors."""

    def __init__(self, archive: zipfile.ZipFile, top: str) -> None:
        super().__init__(archive.open(f"{top}/data.pkl"))
        self.archive, self.top = archive, top
        self.read: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        return KNOWN.get((module, name), Nothing)

    def persistent_load(self, told: Any) -> Tensor | Nothing:
        kind, key = told[1:3]  # of the kind of object, its type, its file, its device, its size
        if not isinstance(kind, torch.dtype) or not isinstance(key, str):
            return Nothing()
        if key not in self.read:
            content = bytearray(self.archive.read(f"{self.top}/data/{key}"))
            self.read[key] = torch.frombuffer(content, dtype=kind) if content else torch.empty(0, dtype=kind)
        return self.read[key]


def read_pickled(path: Path) -> dict[str, Any]:
    """The content of a checkpoint whose objects are replaced by `Nothing`; tensors, numbers and texts are as saved.

    Raises:
        MedvitError: When the file is missing, damaged or of another format.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            tops = [
                name.removesuffix("/data.pkl") for name in names if name.count("/") == 1 and name.endswith("/data.pkl")
            ]
            if len(tops) != 1 or any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("not the zip that torch.save writes")
            top = tops[0]
            if archive.getinfo(f"{top}/data.pkl").file_size > STRUCTURE_BYTES:
                raise ValueError("its structure is too large")
            if f"{top}/byteorder" in names and archive.read(f"{top}/byteorder") != b"little":
                raise ValueError("its numbers are big endian")
            content = _Tensors(archive, top).load()
    except Exception as error:  # whatever damaged bytes lead to
        raise MedvitError(
            f"The weights {path} cannot be read: missing, damaged, or no checkpoint of PyTorch."
        ) from error
    if not isinstance(content, dict):
        raise MedvitError(f"The weights {path} hold no named tensors.")
    return content
