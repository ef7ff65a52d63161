"""Films damaged at random, thousands of them, through a guarded worker: it must answer or refuse each with a reason."""

import random
import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pydicom
import pytest
import raw

from medvit.errors import Unanswered
from medvit.guard import Duty, Reply, Worker
from medvit.readers import headers
from medvit.readers.radiograph import read_radiograph

BUNDLED = (
    "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "JPEG-lossy.dcm", "rtplan.dcm",
    "JPEG2000.dcm", "MR_small_jpeg_ls_lossless.dcm", "image_dfl.dcm", "reportsi.dcm", "SC_rgb_small_odd.dcm", "693_J2KI.dcm",
)  # fmt: skip
SYNTAXES = (
    raw.IMPLICIT,
    raw.EXPLICIT,
    raw.DEFLATED,
    raw.BIG,
    raw.RLE,
    raw.JPEG,
    raw.JPEG_LOSSLESS,
    raw.JPEG_LS,
    raw.J2K,
)
CHUNK = 50  # cases in one call
LARGEST = 100_000  # bytes of a seed file
SECONDS = 20  # of one case
REASON = re.compile(r"[a-z_]{2,20}")
STATUSES = ("ok", "skipped", "rejected", "failed")


def seeds() -> list[bytes]:
    """Whole files to damage: films of many transfer syntaxes, and others that pydicom brings."""
    folder = Path(pydicom.__file__).parent / "data/test_files"
    bundled = [(folder / name).read_bytes() for name in BUNDLED if (folder / name).exists()]
    window = {"WindowCenter": "2000", "WindowWidth": "3000", "RescaleSlope": "1", "RescaleIntercept": "0"}
    lut = raw.element(0x00283002, b"\0\x10\0\0\x0c\0", "US") + raw.element(0x00283006, bytes(8192), "OW")
    films = [raw.film(window, syntax) for syntax in SYNTAXES]
    films.append(raw.film(extra={0x00283010: raw.sequence(0x00283010, raw.item(lut), undefined=True)}))
    return [whole for whole in (*films, *bundled) if len(whole) <= LARGEST]


def damaged(whole: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """A file with one to eight damages: bits, bytes and numbers anywhere, at times what moves everything behind it."""
    data = bytearray(whole)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(128, max(129, min(len(data), chance.choice((2000, len(data) + 129)))))
        kind = chance.choices(range(6), (30, 30, 20, 8, 6, 6))[0]
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at : at + 1] = chance.randbytes(1)
        elif kind == 2:  # a length or number of two or four bytes
            number = chance.choice((b"\0\0", b"\xff\xff", b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\xff\xff\xff\x7f"))
            data[at : at + len(number)] = number
        elif kind == 3:
            other, count = chance.choice(others), chance.choice((8, 64, 512))
            begin = chance.randrange(len(other))
            data[at : at + chance.choice((count, count, 0))] = other[begin : begin + count]
        elif kind == 4:
            del data[at : at + chance.choice((1, 2, 8, 100))]
        else:
            del data[max(at, len(data) - chance.choice((2, 20, 2000, len(data)))) :]
    return bytes(data)


def duties(folder: str) -> Mapping[str, Duty]:
    """What the worker does: make damaged files from a seed, read the header of each and, whatever it is, its pixels."""
    whole, path = seeds(), Path(folder) / "damaged.dcm"

    def outcome(data: bytes) -> tuple[str, str, str]:
        path.write_bytes(data)
        header = headers.headers([(str(path), path.name, len(data))]).plain[0]
        try:
            read_radiograph(path)
        except Unanswered as refusal:
            return refusal.status, refusal.reason, str(refusal)
        return ("ok", "ok", "") if header[0] == "dicom" else (header[0].lower(), *header[1:])

    def many(first: int, count: int) -> Reply:
        told: list[tuple[int, str, str, str, float]] = []
        for number in range(first, first + count):
            chance, began = random.Random(number), time.monotonic()
            told.append((number, *outcome(damaged(chance.choice(whole), whole, chance)), time.monotonic() - began))
        return Reply(told)

    return {"many": many}


def run(folder: Path, first: int, count: int) -> list[tuple[int, str, str, str, float]]:
    """Outcomes of so many cases; a chunk that the worker does not survive is repeated one by one."""
    worker, told = Worker(duties, str(folder)), []
    for begin in range(first, first + count, CHUNK):
        try:
            told += worker.call("many", begin, min(CHUNK, first + count - begin)).plain
        except Unanswered:
            for number in range(begin, min(begin + CHUNK, first + count)):
                try:
                    told += worker.call("many", number, 1).plain
                except Unanswered as end:
                    told.append([number, end.status, end.reason, str(end), 0.0])
    worker.close()
    return [tuple(one) for one in told]


def check(told: list[tuple[int, str, str, str, float]], count: int) -> None:
    """Every case has an outcome with a reason, none took too long, none was beyond what the reader foresees."""
    print(Counter(reason for _, _, reason, _, _ in told), f"slowest {max(told, key=lambda one: one[4])}")
    assert len(told) == count
    assert [one for one in told if one[1] not in STATUSES or not REASON.fullmatch(one[2])] == []
    assert [one for one in told if "Traceback" in one[3] or (one[1] != "ok" and not one[3].endswith("."))] == []
    assert [one for one in told if one[4] > SECONDS or one[2] in ("time_budget", "crashed", "oom", "unread")] == []
    assert 0.02 < sum(one[1] == "ok" for one in told) / count < 0.9  # the damage was felt, and not always


@pytest.mark.slow
def test_damaged_files_are_answered_or_refused_with_a_reason(tmp_path) -> None:
    check(run(tmp_path, 0, 300), 300)


@pytest.mark.fuzz
def test_twenty_thousand_damaged_files_are_answered_or_refused_with_a_reason(tmp_path) -> None:
    check(run(tmp_path, 1000, 20_000), 20_000)


def test_the_same_number_damages_a_file_in_the_same_way() -> None:
    whole = seeds()
    first, second = (damaged(whole[0], whole, random.Random(8)) for _ in range(2))
    assert first == second != whole[0]
    assert len(whole) >= 15
