"""What a file holds, measured without a library: against pydicom on real and written files, and where it must refuse."""

import os
import struct
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
import raw
from pydicom.data import get_testdata_file
from raw import BIG, DEFLATED, EXPLICIT, IMPLICIT, element, film

from medvit import budgets
from medvit.case import WHOLE_SLIDE
from medvit.errors import Rejected, Skipped
from medvit.readers.survey import KNOWN_SYNTAXES, MODALITIES, read_facts, read_header, survey

ZOO = Path(__file__).resolve().parents[3] / "shared/data/dicom_zoo"
ALL = (IMPLICIT, EXPLICIT, DEFLATED, BIG, *raw.COMPRESSED, raw.JPEG_12)
BUNDLED = [
    "CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "rtplan.dcm",
    "image_dfl.dcm", "reportsi.dcm", "JPEG2000.dcm", "rtdose.dcm", "nested_priv_SQ.dcm", "693_J2KI.dcm", "DICOMDIR",
]  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def writes(data: bytes, name: str = "film.dcm") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return writes


def refused(path: Path, kind: type[Rejected | Skipped] = Rejected) -> str:
    with pytest.raises(kind) as caught:
        read_header(path)
    return caught.value.reason


@pytest.mark.parametrize("syntax", ALL)
def test_a_header_is_read_in_every_transfer_syntax(write, syntax) -> None:
    header = read_header(write(film({"InstanceNumber": 7}, syntax)))
    assert header == {
        "study_uid": "2.25.11", "series_uid": "2.25.12", "sop_uid": raw.UID, "sop_class": raw.DX, "modality": "DX",
        "body_part": "CHEST", "view": "PA", "instance": "7", "rows": "48", "columns": "64", "transfer_syntax": syntax,
    }  # fmt: skip


@pytest.mark.parametrize("syntax", ALL)
def test_pixels_lie_where_pydicom_finds_them(write, syntax) -> None:
    path = write(film(syntax=syntax))
    pixels, read = survey(path).pixels, pydicom.dcmread(path).get_item("PixelData")
    assert pixels is not None
    if syntax in raw.COMPRESSED or syntax == raw.JPEG_12:
        assert pixels.length is None
        assert pixels.closed
        assert len(pixels.fragments) == 2
        assert len(raw.stream(syntax)) <= pixels.fragments[1] <= len(raw.stream(syntax)) + 1
    else:
        assert pixels.length == len(read.value)
    if syntax != DEFLATED:
        assert pixels.start == read.value_tell


def counted(dataset: pydicom.Dataset, depth: int = 0) -> np.ndarray:
    """Elements, items and depth of a data set of pydicom, group lengths counted."""
    total = np.array((0, 0, depth))
    for one in dataset:
        total[0] += 1
        for item in one.value if one.VR == "SQ" else ():
            inner = counted(item, depth + 1)
            total = np.array((total[0] + inner[0], total[1] + inner[1] + 1, max(total[2], inner[2])))
    return total


@pytest.mark.parametrize("name", BUNDLED)
def test_elements_items_and_depth_are_those_that_pydicom_counts(name) -> None:
    path = Path(str(get_testdata_file(name, download=False)))
    found = survey(path)
    assert [found.elements, found.items, found.depth] == counted(pydicom.dcmread(path)).tolist()
    assert found.syntax == pydicom.dcmread(path).file_meta.TransferSyntaxUID


@pytest.mark.real
def test_every_film_of_the_zoo_that_has_pixels_is_measured() -> None:
    if not ZOO.is_dir():
        pytest.skip(f"{ZOO} is not there")
    told = {}
    for path in sorted(ZOO.glob("*.dcm")):
        try:
            told[path.name] = survey(path).syntax in KNOWN_SYNTAXES
        except Rejected as refusal:
            told[path.name] = refusal.reason in ("not_dicom", "truncated", "transfer_syntax")
    assert len(told) == 160
    assert all(told.values())


def test_values_are_kept_as_bytes_of_the_top_level_alone_and_cut(write) -> None:
    hidden = raw.sequence(0x00081111, raw.item(element(0x00100020, b"INNER ", "LO")))
    path = write(film({"PatientID": ("UT", b"x" * 5000)}, extra={0x00081111: hidden}))
    found = survey(path, (0x00100020, 0x00280010, 0x00990099))
    assert found.values[0x00100020] == b"x" * 1024
    assert found.values[0x00280010] == b"\x30\0"
    assert 0x00990099 not in found.values


def test_a_header_behind_a_large_private_element_is_found(write) -> None:
    path = write(film(extra={0x00091001: element(0x00091001, bytes(300_000), "OB")}))
    assert read_header(path)["rows"] == "48"


@pytest.mark.parametrize(("limit", "content", "reason"), [
    ("ELEMENTS", {0x00091001: element(0x00091001, b"", "LO") * 30}, "elements"),
    ("ITEMS", {0x00400275: raw.sequence(0x00400275, raw.item() * 30)}, "items"),
    ("ITEMS", {0x00400275: raw.sequence(0x00400275, raw.item(undefined=True) * 30, undefined=True)}, "items"),
    ("NESTING", {0x00400275: raw.nested(30)}, "nesting"),
    ("NESTING", {0x00400275: raw.nested(30, undefined=True)}, "nesting"),
    ("FRAGMENTS", {raw.PIXEL_DATA: raw.pixel_element(raw.RLE, [b"ab"] * 30)}, "fragments"),
])  # fmt: skip
def test_a_budget_is_exact(write, monkeypatch, limit, content, reason) -> None:
    path = write(film(syntax=raw.RLE, extra=content))
    found = survey(path)
    used = {"ELEMENTS": found.elements, "ITEMS": found.items, "NESTING": found.depth, "FRAGMENTS": 31}[limit]
    monkeypatch.setattr(budgets, limit, used)
    survey(path)
    monkeypatch.setattr(budgets, limit, used - 1)
    with pytest.raises(Rejected) as caught:
        survey(path)
    assert caught.value.reason == reason


def test_a_deflated_data_set_may_inflate_to_its_budget_and_no_further(write, monkeypatch) -> None:
    path = write(film(syntax=DEFLATED))
    found = survey(path).pixels
    assert found is not None
    monkeypatch.setattr(budgets, "INFLATED_BYTES", found.end)
    survey(path)
    monkeypatch.setattr(budgets, "INFLATED_BYTES", found.end - 1)
    with pytest.raises(Rejected) as caught:
        survey(path)
    assert caught.value.reason == "inflate_budget"


def test_a_file_larger_than_its_budget_is_not_read(write, monkeypatch) -> None:
    path = write(film())
    monkeypatch.setattr(budgets, "FILE_BYTES", path.stat().st_size - 1)
    assert refused(path) == "file_budget"
    with pytest.raises(Rejected, match="allowed"):
        survey(path)


def test_a_dicom_slide_may_be_larger_than_any_film_but_not_than_a_slide(write, monkeypatch) -> None:
    path = write(film({"SOPClassUID": WHOLE_SLIDE, "Modality": "SM"}))
    monkeypatch.setattr(budgets, "FILE_BYTES", path.stat().st_size - 1)
    assert read_header(path)["sop_class"] == WHOLE_SLIDE
    monkeypatch.setattr(budgets, "SLIDE_BYTES", path.stat().st_size - 1)
    assert refused(path) == "file_budget"


@pytest.mark.parametrize("at", range(140, 6638, 211))
def test_a_native_film_cut_anywhere_is_truncated_or_has_no_pixels(write, at) -> None:
    path = write(film()[:at])
    try:
        assert survey(path).pixels is None
    except Rejected as refusal:
        assert refusal.reason in ("truncated", "transfer_syntax")


@pytest.mark.parametrize("syntax", [*raw.COMPRESSED, raw.JPEG_12])
def test_a_lost_end_delimiter_is_told_and_lost_pixels_are_refused(write, syntax) -> None:
    whole = film(syntax=syntax)
    pixels = survey(write(whole[:-8])).pixels
    assert pixels is not None
    assert not pixels.closed
    with pytest.raises(Rejected) as caught:
        survey(write(whole[:-12]))
    assert caught.value.reason == "truncated"


def test_a_film_of_two_fragments_that_lost_the_second_is_truncated(write) -> None:
    stream = raw.stream(raw.J2K)
    whole = film(syntax=raw.J2K, pixels=[stream[:1000], stream[1000:]])
    cut = whole[: whole.index(stream[1000:1100]) - 8]  # at the end of the first
    with pytest.raises(Rejected) as caught:
        survey(write(cut))
    assert caught.value.reason == "truncated"


def test_what_precedes_the_pixels_is_read_of_a_bomb_without_inflating_it(write) -> None:
    from corpus_pixels import deflate_bomb

    header = film(named=DEFLATED)
    begin = header.index(b"\x08\0\x16\0UI")
    pixels = element(raw.PIXEL_DATA, b"", "OW", length=2**30)
    path = write(header[:begin] + deflate_bomb(header[begin : header.index(b"\xe0\x7f\x10\0OW")] + pixels, 1024))
    began = time.process_time()
    assert read_header(path)["rows"] == "48"
    assert time.process_time() - began < 0.1
    with pytest.raises(Rejected) as caught:
        survey(path)
    assert caught.value.reason == "inflate_budget"


@pytest.mark.parametrize("content", [
    raw.nested(100_000), raw.nested(100_000, undefined=True), raw.sequence(0x00400275, raw.item() * 1_000_000),
    element(0x00091001, b"", "LO") * 1_000_000,
])  # fmt: skip
def test_a_million_of_anything_costs_less_than_a_second(write, content) -> None:
    path = write(film(extra={0x00400275: content}))
    began = time.process_time()
    with pytest.raises(Rejected):
        survey(path)
    assert time.process_time() - began < 1


def test_sequences_of_every_kind_are_walked(write) -> None:
    inner = element(0x00080100, b"CODE", "SH")
    implicit = raw.item(element(0x00080100, b"CODE", implicit=True) + raw.nested(2, undefined=True, implicit=True))
    kinds = {
        0x00081111: raw.sequence(0x00081111, raw.item(inner), raw.item(inner, undefined=True)),
        0x00081115: raw.sequence(0x00081115, raw.item(inner), raw.item(), undefined=True),
        0x00091010: raw.sequence(0x00091010, implicit, vr="UN", undefined=True),
        0x00400275: raw.sequence(0x00400275, implicit, vr="UN"),
        0x00091011: raw.sequence(0x00091011, b"no sequence at all", vr="UN"),
    }
    plain = survey(write(film()))
    found = survey(write(film(extra=kinds)))
    assert found.items == plain.items + 4 + 2 * 3
    assert found.depth == 3
    assert found.elements == plain.elements + 5 + 3 + 2 * 3


def test_a_header_behind_delimiters_that_strayed_is_found(write) -> None:
    path = write(film(extra={0x00091001: raw.item() + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)}))
    assert read_header(path) == read_header(write(film(), "plain.dcm"))


def test_links_pipes_and_folders_are_not_opened(tmp_path, write) -> None:
    film_path = write(film())
    (tmp_path / "link.dcm").symlink_to(film_path)
    os.mkfifo(tmp_path / "pipe.dcm")
    (tmp_path / "folder.dcm").mkdir()
    for name in ("link", "pipe", "folder"):
        assert refused(tmp_path / f"{name}.dcm") == "not_a_file"


def test_what_is_no_dicom_file_is_told_by_its_name(write) -> None:
    assert refused(write(b"Dear colleague")) == "not_dicom"
    assert refused(write(b"Dear colleague", "letter.txt"), Skipped) == "not_an_image"
    assert refused(write(b"", "nothing"), Skipped) == "not_an_image"
    assert read_header(write(film(), "a film without suffix"))["modality"] == "DX"


@pytest.mark.parametrize(
    "uid", [b"../../etc", b"1.2\0.3", b"1." * 2500, b"1..2", b"1.2\\1.3", b"9" * 65, b"SMITH^JOHN", "٣".encode()]
)
def test_uids_that_are_none_are_refused_or_left_out(write, uid) -> None:
    assert refused(write(film({"SOPInstanceUID": ("UT", uid)}))) == "sop_uid"
    header = read_header(
        write(film({"StudyInstanceUID": ("UT", uid), "SeriesInstanceUID": ("UT", uid), "SOPClassUID": ("UT", uid)}))
    )
    assert (header["study_uid"], header["series_uid"], header["sop_class"]) == ("", "", "")


@pytest.mark.parametrize("uid", ["0.0", "9" * 64, "2.25.0"])
def test_uids_at_the_edge_are_kept(write, uid) -> None:
    assert read_header(write(film({"SOPInstanceUID": uid})))["sop_uid"] == uid


def test_values_that_may_be_a_name_are_left_out(write) -> None:
    said = {
        "Modality": "SMITH",
        "BodyPartExamined": "Smith, John",
        "ViewPosition": ("UT", b"J" * 70),
        "InstanceNumber": "Smith",
    }
    header = read_header(write(film({**said, "Rows": ("LO", b"Smith ")})))
    assert header["modality"] == "unknown"
    assert {header[name] for name in ("body_part", "view", "instance", "rows")} == {""}
    assert read_header(write(film({"Modality": None})))["modality"] == "unknown"  # "" is that of pictures
    assert {"CR", "DX", "CT", "MR", "SM", "SEG", "ANN", "RTSTRUCT"} <= MODALITIES


def test_words_that_identify_the_patient_are_told_apart(write) -> None:
    said = {
        "PatientName": "Müller^Änne",
        "PatientID": "ID-4711 7",
        "PatientBirthDate": "19700101",
        "AccessionNumber": "ACC.99",
    }
    _, words = read_facts(write(film(said)))
    assert words == ("19700101", "4711", "ACC", "Müller", "Änne")
    _, words = read_facts(write(film({"PatientName": ("PN", "Müller".encode("latin-1") + b" ")})))
    assert "Müller" in words


def test_headers_are_read_faster_than_4000_a_second(write) -> None:
    path = write(film())
    best = min(_seconds(path) for _ in range(5))
    assert best < 100 / 4000


def _seconds(path: Path) -> float:
    began = time.process_time()
    for _ in range(100):
        read_header(path)
    return time.process_time() - began
