"""Batches worked on side by side: threads that share one batch wait for each other at every layer.

They wait the longer the busier other processes keep the cores; a thread with a batch of its own waits for nobody.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, Protocol, TypeVar

import torch

LANES = 4  # the most batches that are worked on side by side on a CPU

P = ParamSpec("P")
T = TypeVar("T")


class Submit(Protocol):
    """Begins work in a lane and gives what it will return."""

    def __call__(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...


def lanes_of(device: str) -> tuple[int, int]:
    """How many batches are worked on side by side, and by how many threads each."""
    threads = torch.get_num_threads()
    lanes = min(LANES, threads) if device == "cpu" else 1
    return lanes, threads // lanes


@contextmanager
def side_by_side(device: str) -> Iterator[Submit]:
    """Lanes for work on a device; what is begun there computes in the precision that is set here, see `torch.autocast`.

    Args:
        device: ``cpu``, ``cuda``, ….

    Yields:
        What begins work.
    """
    before = torch.get_num_threads()
    lanes, threads = lanes_of(device)
    half, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    try:
        with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(threads,)) as pool:

            def begin(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
                def in_lane() -> T:
                    with torch.autocast(device, dtype, enabled=half):
                        return work(*args, **kwargs)

                return pool.submit(in_lane)

            yield begin
    finally:
        torch.set_num_threads(before)  # setting it in a thread sets it for those that begin later, too
