"""Stored values of pixel data: every decoder against its uncompressed twin, and headers that lie."""

import importlib.util
import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import JPEG2000LosslessEncoder, JPEGLSLosslessEncoder, RLELosslessEncoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from medvit import budgets
from medvit.errors import Rejected
from medvit.readers import codecs, codestream
from medvit.readers.codecs import CODECS
from medvit.readers.pixels import available, decode

RNG = np.random.default_rng(3)
RAMP = (np.add.outer(np.arange(40), np.arange(56)) * 37 % 4096).astype(np.uint16)
SMOOTH = np.add.outer(np.arange(40), np.arange(56)).astype(np.uint8)
ENCODERS = {
    RLELossless: RLELosslessEncoder,
    JPEG2000Lossless: JPEG2000LosslessEncoder,
    JPEGLSLossless: JPEGLSLosslessEncoder,
}
# An RLE frame says of its size only how many pixels it can hold at most.
LIES = [(RLELossless, 4000), *((syntax, rows) for syntax in (JPEG2000Lossless, JPEGLSLossless, JPEGBaseline8Bit)
                               for rows in (39, 41, 4000))]  # fmt: skip


def image(values: np.ndarray, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> Dataset:
    """A data set of one frame; ``values`` are compressed where the syntax asks for that."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = UID(syntax)
    made.Rows, made.Columns = values.shape[:2]
    made.SamplesPerPixel = 3 if values.ndim == 3 else 1
    made.PhotometricInterpretation = "RGB" if values.ndim == 3 else "MONOCHROME2"
    made.PlanarConfiguration = 0
    made.BitsAllocated = made.BitsStored = values.dtype.itemsize * 8
    made.PixelRepresentation = int(values.dtype.kind == "i")
    packed = UID(syntax).is_encapsulated
    made.PixelData = encapsulate([frame(values, syntax)]) if packed else values.tobytes()
    for keyword, value in elements.items():
        if value is None:
            del made[keyword]
        else:
            setattr(made, keyword, value)
    return made


def frame(values: np.ndarray, syntax: str) -> bytes:
    """Values compressed as a transfer syntax has it."""
    if syntax == JPEGBaseline8Bit:
        out = io.BytesIO()
        Pillow.fromarray(values.astype(np.uint8)).save(out, "JPEG", quality=95)
        return out.getvalue()
    if syntax in (JPEGExtended12Bit, JPEGLosslessSV1):
        turbo = pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")
        if syntax == JPEGExtended12Bit:
            return bytes(turbo.jpeg8_encode(values, bitspersample=12, level=98))
        return bytes(turbo.jpeg8_encode(values, lossless=True, bitspersample=values.dtype.itemsize * 8, predictor=1))
    if syntax == HTJ2KLossless:
        return bytes(pytest.importorskip("imagecodecs", reason="imagecodecs is not installed").htj2k_encode(values))
    encoder = ENCODERS[UID(syntax)]
    if not encoder.is_available:
        pytest.skip(f"no encoder for {UID(syntax).name} is installed")
    return encoder.encode(image(values), index=0)


def refused(dataset: Dataset) -> str:
    with pytest.raises(Rejected) as caught:
        decode(dataset)
    return caught.value.reason


def needs(syntax: str) -> None:
    if not available(syntax):
        pytest.skip(f"no decoder for {UID(syntax).name} is installed")


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<i2"])
@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, HTJ2KLossless])
def test_a_lossless_frame_equals_its_uncompressed_twin(syntax, dtype) -> None:
    needs(syntax)
    values = RNG.integers(0, 200, (37, 43)).astype(dtype)
    if dtype == "<i2":
        if syntax in (JPEGLosslessSV1, HTJ2KLossless):
            pytest.skip("its encoder here takes no signed values")
        values -= 100
    decoded = decode(image(values, syntax))
    np.testing.assert_array_equal(decoded, values)
    assert decoded.dtype == values.dtype


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1])
def test_a_lossless_colour_frame_equals_its_uncompressed_twin(syntax) -> None:
    needs(syntax)
    values = RNG.integers(0, 256, (37, 43, 3)).astype(np.uint8)
    np.testing.assert_array_equal(decode(image(values, syntax)), values)


def test_a_12_bit_jpeg_is_decoded_nearly() -> None:
    needs(JPEGExtended12Bit)
    smooth = (SMOOTH.astype(np.uint16) + 700) * 4
    decoded = decode(image(smooth, JPEGExtended12Bit, BitsStored=12))
    assert decoded.dtype == np.uint16
    assert abs(decoded.astype(int) - smooth).max() <= 8


@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_colour_jpeg_keeps_the_colours_that_it_stores(subsampling) -> None:
    flat = np.empty((32, 32, 3), np.uint8)
    flat[:] = (200, 30, 90)
    out = io.BytesIO()
    Pillow.fromarray(flat).save(out, "JPEG", quality=100, subsampling=subsampling)
    decoded = decode(image(flat, JPEGBaseline8Bit, PixelData=encapsulate([out.getvalue()])))
    stored = np.asarray(Pillow.fromarray(flat).convert("YCbCr"))
    assert abs(decoded.astype(int) - stored).max() <= 2
    assert abs(decoded.astype(int) - flat).max() > 50


NATIVE: list[tuple[str, dict[str, Any]]] = [
    (ExplicitVRLittleEndian, {}),
    (ExplicitVRBigEndian, {}),
    (ExplicitVRLittleEndian, {"BitsStored": 9}),
    (ExplicitVRLittleEndian, {"BitsStored": 9, "PixelRepresentation": 1}),
    (ExplicitVRLittleEndian, {"Columns": 112, "BitsAllocated": 8, "BitsStored": 5}),
    (ExplicitVRBigEndian, {"Columns": 112, "BitsAllocated": 8, "BitsStored": 8}),
    (ExplicitVRLittleEndian, {"Columns": 896, "BitsAllocated": 1, "BitsStored": 1}),
    (ExplicitVRLittleEndian, {"Columns": 28, "BitsAllocated": 32, "BitsStored": 32}),
    (ExplicitVRLittleEndian, {"Rows": 20, "NumberOfFrames": 2}),
    (ExplicitVRLittleEndian, {"Rows": 20, "Columns": 112, "SamplesPerPixel": 3, "PhotometricInterpretation":
                              "YBR_FULL_422", "BitsAllocated": 8, "BitsStored": 8}),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("syntax", "elements"), NATIVE)
def test_uncompressed_pixels_are_those_of_pydicom(syntax, elements) -> None:
    made = image(RNG.integers(0, 65536, RAMP.shape).astype(np.uint16), syntax, **elements)
    made["PixelData"].VR = "OW"
    decoded, expected = decode(made), pixel_array(made, raw=True)
    np.testing.assert_array_equal(decoded, expected)
    assert decoded.dtype == expected.dtype


def test_uncompressed_pixels_are_not_copied_when_nothing_has_to_change() -> None:
    made = image(RAMP, BitsStored=12)
    assert np.shares_memory(decode(made), np.frombuffer(made.PixelData, np.uint8))


@pytest.mark.parametrize(("syntax", "rows"), LIES)
def test_a_header_that_lies_about_the_size_is_refused_before_anything_is_decoded(monkeypatch, syntax, rows) -> None:
    needs(syntax)
    called = []
    monkeypatch.setitem(CODECS, UID(syntax), CODECS[UID(syntax)]._replace(decode=lambda *_: called.append(1)))
    values = RNG.integers(0, 256, (40, 56)).astype(np.uint8)
    right = image(values, syntax)
    right.Rows = rows
    assert refused(right) in ("size_mismatch", "truncated")
    assert not called


def test_an_rle_frame_with_another_number_of_segments_is_refused() -> None:
    assert refused(image(RAMP, RLELossless, BitsAllocated=32)) == "size_mismatch"
    assert refused(image(SMOOTH, RLELossless, SamplesPerPixel=3, PhotometricInterpretation="RGB")) == "size_mismatch"


@pytest.mark.parametrize("count", [0, -5, 10**6, 2**31 - 1])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_an_impossible_number_of_frames_is_refused(syntax, count) -> None:
    assert refused(image(SMOOTH, syntax, NumberOfFrames=count)) == "frames"


@pytest.mark.parametrize("declared", [2, 7])
def test_fewer_compressed_frames_than_declared_are_refused(declared) -> None:
    assert refused(image(SMOOTH, RLELossless, NumberOfFrames=declared)) == "frames"


def test_more_frames_than_declared_are_refused() -> None:
    three = np.concatenate([RAMP, RAMP, RAMP])
    assert refused(image(RAMP, PixelData=three.tobytes())) == "frames"
    needs(JPEGLSLossless)
    packed = frame(RAMP, JPEGLSLossless)
    for declared in (1, 2):
        made = image(RAMP, JPEGLSLossless, NumberOfFrames=declared, PixelData=encapsulate([packed] * 3, has_bot=False))
        assert refused(made) == "frames"


@pytest.mark.parametrize("has_bot", [True, False])
@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_frames_in_several_fragments_are_put_together(has_bot, pieces) -> None:
    needs(JPEGLSLossless)
    clip = np.stack([RAMP, RAMP[::-1], RAMP // 2])
    packed = encapsulate([frame(one, JPEGLSLossless) for one in clip], fragments_per_frame=pieces, has_bot=has_bot)
    decoded = decode(image(RAMP, JPEGLSLossless, NumberOfFrames=3, PixelData=packed))
    np.testing.assert_array_equal(decoded, clip)


@pytest.mark.parametrize("lost", [2, 100, 2000])
def test_uncompressed_pixels_that_break_off_are_truncated(lost) -> None:
    assert refused(image(RAMP, PixelData=RAMP.tobytes()[:-lost])) == "truncated"


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGBaseline8Bit, RLELossless])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_compressed_frame_that_breaks_off_is_refused(syntax, share) -> None:
    needs(syntax)
    whole = frame(RNG.integers(0, 256, (40, 56)).astype(np.uint8), syntax)
    made = image(SMOOTH, syntax, PixelData=encapsulate([whole[: int(len(whole) * share)]]))
    assert refused(made) in ("truncated", "undecodable")
    cut = encapsulate([whole])[:-60]  # the item itself breaks off
    assert refused(image(SMOOTH, syntax, PixelData=cut)) == "truncated"


def test_the_wrong_kind_of_stream_is_refused() -> None:
    needs(JPEGLosslessSV1)
    sequential = encapsulate([frame(SMOOTH, JPEGBaseline8Bit)])
    assert refused(image(SMOOTH, JPEGLosslessSV1, PixelData=sequential)) == "transfer_syntax"
    assert refused(image(SMOOTH, JPEG2000Lossless, PixelData=sequential)) == "undecodable"
    assert refused(image(SMOOTH, JPEGBaseline8Bit, PixelData=SMOOTH.tobytes())) == "transfer_syntax"
    assert refused(_named("1.2.840.10008.1.2.4.100")) == "transfer_syntax"  # MPEG2
    out = io.BytesIO()
    Pillow.fromarray(SMOOTH).save(out, "JPEG", progressive=True)
    assert refused(image(SMOOTH, JPEGBaseline8Bit, PixelData=encapsulate([out.getvalue()]))) == "transfer_syntax"


def test_a_scan_of_less_than_all_coefficients_is_refused() -> None:
    stream = bytearray(frame(SMOOTH, JPEGBaseline8Bit))
    stream[stream.index(b"\x00\x3f\x00", stream.index(b"\xff\xda")) + 1] = 0
    assert refused(image(SMOOTH, JPEGBaseline8Bit, PixelData=encapsulate([bytes(stream)]))) == "undecodable"


@pytest.mark.parametrize("segment", [b"\xff\xfe\x00\x00", b"\xff\xfe\xff\xff", b"\xff\xfe\x00\x02" * 5000, b"\0\0\0\0"])
def test_damaged_segments_before_the_frame_header_end_the_search(segment) -> None:
    stream = frame(SMOOTH, JPEGBaseline8Bit)
    with pytest.raises(Rejected) as caught:
        codestream.jpeg(stream[:2] + segment + stream[2:], codestream.SEQUENTIAL)
    assert caught.value.reason == "undecodable"


def test_fill_bytes_and_comments_before_the_frame_header_are_passed_over() -> None:
    stream = frame(SMOOTH, JPEGBaseline8Bit)
    padded = stream[:2] + b"\xff\xff\xff\xfe\x00\x05abc" + stream[2:]
    assert codestream.jpeg(padded, codestream.SEQUENTIAL)[:4] == (40, 56, 1, 8)


def test_a_jpeg_2000_file_in_boxes_is_decoded_as_its_codestream() -> None:
    needs(JPEG2000Lossless)
    boxes = b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\0jp2c"
    made = image(RAMP, JPEG2000Lossless, PixelData=encapsulate([boxes + frame(RAMP, JPEG2000Lossless)]))
    np.testing.assert_array_equal(decode(made), RAMP)


def test_a_small_file_that_would_become_huge_is_refused(monkeypatch) -> None:
    needs(JPEG2000Lossless)
    flat = np.zeros((1024, 1024), np.uint16)
    made = image(flat, JPEG2000Lossless)
    assert len(made.PixelData) * budgets.DECODED_RATIO < flat.nbytes
    assert decode(made).shape == flat.shape  # but not much in itself
    monkeypatch.setattr(budgets, "RATIO_FREE_BYTES", flat.nbytes - 1)
    assert refused(made) == "pixel_budget"


@pytest.mark.parametrize(
    "elements",
    [
        {"Rows": 60000, "Columns": 60000},
        {"Rows": 0},
        {"NumberOfFrames": 90_000, "Rows": 4000, "Columns": 4000},
    ],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_more_pixels_than_the_budget_are_refused(syntax, elements) -> None:
    assert refused(image(SMOOTH, syntax, **elements)) == "pixel_budget"


@pytest.mark.parametrize("error", [StopIteration, RuntimeError, SystemError, KeyError])
def test_whatever_a_decoder_raises_is_a_refusal(monkeypatch, error) -> None:
    def fail(*_: object) -> None:
        raise error("ZZSECRET")

    monkeypatch.setitem(CODECS, RLELossless, CODECS[RLELossless]._replace(decode=fail))
    with pytest.raises(Rejected, match=error.__name__) as caught:
        decode(image(SMOOTH, RLELossless))
    assert caught.value.reason == "undecodable"
    assert "ZZSECRET" not in str(caught.value)


def test_a_lack_of_memory_is_passed_on(monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setitem(CODECS, RLELossless, CODECS[RLELossless]._replace(decode=fail))
    with pytest.raises(MemoryError):
        decode(image(SMOOTH, RLELossless))


@pytest.mark.parametrize("given_back", [np.zeros(3, np.uint8), np.zeros((40, 56), np.uint16)])
def test_a_decoder_that_gives_something_else_is_not_believed(monkeypatch, given_back) -> None:
    monkeypatch.setitem(CODECS, RLELossless, CODECS[RLELossless]._replace(decode=lambda *_: given_back))
    assert refused(image(SMOOTH, RLELossless)) == "undecodable"


@pytest.mark.parametrize("syntax", [syntax for syntax, codec in CODECS.items() if codec.library])
def test_a_missing_library_is_named_by_the_extra_that_brings_it(monkeypatch, syntax) -> None:
    found = importlib.util.find_spec
    library = CODECS[syntax].library
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == library else found(name))
    assert not available(syntax)
    with pytest.raises(Rejected, match=r"pip install medvit\[codecs\]") as caught:
        decode(_named(syntax))
    assert caught.value.reason == "no_decoder"


def _named(syntax: str) -> Dataset:
    made = image(SMOOTH)
    made.file_meta.TransferSyntaxUID = UID(syntax)
    return made


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.binary(max_size=400), size=st.integers(1, 300))
def test_any_bytes_unpack_to_as_many_as_asked_for_or_are_refused(data, size) -> None:
    try:
        assert len(codecs._unpack_bits(data, size)) == size
    except Rejected as refusal:
        assert refusal.reason in ("truncated", "size_mismatch")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.binary(min_size=1, max_size=400))
def test_any_bytes_as_a_frame_are_refused(data) -> None:
    for syntax in CODECS:
        made = _named(syntax)
        made.PixelData = encapsulate([data])
        with pytest.raises(Rejected):
            decode(made)


def test_offsets_of_rle_segments_that_go_backwards_are_refused() -> None:
    stream = bytearray(frame(RAMP, RLELossless))
    stream[4:12] = struct.pack("<2L", 200, 64)
    assert refused(image(RAMP, RLELossless, PixelData=encapsulate([bytes(stream)]))) == "undecodable"
