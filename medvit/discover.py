"""Inputs found in folders, files and zips, in an order that does not change; links are not followed.

Nothing is opened here: worker processes read headers, see `medvit.readers.headers`.
"""

import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from medvit.atomic import LOCK
from medvit.case import MICROSCOPY, ULTRASOUND, VOLUME, Case, digest
from medvit.duplicates import duplicates
from medvit.errors import MedvitError, Rejected, Skipped, Unanswered
from medvit.found import Found, join_cells, join_slices, join_slides, place
from medvit.guard import Pool, Reply
from medvit.readers.headers import DUTIES as DUTIES
from medvit.readers.headers import FACT_NAMES, duties
from medvit.readers.zips import START, Member, Progress
from medvit.reply import REFUSALS

CHUNK = 64  # files whose headers are read by one call
BY_NAME = {
    "picture": "",
    "bitmap": "BMP",
    "slide": MICROSCOPY,
    "clip": ULTRASOUND,
    "volume": VOLUME,
}  # modality of what is told by its name alone
RESULTS = Skipped(
    "results", "It is a folder that medvit wrote; results are no inputs. Give it by its name if it is one."
)
NONSENSE = Rejected("crashed", "The process that worked on it answered nonsense.")
AHEAD = 3  # calls a worker that are made before their answers are needed


class _Entry(NamedTuple):
    """One entry of a folder or zip, before it is opened; see `Found`."""

    path: str
    given: int
    file: str  # to open
    size: int = 0
    refusal: Unanswered | None = None
    is_member: bool = False


def find_cases(folder: Path | str, modalities: Sequence[str]) -> list[Case]:
    """The cases under a folder (or the case of one file) whose modality is one of those; headers only.

    Pictures have no modality and are found by naming the modality "".
    """
    found = join_slides(scan([Path(folder)], Pool(0, duties)))
    return [one.case for one in found if one.case and one.case.modality in modalities]


def read_case(file: Path) -> Case:
    """The case of one file, from its header alone.

    Raises:
        Unanswered: For a file of another kind, and for one that cannot be read.
    """
    (found,) = scan([file], Pool(0, duties))
    if found.case:
        return found.case
    raise found.refusal or Skipped("not_an_image", "It is no image.")


def discover(
    inputs: Iterable[Path | str],
    pool: Pool,
    refuse: Callable[[Case], None],
    modality: Collection[str] = (),
    series: Collection[str] = (),
    unpack_to: Path | None = None,
    together: Callable[[Case], bool] = lambda case: False,
) -> list[Found]:
    """Every input, with the cases to answer first, ordered by study, series, instance number and UID.

    Args:
        inputs: Files, folders and zips.
        pool: Workers with `DUTIES`.
        refuse: Raises an `Unanswered` for a case that is not of the kind to be answered.
        modality: Modalities to answer; none for all.
        series: Series Instance UIDs to answer; none for all.
        unpack_to: Folder for the members of zips, which belong to the caller then; without it zips are skipped.
        together: Whether a case is a picture that is answered as one case with the others of its folder.

    Raises:
        MedvitError: When an input does not exist or a folder given cannot be listed.
    """
    found = []
    for one in join_slides(scan(inputs, pool, unpack_to)):
        refusal = _refusal(one.case, refuse, modality, series) if one.case else one.refusal
        found.append(one._replace(refusal=refusal))
    naming = {part for one in found for part in one.naming}
    found = [one._replace(source=_masked(one.path, one.given, naming), naming=()) for one in found]
    answerable = [index for index, one in enumerate(found) if one.case and not one.refusal]
    twice = duplicates((case for index in answerable if (case := found[index].case)), pool)
    for index, refusal in zip(answerable, twice, strict=True):
        found[index] = found[index]._replace(refusal=refusal)
    return join_slices(sorted(join_cells(found, together, pool), key=place))


def scan(inputs: Iterable[Path | str], pool: Pool, unpack_to: Path | None = None) -> Iterator[Found]:
    """Every file under the inputs in sorted order, as `discover` finds it but refused only when it is no case.

    Raises:
        MedvitError: When an input does not exist or a folder given cannot be listed.
    """
    for entry, answer in _answered(_entries(inputs), pool):
        if answer == ["zip"] and not entry.is_member and unpack_to:
            yield from _unpacked(entry, pool, unpack_to)
        else:
            yield _found(entry, answer)


def _entries(inputs: Iterable[Path | str]) -> Iterator[_Entry]:
    tops = [Path(top) for top in inputs]
    folders = {top.resolve() for top in tops if top.is_dir()}
    seen: set[Path] = set()
    for top in tops:
        real = top.resolve()
        if real in seen or not folders.isdisjoint(real.parents):
            continue  # it was or will be found elsewhere
        seen.add(real)
        if top.is_dir():
            yield from _walk(str(top))
        elif top.is_file():  # a link that is given is followed
            yield _Entry(str(top), len(str(top)), str(real if top.is_symlink() else top), real.stat().st_size)
        elif top.exists():
            raise MedvitError(f"{top} is neither a file nor a folder.")
        else:
            raise MedvitError(f"{top} is not there. Give a file or a folder to answer.")


def _walk(top: str) -> Iterator[_Entry]:
    """The files under a folder, sorted by name within each; what is no file is refused, and so are our own results."""
    here = "./" if top == "." else ""  # left out of what is shown
    given = 0 if here else len(top)
    try:
        stack = [iter(_listed(top))]
    except OSError as error:
        raise MedvitError(f"The folder {top} cannot be listed: {error.strerror}.") from error
    while stack:
        for entry in stack[-1]:
            path, size = entry.path.removeprefix(here), 0
            refusal: Unanswered | None = None
            try:
                if entry.is_dir(follow_symlinks=False):
                    inside = _listed(entry.path)
                    if all(one.name != LOCK for one in inside):
                        stack.append(iter(inside))
                        break
                    refusal = RESULTS
                else:
                    size, refusal = entry.stat(follow_symlinks=False).st_size, _no_file(entry)
            except OSError as error:
                refusal = Unanswered("unreadable", f"It cannot be listed: {error.strerror}.")
            yield _Entry(path, given, path, size, refusal)
        else:
            stack.pop()


def _listed(folder: str) -> list[os.DirEntry[str]]:
    return sorted(os.scandir(folder), key=lambda entry: entry.name)


def _no_file(entry: os.DirEntry[str]) -> Unanswered | None:
    if entry.is_file(follow_symlinks=False):
        return None
    if entry.is_symlink():
        return Skipped("link", "It is a link; links are not followed. Give what it points to.")
    return Skipped("not_a_file", "It is a pipe, socket or device.")


def _answered(entries: Iterable[_Entry], pool: Pool) -> Iterator[tuple[_Entry, Any]]:
    """Each entry with what a worker tells of it, in order; calls are made some way ahead."""
    calls: deque[tuple[list[_Entry], Future[Reply]]] = deque()
    entries = iter(entries)
    while chunk := list(islice(entries, CHUNK)):
        calls.append((chunk, pool.submit("headers", _files(chunk))))
        if len(calls) > AHEAD * max(1, pool.workers):
            yield from _told(*calls.popleft(), pool)
    for call in calls:
        yield from _told(*call, pool)


def _files(chunk: Iterable[_Entry]) -> list[tuple[str, str, int]]:
    return [(entry.file, entry.path[entry.given :], entry.size) for entry in chunk if not entry.refusal]


def _told(chunk: Sequence[_Entry], future: Future[Reply], pool: Pool) -> Iterator[tuple[_Entry, Any]]:
    try:
        told = future.result().plain
        answers = iter(told if isinstance(told, list) else [])
    except Unanswered:  # one of them killed the worker: it shall cost itself alone
        answers = (_alone(file, pool) for file in _files(chunk))
    for entry in chunk:
        yield entry, None if entry.refusal else next(answers, "nothing")


def _alone(file: tuple[str, str, int], pool: Pool) -> list[Any]:
    try:
        return list(pool.submit("headers", [file]).result().plain[0])
    except Unanswered as refusal:
        return [type(refusal).__name__, refusal.reason, str(refusal)]


def _found(entry: _Entry, answer: Any) -> Found:
    """An entry as a worker told of it; None for one that was refused before."""
    case, refusal, naming = None, entry.refusal, ()
    try:
        kind, *told = ["refused"] if answer is None else answer
        if kind == "dicom":
            facts, naming = dict(zip(FACT_NAMES, map(sys.intern, told[0]), strict=True)), tuple(told[1])
            case = Case(facts["sop_uid"], facts["modality"], (Path(entry.file),), header=facts)
        elif kind in BY_NAME:
            uid = os.path.abspath(entry.path) if entry.is_member else os.path.realpath(entry.file)  # noqa: PTH100
            case = Case(uid, BY_NAME[kind], (Path(entry.file),))
        elif kind == "zip" and entry.is_member:
            refusal = Skipped("nested_zip", "It is a zip within a zip. Unpack it and give its files.")
        elif kind == "zip":
            refusal = Skipped("zip", "It is a zip. Unpack it and give its files.")
        elif answer is not None:
            refusal = REFUSALS[kind](*map(sys.intern, told))
    except (ValueError, TypeError, KeyError, IndexError):
        case, refusal, naming = None, NONSENSE, ()
    return Found(_masked(entry.path, entry.given, naming), case, refusal, entry.path, entry.given, naming)


def _masked(path: str, given: int, naming: Collection[str]) -> str:
    """A path without its parts that name a patient; what the user typed stays."""
    if not naming:
        return path
    parts = path[given:].split("/")
    return path[:given] + "/".join(f"~{digest(part)}" if part in naming else part for part in parts)


def _unpacked(entry: _Entry, pool: Pool, unpack_to: Path) -> Iterator[Found]:
    """The members of a zip; a bad zip is one refused input."""
    folder = unpack_to / digest(os.path.abspath(entry.path))  # noqa: PTH100
    members: list[Member] = []
    progress = START
    try:
        while not progress.done:
            more, how_far = pool.submit("unpack", entry.file, str(folder), *progress).result().plain
            members += [Member(*member) for member in more]
            progress = Progress(*how_far)
    except (Unanswered, ValueError, TypeError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        refusal = error if isinstance(error, Unanswered) else NONSENSE
        yield _found(entry._replace(refusal=refusal.with_traceback(None)), None)
        return
    entries = (_member(entry, member) for member in members)
    for one, answer in _answered(entries, pool):
        yield _found(one, answer)


def _member(archive: _Entry, member: Member) -> _Entry:
    link = None if member.file else Skipped("link", "It is a link within a zip.")
    return _Entry(f"{archive.path}!/{member.name}", archive.given, member.file, member.size, link, True)


def _refusal(
    case: Case, refuse: Callable[[Case], None], modality: Collection[str], series: Collection[str]
) -> Unanswered | None:
    if modality and case.modality not in modality:
        return Skipped("filtered", "It is of another modality than those asked for.")
    if series and case.header.get("series_uid") not in series:
        return Skipped("filtered", "It is of another series than those asked for.")
    try:
        refuse(case)
    except Unanswered as refusal:
        return refusal.with_traceback(None)
    return None
