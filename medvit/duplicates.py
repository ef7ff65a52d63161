"""Cases with one UID: identical files count once, differing ones not at all."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future

from medvit.case import Case
from medvit.errors import Rejected, Skipped, Unanswered
from medvit.guard import Pool, Reply


def duplicates(cases: Iterable[Case], pool: Pool) -> list[Unanswered | None]:
    """Why each case is not answered, as far as others with its UID are the reason; None for those that are.

    Args:
        cases: Cases of one file each.
        pool: Workers with the duty ``content``.
    """
    files: list[str] = []
    by_uid: defaultdict[str, list[int]] = defaultdict(list)
    for index, case in enumerate(cases):
        files.append(str(case.files[0]))
        by_uid[case.uid].append(index)
    refusals: list[Unanswered | None] = [None] * len(files)
    for same in by_uid.values():
        if len(same) > 1:
            for index, refusal in zip(same, _compared([files[index] for index in same], pool), strict=True):
                refusals[index] = refusal
    return refusals


def _compared(files: Sequence[str], pool: Pool) -> list[Unanswered | None]:
    contents = _contents(files, pool)
    readable = [index for index, content in enumerate(contents) if isinstance(content, str)]
    alike = len({contents[index] for index in readable}) == 1
    again = Skipped("duplicate", "The same file was found before.")
    conflict = Rejected(
        "uid_conflict", "Another input has the same SOP Instance UID and other content, so neither can be trusted."
    )
    refusals = [content if isinstance(content, Unanswered) else again if alike else conflict for content in contents]
    return [None if alike and index == readable[0] else refusal for index, refusal in enumerate(refusals)]


def _contents(files: Sequence[str], pool: Pool) -> list[str | Unanswered]:
    """What tells the contents of files apart: their inode, their size, at last their bytes."""
    found = [_facts(file) for file in files]
    known = {facts for facts in found if isinstance(facts, tuple)}
    if len(known) > 1 and len({size for *_, size in known}) == 1:
        calls = [
            pool.submit("content", file) if isinstance(facts, tuple) else facts
            for file, facts in zip(files, found, strict=True)
        ]
        return [_content(call) if isinstance(call, Future) else call for call in calls]
    return [str(facts[-1]) if isinstance(facts, tuple) else facts for facts in found]


def _facts(file: str) -> tuple[int, int, int] | Unanswered:
    try:
        facts = os.stat(file, follow_symlinks=False)  # noqa: PTH116
    except OSError as error:
        return Unanswered("unreadable", f"It cannot be read any more: {error.strerror}.")
    return facts.st_dev, facts.st_ino, facts.st_size


def _content(call: Future[Reply]) -> str | Unanswered:
    try:
        return str(call.result().plain)
    except Unanswered as refusal:
        return refusal.with_traceback(None)
