"""What a run's records add up to, counted in one pass and in bounded memory."""

import heapq
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

from medvit.writers.mask_tally import MaskTally

BINS = 20  # of a histogram of probabilities
STRONGEST = 12  # findings shown
A_LABEL = 3  # of them with one label
SLOWEST = 8  # inputs shown
MARKS_A_TENFOLD = 20  # of the scale on which seconds are counted
LEAST_S = 0.001
# Defined terms of Modality (DICOM PS3.3 section C.7.3.1.1.1); another value may hold anything, a name too.
MODALITIES = frozenset({
    "ANN", "AR", "ASMT", "AU", "BDUS", "BI", "BMD", "CFM", "CR", "CT", "CTPROTOCOL", "DG", "DMS", "DOC", "DX", "ECG",
    "EEG", "EMG", "EOG", "EPS", "ES", "FID", "GM", "HC", "HD", "IO", "IOL", "IVOCT", "IVUS", "KER", "KO", "LEN", "LS",
    "M3D", "MG", "MR", "NM", "OAM", "OCT", "OP", "OPM", "OPT", "OPTBSV", "OPTENF", "OPV", "OSS", "OT", "PA", "PLAN",
    "POS", "PR", "PT", "PX", "REG", "RESP", "RF", "RG", "RTDOSE", "RTIMAGE", "RTINTENT", "RTPLAN", "RTRAD",
    "RTRECORD", "RTSEGANN", "RTSTRUCT", "RWV", "SEG", "SM", "SMR", "SR", "SRF", "STAIN", "TEXTUREMAP", "TG", "US",
    "VA", "XA", "XAPROTOCOL", "XC",
})  # fmt: skip

Kept = TypeVar("Kept", bound=tuple[Any, ...])


class Strong(NamedTuple):
    """A positive finding; the strongest sorts last."""

    probability: float
    case: str
    label: str
    threshold: float


class Slow(NamedTuple):
    """An input and the seconds it took; the slowest sorts last."""

    seconds: float
    case: str
    modality: str
    status: str
    reason: str


@dataclass(slots=True)
class Histogram:
    """Probabilities of one label: inputs a bin, below its threshold and from it on."""

    place: int
    threshold: float
    below: list[int] = field(default_factory=lambda: [0] * BINS)
    positive: list[int] = field(default_factory=lambda: [0] * BINS)
    strongest: list[Strong] = field(default_factory=list)


@dataclass(slots=True)
class Tally:
    """What the page says of all records; grows with labels, reasons, studies and series, not with findings."""

    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    messages: dict[tuple[str, str], str] = field(default_factory=dict)
    modalities: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    studies: set[int] = field(default_factory=set)
    series: set[int] = field(default_factory=set)
    seconds: Counter[int] = field(default_factory=Counter)
    slowest: list[Slow] = field(default_factory=list)
    labels: dict[str, Histogram] = field(default_factory=dict)
    measured: int = 0  # answered cases whose distance from the training cases is known
    far: int = 0  # those of them that are unlike the training cases
    masks: MaskTally = field(default_factory=MaskTally)

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one record."""
        status, reason = str(record["status"]), str(record["reason"])
        header = record["header"]
        modality = _modality(str(header.get("modality", "")))
        self.statuses[status] += 1
        self.modalities[modality] += 1
        if status == "ok":
            self.answered[modality] += 1
        else:
            message = str(record["message"])
            self.reasons[status, reason] += 1
            self.messages[status, reason] = min(self.messages.get((status, reason), message), message)
        for uid, seen in ((header.get("study_uid"), self.studies), (header.get("series_uid"), self.series)):
            if uid:
                seen.add(_mark(str(uid)))
        if told := record.get("distance"):
            self.measured += 1
            self.far += bool(told["far"])
        case = str(record["case"])
        seconds = float(record["seconds"])
        self.seconds[math.ceil(MARKS_A_TENFOLD * math.log10(max(seconds, LEAST_S)))] += 1
        _keep(self.slowest, Slow(seconds, case, modality, status, reason), SLOWEST)
        self.masks.add(record)
        for place, finding in enumerate(record["findings"]):
            self._find(place, case, finding)

    def _find(self, place: int, case: str, finding: Mapping[str, Any]) -> None:
        name, probability = str(finding["label"]), float(finding["probability"])
        label = self.labels.setdefault(name, Histogram(place, float(finding["threshold"])))
        label.place = min(label.place, place)
        side = label.positive if finding["positive"] else label.below
        side[min(max(int(probability * BINS), 0), BINS - 1)] += 1
        if finding["positive"]:
            _keep(label.strongest, Strong(probability, case, name, float(finding["threshold"])), A_LABEL)

    @property
    def strongest(self) -> list[Strong]:
        """The strongest findings, strongest first, no more than a few a label."""
        every = (strong for label in self.labels.values() for strong in label.strongest)
        return heapq.nlargest(STRONGEST, every)

    def within(self, share: float) -> float:
        """The seconds within which that share of the inputs was done, to an eighth."""
        left = share * self.seconds.total()
        for mark, count in sorted(self.seconds.items()):
            left -= count
            if left <= 0:
                return float(10 ** (mark / MARKS_A_TENFOLD))
        return 0.0


def _mark(uid: str) -> int:
    """64 bits of a UID's hash, in a third of its memory."""
    return int.from_bytes(blake2b(uid.encode(errors="surrogatepass"), digest_size=8).digest())


def _modality(value: str) -> str:
    return value if not value or value in MODALITIES else "other"


def _keep(heap: list[Kept], one: Kept, most: int) -> None:
    """Add to a heap of the largest ``most``."""
    if len(heap) < most:
        heapq.heappush(heap, one)
    else:
        heapq.heappushpop(heap, one)
