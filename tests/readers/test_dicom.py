"""Opening DICOM files, and elements read by their type or refused by their keyword."""

import struct
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import raw
from pydicom import Dataset
from raw import film

from medvit.errors import Rejected
from medvit.readers.dicom import code, decimals, integer, open_dicom


@pytest.fixture
def opened(tmp_path):
    def opens(*arguments, **more) -> Dataset:
        path = tmp_path / "film.dcm"
        path.write_bytes(film(*arguments, **more))
        return open_dicom(path)

    return opens


def refused(call, *arguments) -> str:
    with pytest.raises(Rejected) as caught:
        call(*arguments)
    return caught.value.reason


@pytest.mark.parametrize("syntax", [raw.IMPLICIT, raw.EXPLICIT, raw.DEFLATED, raw.BIG])
def test_a_film_is_opened_with_its_pixels(opened, syntax) -> None:
    dataset = opened(syntax=syntax)
    assert dataset.file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(dataset.pixel_array, raw.stored())


@pytest.mark.parametrize("syntax", raw.COMPRESSED)
def test_a_film_without_its_end_delimiter_is_opened_as_if_it_had_one(tmp_path, syntax) -> None:
    whole = film(syntax=syntax)
    for lost in (3, 8):
        (tmp_path / "film.dcm").write_bytes(whole[:-lost])
        assert len(open_dicom(tmp_path / "film.dcm").PixelData) in (
            len(raw.fragments(raw.stream(syntax))) - 8 * n for n in (0, 1)
        )


def test_a_film_without_preamble_is_opened(tmp_path) -> None:
    (tmp_path / "film.dcm").write_bytes(film()[132:])
    assert open_dicom(tmp_path / "film.dcm").Rows == raw.ROWS


def test_a_link_that_a_table_names_is_followed(tmp_path) -> None:
    (tmp_path / "film.dcm").write_bytes(film())
    (tmp_path / "link.dcm").symlink_to("film.dcm")
    assert open_dicom(tmp_path / "link.dcm").Rows == raw.ROWS


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "not_dicom"), (bytes(128) + b"DICM", "transfer_syntax"), (film()[:-100], "truncated"),
    (film(named="1.2.3"), "transfer_syntax"), (film(named=raw.BIG), "transfer_syntax"),
    (film({"SOPClassUID": None, "SOPInstanceUID": None}), "no_sop_uid"), (raw.wrap(b"", raw.EXPLICIT), "truncated"),
    (film(extra={0x00400275: raw.nested(65)}), "nesting"),
])  # fmt: skip
def test_what_is_no_whole_film_is_refused(tmp_path, data, reason) -> None:
    (tmp_path / "film.dcm").write_bytes(data)
    assert refused(open_dicom, tmp_path / "film.dcm") == reason


def test_a_file_that_is_not_there_is_no_damaged_file(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        open_dicom(tmp_path / "none.dcm")


def test_memory_that_runs_out_is_not_the_files_fault(opened, monkeypatch) -> None:
    def full(source: object) -> None:
        raise MemoryError

    monkeypatch.setattr(pydicom, "dcmread", full)
    with pytest.raises(MemoryError):
        opened()


@pytest.mark.parametrize(
    "value",
    [("US", struct.pack("<H", 48)), ("UL", struct.pack("<I", 48)), ("IS", b"48"), ("SL", struct.pack("<i", 48))],
)
def test_whole_numbers_of_any_whole_type_are_read(opened, value) -> None:
    assert integer(opened({"Rows": value}), "Rows", 1, 65535) == 48


@pytest.mark.parametrize("value", [
    ("LO", b"48"), ("US", struct.pack("<HH", 48, 64)), ("US", b""), ("IS", b"1.5"), ("IS", b"ZZSECRET"), ("DS", b"48"),
    ("FD", struct.pack("<d", 48)), ("FL", struct.pack("<f", np.nan)), ("OB", b"\x30\0"), ("SQ", raw.item()),
    ("IS", b"48\\48"), ("AT", bytes(4)), ("US", struct.pack("<H", 0)), ("UL", struct.pack("<I", 2**31)), None,
])  # fmt: skip
def test_what_is_no_single_whole_number_is_refused_by_its_keyword(opened, value) -> None:
    dataset = opened({"Rows": value}, extra={})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # pydicom's repeat the value
        with pytest.raises(Rejected, match="Rows") as caught:
            integer(dataset, "Rows", 1, 65535)
    assert caught.value.reason == "tag"
    assert "SECRET" not in str(caught.value)


def test_a_number_that_is_absent_or_empty_has_its_default(opened) -> None:
    dataset = opened({"NumberOfFrames": ("IS", b""), "SamplesPerPixel": None})
    assert integer(dataset, "NumberOfFrames", 1, 9, default=1) == 1
    assert integer(dataset, "SamplesPerPixel", 1, 9, default=3) == 3


@pytest.mark.parametrize(("value", "numbers"), [
    (("DS", b"0.2\\0.3 "), (0.2, 0.3)), (("DS", b"1e-1"), (0.1,)), (("FD", struct.pack("<2d", 0.5, 2)), (0.5, 2.0)),
    (("DS", b""), ()), (None, ()), (("IS", b"3\\4 "), (3.0, 4.0)), (("US", struct.pack("<H", 7)), (7.0,)),
])  # fmt: skip
def test_decimals_of_any_numeric_type_are_read(opened, value, numbers) -> None:
    assert decimals(opened({"PixelSpacing": value}), "PixelSpacing") == numbers


@pytest.mark.parametrize("value", [
    ("DS", b"ZZSECRET"), ("DS", b"0,5\\0,5 "), ("DS", b"nan\\1 "), ("DS", b"1e999 "), ("FD", struct.pack("<d", np.inf)),
    ("DS", b"1\\\\2"), ("SQ", raw.item()), ("FD", b"\1\2"), ("DS", b"\xff\xfe"),
])  # fmt: skip
def test_decimals_that_are_no_finite_numbers_are_refused_by_their_keyword(opened, value) -> None:
    with pytest.raises(Rejected, match="PixelSpacing") as caught:
        decimals(opened({"PixelSpacing": value}), "PixelSpacing")
    assert caught.value.reason == "tag"
    assert "SECRET" not in str(caught.value)


def test_codes_are_read_in_capitals_and_refused_when_they_are_none(opened) -> None:
    assert code(opened({"PhotometricInterpretation": "monochrome2 "}), "PhotometricInterpretation") == "MONOCHROME2"
    assert code(opened(), "VOILUTFunction", "LINEAR") == "LINEAR"
    for value in (
        ("CS", b"A\\B "),
        ("UT", b"A" * 70),
        ("LO", b"\xff\xfe"),
        ("US", b"\1\0"),
        ("SQ", raw.item()),
        ("LO", b"a\nb "),
    ):
        assert refused(code, opened({"PhotometricInterpretation": value}), "PhotometricInterpretation") == "tag"


def test_nothing_of_a_header_is_warned_about(tmp_path, recwarn) -> None:
    path = Path(tmp_path / "film.dcm")
    path.write_bytes(film({"PixelSpacing": ("DS", b"ZZSECRET"), "SpecificCharacterSet": ("CS", b"ZZSECRET")}))
    dataset = open_dicom(path)
    refused(decimals, dataset, "PixelSpacing")
    assert not [str(warning.message) for warning in recwarn if "SECRET" in str(warning.message)]
