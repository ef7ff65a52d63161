"""What all sessions share: runs, what was decided about them, workers that open pictures. It holds nobody's state."""

import functools
import importlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from apps.review.kin import Kin
from apps.review.pictures import Plane, duties
from apps.review.readings import Board
from apps.review.regions import regions
from apps.review.runs import BOX, OWN, Row, Run, locate, may_draw, tell_apart
from apps.review.store import MASKS, Conflict, Store
from apps.review.unpacked import INSIDE, Unpacked
from medvit.budgets import MIB
from medvit.codes import file_name
from medvit.errors import MedvitError, Rejected
from medvit.guard import LIMITS, Duty, Pool, Reply

READ_S = 60  # processor seconds of a call: a series has hundreds of files
KEPT_BYTES = 384 * MIB  # of pictures that are kept for the next look
SCALE_FROM = 64  # heat maps of a finding that its common scale is taken from
DRAWN = re.compile(r"[0-9a-f]{16}_[0-9a-f]{12}\.npz")  # a reader's mask
FULL = 0.75  # quantile of the highest values of maps that is drawn in full colour, for all cases of a finding
FAINT = 0.6  # of a map's values below this quantile nothing is shown


class Settings(NamedTuple):
    """How the app was started; plain values, since they travel as Streamlit's secrets.

    Args:
        folders: Folders of runs.
        bases: Folders that relative paths of inputs may start from.
        blind: Whether a reader decides before the AI's answer is shown.
        readers: How many readers a case is for.
        show_identity: Whether patients' names are shown.
        workers: Processes that open pictures; 0 opens them in this one, for tests.
        segment: Checkpoint of a system that outlines what is in a reader's box; "" for none.
        segment_digest: Its SHA-256.
        evaluations: Reports of `medvit evaluate`; those beside a run are looked for where none is given.
    """

    folders: tuple[str, ...]
    bases: tuple[str, ...] = ()
    blind: bool = False
    readers: int = 1
    show_identity: bool = False
    workers: int = 2
    segment: str = ""
    segment_digest: str = ""
    evaluations: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As Streamlit's secrets take it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items()}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Settings":
        """The settings that `plain` gave."""
        held: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in told.items()
        }
        return cls(**held)


class Desk:
    """Runs, decisions and pictures of one start of the app; see `desk`.

    Args:
        settings: How it was started.

    Raises:
        MedvitError: When a folder holds no run.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        runs = [Run(Path(folder)).refresh() for folder in settings.folders]
        tell_apart(runs)
        self.runs = {run.key: run for run in runs}
        self.stores = {key: Store(run.folder) for key, run in self.runs.items()}
        self.boards = {key: Board(store).refresh() for key, store in self.stores.items()}
        self.unpacked = {key: Unpacked(store.folder) for key, store in self.stores.items()}
        self.pool = Pool(settings.workers, duties, limits=LIMITS._replace(cpu_s=READ_S, wall_s=2 * READ_S))
        self.kin = {key: Kin(run, functools.partial(self._place, run), self.pool) for key, run in self.runs.items()}
        self._outliner: Pool | None = None
        self._kept: dict[tuple[Any, ...], Future[Reply]] = {}
        self._lock = Lock()

    def case(self, run: str, case: str) -> tuple[Run, Row]:
        """A case by the keys of its run and its own.

        Raises:
            MedvitError: When there is no such case.
        """
        found = self.runs.get(run)
        row = found.rows.get(case) if found else None
        if found and not row:
            row = found.refresh().rows.get(case)
        if found is None or row is None:
            raise MedvitError("There is no such case here. Go back to the worklist and choose one.")
        return found, row

    def path(self, run: Run, row: Row) -> Path:
        """The file that a case was answered from.

        Raises:
            Unanswered: When it is not there, or lies in a zip that is refused.
        """
        found = self._place(run, row)
        if found is None and INSIDE in row.source:
            found = self.unpacked[run.key].path(row, self._bases(run), self.pool)
        if found is None:
            raise Rejected(
                "missing",
                "The image is not where it was answered. Start the app with --inputs FOLDER where it lies now.",
            )
        return found

    def _place(self, run: Run, row: Row) -> Path | None:
        return locate(row, self._bases(run))

    def _bases(self, run: Run) -> list[Path]:
        """The folders that relative paths of inputs may start from."""
        return [Path(base) for base in self.settings.bases] or [Path.cwd(), *run.folder.resolve().parents]

    def ask(self, duty: str, run: str, case: str, *arguments: Any, urgent: bool = True) -> Future[Reply]:
        """What a worker tells of a case, from memory where somebody looked at it a little while ago."""
        found, row = self.case(run, case)
        path = str(self.path(found, row))
        key = (duty, path, case, *arguments)
        with self._lock:
            future = self._kept.pop(key, None)
            if future is None or (future.done() and future.exception() is not None):
                future = self.pool.submit(duty, path, case, *arguments, urgent=urgent)
            self._kept[key] = future  # the newest is the last to be forgotten
            self._forget()
        return future

    def slide(self, run: str, case: str) -> Future[Reply]:
        """Size and resolution of a slide."""
        return self.ask("slide", run, case, self.case(run, case)[1].mpp)

    def known_slide(self, run: str, case: str) -> dict[str, Any] | None:
        """What `slide` told before; None where nobody asked yet, or the file could not be read."""
        found, row = self.case(run, case)
        known = self._kept.get(("slide", str(self.path(found, row)), case, row.mpp))
        return dict(known.result().plain) if known and known.done() and known.exception() is None else None

    def tile(self, run: str, case: str, box: tuple[float, float, int, int, float], plane: Plane) -> Future[Reply]:
        """A rectangle of a slide, once `slide` has proved that it is the case.

        Raises:
            Rejected: When it has not been proved.
        """
        if self.known_slide(run, case) is None:
            raise Rejected("unread", "The slide cannot be read.")
        found, row = self.case(run, case)
        return self.pool.submit("tile", str(self.path(found, row)), row.mpp, box, plane, urgent=True)

    def volume(self, run: str, case: str) -> Future[Reply]:
        """What masks of a case are drawn on, see `apps.review.volumes.slices`."""
        return self.ask("slices", run, case, self.case(run, case)[1].slices)

    def masks_folder(self, run: str) -> Path:
        """Where readers' own masks of a run lie."""
        return self.stores[run].folder / MASKS

    def masks(self, run: str, case: str, reviewer: str, hidden: bool) -> Future[Reply]:
        """The outlines of a case: what the AI drew, unless it is hidden, and the reader's own beside it."""
        found, row = self.case(run, case)
        shape = self.volume(run, case).result().plain["shape"]
        own = self.boards[run].refresh().masks(case, reviewer)
        scores = {mask.label: mask.told for mask in row.masks}
        files, told = [], []
        for label, file in () if hidden else found.mask_files(row):
            files.append((label, file, ""))
            told.append({"said": scores[label], "seq": 0, "painted": False, "before": label in own})
        for label, mask in own.items():
            if DRAWN.fullmatch(mask.file) and (label.startswith((BOX, OWN)) or not hidden):
                files.append((label, str(self.masks_folder(run) / mask.file), mask.digest))
                unpainted = "asked for by you" if label.startswith(BOX) else "the AI's, taken again by you"
                said = "drawn by you" if mask.drawn else "painted by you" if mask.painted else unpainted
                told.append({"said": said, "seq": mask.seq, "painted": mask.painted, "before": False})
        future = self.pool.submit("masks", str(self.path(found, row)), case, files, shape, urgent=True)
        return _named(future, told)

    def paint(
        self,
        run: str,
        case: str,
        reviewer: str,
        finding: str,
        after: int,
        chosen: Sequence[int] | None,
        bits: bytes,
        anew: bool = False,
    ) -> dict[str, Any]:
        """Keep a mask as a reader painted it: a new file, and a row that vouches for it; what was there stays.

        Args:
            run: Key of the run.
            case: Of the case.
            reviewer: Who painted.
            finding: On whose mask.
            after: Number of the row of the mask that was painted on, 0 for the AI's.
            chosen: The slices that were painted on; None to take the AI's mask again.
            bits: Theirs, each padded to whole bytes.
            anew: Whether the reader began from nothing, since there was no mask of this.

        Returns:
            ``seq`` of the row, ``voxels``, ``added`` and ``removed``.

        Raises:
            Conflict: When the reader has painted elsewhere meanwhile.
            MedvitError: When there is no such mask, or nothing can be written.
        """
        found, row = self.case(run, case)
        own = self.boards[run].refresh().masks(case, reviewer).get(finding)
        given = dict(found.mask_files(row)).get(finding, "")
        if not own and not given and not (anew and chosen and row.finding(finding) and may_draw(finding)):
            raise MedvitError("There is no such mask to paint on.")
        if (own.seq if own else 0) != after or (anew and (own or given)):
            raise Conflict(None, "mask")
        shape = self.volume(run, case).result().plain["shape"]
        if chosen is None and not given:
            raise MedvitError("The AI has not outlined this.")
        before, digest = (
            (given, "") if chosen is None or own is None else (str(self.masks_folder(run) / own.file), own.digest)
        )
        name = f"{case}_{uuid.uuid4().hex[:12]}.npz"
        target = self.masks_folder(run) / name
        drawn = anew or bool(own and own.drawn)
        arguments = (case, before, digest, shape, list(chosen or ()), bits, str(target))
        made = self.pool.submit("paint", str(self.path(found, row)), *arguments, urgent=True).result().plain
        body = {
            **made, "file": name, "painted": chosen is not None, "slices": list(chosen or ()),
            "from": digest or ("nothing" if anew else "the AI's mask"), "model": found.about.weights[:16],
            **({"drawn": True} if drawn else {}),
        }  # fmt: skip
        try:
            entry = self.stores[run].append(reviewer, "mask", case, finding, body, after)
        except Conflict:
            target.unlink(missing_ok=True)  # no row vouches for it
            raise
        self.boards[run].refresh()
        return {"seq": entry.seq, **made}

    def segment(self, run: str, case: str, number: int, box: Sequence[float]) -> Future[Reply]:
        """Outline what is in a box (x_min, y_min, x_max, y_max) on a slice, by a worker with a network of its own."""
        self.volume(run, case).result()  # the file has proved to be the case
        found, row = self.case(run, case)
        with self._lock:
            if self._outliner is None:
                workers = 1 if self.settings.workers else 0
                self._outliner = Pool(
                    workers, outliner, self.settings.segment, limits=LIMITS._replace(cpu_s=120, wall_s=180)
                )
        return self._outliner.submit(
            "box", str(self.path(found, row)), case, row.modality, row.slices, number, list(box)
        )

    def facts(self, run: str, case: str) -> dict[str, Any]:
        """Side, view and series of a case; ``unread`` where its file cannot be opened."""
        try:
            return dict(self.ask("facts", run, case, self.settings.show_identity).result().plain)
        except MedvitError:
            return {"unread": True}

    def heat(self, run: str, case: str) -> list[dict[str, Any]]:
        """The heat maps of a case over the model's field of view, as numbers from 0 to 1000 of the finding's common scale."""
        found, row = self.case(run, case)
        files = found.heat(case)
        told = []
        for said in row.said:
            path = files.get(file_name(said.label))
            if path:
                told.append(_heat(path, said.label, self._scale(found, file_name(said.label))))
        return told

    def _scale(self, run: Run, name: str) -> float:
        """What is full colour for every case of a finding: a quantile of the highest values of some maps."""
        return _scale(str(run.folder), name)

    def _forget(self) -> None:
        """Let the oldest answers go until the rest fits; what is still being read stays."""
        sizes = {
            key: sum(array.nbytes for array in future.result().arrays)
            for key, future in self._kept.items()
            if future.done() and not future.cancelled() and future.exception() is None
        }
        total = sum(sizes.values())
        for key, size in sizes.items():
            if total <= KEPT_BYTES:
                break
            total -= size
            del self._kept[key]


def outliner(checkpoint: str) -> Mapping[str, Duty]:
    """The duties of the worker that outlines; its module needs torch and is imported there alone."""
    found: Mapping[str, Duty] = importlib.import_module("apps.review.segment").duties(checkpoint)
    return found


def _named(future: Future[Reply], told: Sequence[Mapping[str, Any]]) -> Future[Reply]:
    """The outlines with what is told of each."""
    named: Future[Reply] = Future()

    def done(answer: Future[Reply]) -> None:
        error = answer.exception()
        if error:
            named.set_exception(error)
            return
        plain, arrays = answer.result()
        masks = [{**one, **told[one["number"]]} for one in plain["masks"]]
        named.set_result(Reply({**plain, "masks": masks}, arrays))

    future.add_done_callback(done)
    return named


@functools.lru_cache(maxsize=4)
def desk(settings: Settings) -> Desk:
    """The desk of these settings, one a process."""
    return Desk(settings)


@functools.lru_cache(maxsize=256)
def _scale(folder: str, name: str) -> float:
    paths = sorted(Path(folder, "cases").glob(f"*/heat_{name}.npz"))
    chosen = paths[:: max(len(paths) // SCALE_FROM, 1)][:SCALE_FROM]
    peaks = []
    for path in chosen:
        try:
            with np.load(path, allow_pickle=False) as held:
                peaks.append(float(held["values"].max()))
        except (OSError, ValueError, KeyError):
            continue
    return max(float(np.quantile(peaks, FULL)), 1e-12) if peaks else 1.0


def _heat(path: Path, label: str, scale: float) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as held:
        values, about = held["values"], json.loads(str(held["about"]))
        faint = float(np.quantile(values, FAINT)) / scale
        told: dict[str, Any] = {
            "label": label,
            "method": about["method"],
            "shape": list(values.shape),
            "values": (values / scale * 1000).clip(0, 1000).round().astype(int).ravel().tolist(),
            "faint": round(1000 * min(faint, 0.999)),
            "box": held["box"].tolist(),
            "source": held["source"].tolist(),
        }
        if values.ndim == 2:
            told["regions"] = [[round(edge, 1) for edge in one] for one in regions(values, held["box"], held["source"])]
        if "importance" in held.files:
            told["importance"] = held["importance"].round(4).tolist()
    return told
