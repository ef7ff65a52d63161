"""How far long work is: a bar on a terminal, a plain line now and then in a log."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tqdm import tqdm

log = logging.getLogger(__name__)
LINE_S = 30.0  # at least so many seconds between two lines


class Advance(Protocol):
    """Says that so many more are done."""

    def __call__(self, count: int) -> object: ...


@contextmanager
def progress(total: int, unit: str) -> Iterator[Advance]:
    """Yield what is told of finished work, out of ``total``."""
    if sys.stderr.isatty():
        with tqdm(total=total, unit=f" {unit}", dynamic_ncols=True) as bar:
            yield bar.update
        return
    done, started = 0, time.monotonic()
    said = started

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        now = time.monotonic()
        if now - said >= LINE_S:
            said = now
            log.info("%d of %d %s, %.1f a second", done, total, unit, done / (now - started))

    yield advance
