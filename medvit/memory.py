"""How this process deals with memory: what is freed is kept, and imports are not searched for garbage."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
MIB = 2**20


def keep_memory(most_mib: int = 2047) -> None:
    """Tell glibc to keep freed memory, of which handing it back and faulting it in again costs work on images dearly.

    Args:
        most_mib: What is free beyond this at the end of the heap is handed back.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, most_mib * MIB), (M_TOP_PAD, 64 * MIB)):
            libc.mallopt(option, value)


@contextmanager
def uncollected() -> Iterator[None]:
    """Leave the garbage collector out: it takes a fifth of the seconds that importing torch and lightning takes."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
