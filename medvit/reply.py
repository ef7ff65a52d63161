"""What a worker process answers, on its way to the parent: JSON and plain arrays, never pickle.

After a hostile file a worker is not to be trusted, so whatever is not as it must be counts as its death.
"""

import json
import math
import os
import select
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvit.budgets import HEAD_BYTES
from medvit.errors import Halted, MedvitError, Rejected, Skipped, Unanswered

DTYPES = frozenset({"<f2", "<f4", "<f8", "|u1", "|i1", "|b1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8"})
SIZE = struct.Struct("<Q")  # precedes the JSON
REFUSALS = {kind.__name__: kind for kind in (Unanswered, Skipped, Rejected)}
ENDINGS = {kind.__name__: kind for kind in (MedvitError, Halted)}
MESSAGE = 2_000  # characters

Parts = list[memoryview]


class Reply(NamedTuple):
    """What a duty answers.

    Args:
        plain: Anything that JSON can hold.
        arrays: Numbers, see `DTYPES`.
    """

    plain: Any
    arrays: tuple[NDArray[Any], ...] = ()


def understood(error: BaseException) -> Exception:
    """What a duty raised, as one of our own exceptions; texts of others may quote what they read and stay behind."""
    if isinstance(error, Unanswered | MedvitError):
        return error
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate memory" in str(error)):
        return Unanswered("oom", "It needs more memory than a worker process may use.")
    return Unanswered("unread", f"Reading it failed ({type(error).__name__}).")


def answered(duty: Callable[..., Reply], *arguments: Any) -> Parts:
    """What a duty answers or raises, ready to be sent."""
    try:
        plain, arrays = duty(*arguments)
        flat = [np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for array in arrays]
        if not DTYPES.issuperset(array.dtype.str for array in flat):
            raise TypeError("An array of something else than numbers.")
        head = {"plain": plain, "arrays": [(array.dtype.str, array.shape) for array in flat]}
        return [memoryview(json.dumps(head).encode()), *(array.reshape(-1).view(np.uint8).data for array in flat)]
    except BaseException as error:  # a panic of a Rust codec is one
        return refused(understood(error))


def refused(error: Exception) -> Parts:
    """One of our own exceptions, ready to be sent."""
    reason = error.reason if isinstance(error, Unanswered) else ""
    head = {"kind": type(error).__name__, "reason": reason, "message": str(error)}
    return [memoryview(json.dumps(head).encode())]


def sent(line: Connection, parts: Parts) -> None:
    """Send it.

    Raises:
        OSError: When nobody listens any more.
    """
    for part in (memoryview(SIZE.pack(len(parts[0]))), *parts):
        while part:
            part = part[os.write(line.fileno(), part) :]  # noqa: PLW2901


def received(line: Connection, deadline: float, most: int) -> Reply | Unanswered | MedvitError:
    """What a duty answered or raised.

    Args:
        line: Where it comes from.
        deadline: Of `time.monotonic`.
        most: Bytes that the arrays may have.

    Raises:
        TimeoutError: When it is not there in time.
        OSError: When the line ends.
        ValueError: When nonsense was sent.
    """
    (length,) = SIZE.unpack(_bytes(line, SIZE.size, deadline).tobytes())
    if length > HEAD_BYTES:
        raise ValueError("More is said than may be.")
    try:
        head = json.loads(_bytes(line, length, deadline).tobytes())
        if "kind" in head:
            return _exception(head)
        kinds = [_kind(name, shape) for name, shape in head["arrays"]]
        sizes = [dtype.itemsize * math.prod(shape) for dtype, shape in kinds]
        if sum(sizes) > most:
            raise ValueError("More is sent than may be.")
        whole = [_bytes(line, size, deadline) for size in sizes]
        return Reply(head["plain"], tuple(_array(flat, *kind) for flat, kind in zip(whole, kinds, strict=True)))
    except (TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise ValueError("Nonsense is sent.") from error


def _exception(head: Mapping[str, Any]) -> Unanswered | MedvitError:
    kind, message = str(head["kind"]), str(head["message"])[:MESSAGE]
    if kind in ENDINGS:
        return ENDINGS[kind](message)
    return REFUSALS[kind](str(head["reason"])[:40], message)


def _kind(name: object, shape: Sequence[int]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    if name not in DTYPES or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError("No array that may be.")
    return np.dtype(str(name)), tuple(shape)


def _array(flat: NDArray[np.uint8], dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if dtype == np.bool_ and flat.max(initial=0) > 1:
        raise ValueError("No truth values.")
    return flat.view(dtype).reshape(shape)


def _bytes(line: Connection, size: int, deadline: float) -> NDArray[np.uint8]:
    """Exactly so many bytes; the memory is used as they come."""
    whole = np.empty(size, np.uint8)
    rest, waiting = whole.data, select.poll()
    waiting.register(line.fileno(), select.POLLIN)
    while rest:
        if not waiting.poll(max(0, 1000 * (deadline - time.monotonic()))):
            raise TimeoutError
        got = os.readv(line.fileno(), [rest])
        if not got:
            raise ConnectionResetError
        rest = rest[got:]
    return whole
