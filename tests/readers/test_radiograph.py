"""Films as displayed: the grey-scale pipeline against pydicom's own, and every named reason to refuse a file."""

import errno
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageOps
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut, apply_windowing
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from medvit.errors import Rejected, Unanswered
from medvit.readers.codecs import CODECS
from medvit.readers.pixels import available
from medvit.readers.radiograph import read_radiograph

OPEN_FILMS = Path(__file__).resolve().parents[3] / "shared/data/cxr/open/dicom"
RNG = np.random.default_rng(7)
RAMP = (np.add.outer(np.arange(48), np.arange(64)) * 37) % 4096  # (48, 64), 12 bits
RAMP[0, :2] = 0, 4095  # the whole range of 12 bits


@pytest.fixture(scope="session")
def small_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for tests that write many films."""
    return tmp_path_factory.mktemp("films") / "film.dcm"


def pixels_of(path: Path) -> np.ndarray:
    image = read_radiograph(path)
    assert image.pixels.dtype == np.float32
    assert image.pixels.min() >= 0
    assert image.pixels.max() <= 1
    return image.pixels[0]


def refused(path: Path) -> str:
    with pytest.raises(Rejected) as caught:
        read_radiograph(path)
    return caught.value.reason


def lut(values: np.ndarray, first: int, bits: int, modality: bool = False) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(values) % 2**16, first, bits])
    item.add_new("LUTData", "US", [int(value) for value in values])
    if modality:
        item.ModalityLUTType = "US"
    return item


def windowed(path: Path) -> np.ndarray:
    """What pydicom makes of a film through its modality transform and VOI, scaled from its output range to [0, 1]."""
    film = pydicom.dcmread(path)
    with np.errstate(over="ignore"):
        grey = apply_voi_lut(apply_modality_lut(film.pixel_array, film), film)
    bits, signed = int(film.BitsStored), bool(film.PixelRepresentation)
    if film.get("VOILUTSequence"):
        return grey / (2 ** film.VOILUTSequence[0].LUTDescriptor[2] - 1)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if film.get("ModalityLUTSequence"):
        low, high = 0, 2 ** film.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    elif "RescaleSlope" in film:
        low, high = (edge * float(film.RescaleSlope) + float(film.RescaleIntercept) for edge in (low, high))
    return (grey - low) / (high - low)


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1300, "WindowWidth": 900}])
def test_a_monochrome1_film_equals_its_inverted_monochrome2_twin(make_film, tmp_path, window) -> None:
    one = make_film(tmp_path / "one.dcm", RAMP, "MONOCHROME1", **window)
    if window:  # PS3.3 C.11.2.1.2: LINEAR is centred half a value to the left
        window = {"WindowCenter": 4095 - window["WindowCenter"] + 1, "WindowWidth": window["WindowWidth"]}
    two = make_film(tmp_path / "two.dcm", 4095 - RAMP, "MONOCHROME2", **window)
    np.testing.assert_allclose(pixels_of(one), pixels_of(two), atol=1e-6)
    assert "inverted" in read_radiograph(one).origin["photometric"]
    assert read_radiograph(two).origin["photometric"] == "MONOCHROME2"


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_twins_agree_for_symmetric_windows_too(make_film, tmp_path, function) -> None:
    said = {"WindowWidth": 700, "VOILUTFunction": function}
    one = make_film(tmp_path / "one.dcm", RAMP, "MONOCHROME1", WindowCenter=1000, **said)
    two = make_film(tmp_path / "two.dcm", 4095 - RAMP, WindowCenter=4095 - 1000, **said)
    np.testing.assert_allclose(pixels_of(one), pixels_of(two), atol=1e-6)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_every_depth_is_read_and_a_film_without_window_fills_its_range(make_film, tmp_path, bits, signed) -> None:
    low = -(2 ** (bits - 1)) if signed else 0
    stored = RNG.integers(low, low + 2**bits, (20, 31))
    stored[0, :2] = low, low + 2**bits - 1
    path = make_film(tmp_path / "film.dcm", stored, bits=bits, signed=signed)
    np.testing.assert_allclose(pixels_of(path), (stored - low) / (2**bits - 1), atol=1e-6)


def test_without_a_window_the_range_of_the_film_is_used_and_origin_says_so(make_film, tmp_path) -> None:
    stored = RNG.integers(100, 901, (20, 30))
    stored[0, :2] = 100, 900
    image = read_radiograph(make_film(tmp_path / "film.dcm", stored))
    np.testing.assert_allclose(image.pixels[0], (stored - 100) / 800, atol=1e-6)
    assert image.origin["voi"] == "no window in the file: its range 100 to 900"


@pytest.mark.parametrize("width", ["0", "-20", "0.5"])
def test_a_window_without_width_counts_as_none(make_film, tmp_path, width) -> None:
    path = make_film(tmp_path / "film.dcm", RAMP, WindowCenter="2000", WindowWidth=width)
    assert "no window" in read_radiograph(path).origin["voi"]


def test_a_narrow_exact_window_is_used(make_film, tmp_path) -> None:
    path = make_film(tmp_path / "film.dcm", RAMP, WindowCenter="2000", WindowWidth="0.5", VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_array_equal(pixels_of(path), np.where(RAMP == 2000, 0.5, RAMP > 2000))
    assert "window 2000/0.5 LINEAR_EXACT" in read_radiograph(path).origin["voi"]


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    centre=st.integers(-1000, 5000),
    width=st.integers(2, 6000),
    rescale=st.sampled_from([None, (1, -1024), (0.5, 10), (2.5, 0)]),
    signed=st.booleans(),
)
def test_windows_agree_with_pydicom(make_film, small_film, function, centre, width, rescale, signed) -> None:
    elements: dict[str, Any] = {"WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": function}
    if rescale:
        elements |= {"RescaleSlope": rescale[0], "RescaleIntercept": rescale[1], "RescaleType": "US"}
    path = make_film(small_film, RAMP - 2048 if signed else RAMP, signed=signed, **elements)
    film = pydicom.dcmread(path)
    values = apply_modality_lut(film.pixel_array, film)
    with np.errstate(over="ignore"):
        assert not np.array_equal(apply_windowing(values, film), values)  # the reference does something
    expected = windowed(path)
    assume(not 0 < np.ptp(expected) < 1e-6)  # float32 cannot tell these greys apart
    if expected.min() == expected.max():
        assert refused(path) == "no_contrast"
    else:
        np.testing.assert_allclose(pixels_of(path), expected, atol=1e-5)


def test_of_several_windows_the_first_is_used(make_film, tmp_path) -> None:
    several = make_film(tmp_path / "a.dcm", RAMP, WindowCenter=[1000, 3000], WindowWidth=[500, 90])
    first = make_film(tmp_path / "b.dcm", RAMP, WindowCenter=1000, WindowWidth=500)
    np.testing.assert_array_equal(pixels_of(several), pixels_of(first))
    assert read_radiograph(several).origin["voi"] == "window 1000/500 LINEAR of the file"


def test_rescale_comes_before_the_window(make_film, tmp_path) -> None:
    said = {"RescaleSlope": 2, "RescaleIntercept": -500, "WindowCenter": 1500, "WindowWidth": 2000}
    path = make_film(tmp_path / "film.dcm", RAMP, VOILUTFunction="LINEAR_EXACT", **said)
    np.testing.assert_allclose(pixels_of(path), ((RAMP * 2 - 500 - 1500) / 2000 + 0.5).clip(0, 1), atol=1e-6)
    assert read_radiograph(path).origin["modality"] == "rescale 2, -500 of the file"


def test_a_negative_slope_turns_the_film_around(make_film, tmp_path) -> None:
    path = make_film(tmp_path / "film.dcm", RAMP, RescaleSlope=-1, RescaleIntercept=4095)
    np.testing.assert_allclose(pixels_of(path), 1 - RAMP / 4095, atol=1e-6)


def test_a_modality_lut_comes_before_the_window(make_film, tmp_path) -> None:
    table = (np.sqrt(np.arange(4096) / 4095) * 65535).round()
    path = make_film(
        tmp_path / "film.dcm",
        RAMP,
        ModalityLUTSequence=[lut(table, 0, 16, modality=True)],
        WindowCenter=30000,
        WindowWidth=40000,
    )
    np.testing.assert_allclose(pixels_of(path), windowed(path), atol=1e-5)
    assert read_radiograph(path).origin["modality"] == "modality LUT of the file"


@pytest.mark.parametrize(("first", "bits", "signed"), [(0, 12, False), (700, 16, False), (-300, 10, True)])
def test_a_voi_lut_agrees_with_pydicom(make_film, tmp_path, first, bits, signed) -> None:
    table = ((np.arange(1500) / 1499) ** 2 * (2**bits - 1)).round()
    stored = RAMP - 2048 if signed else RAMP
    path = make_film(tmp_path / "film.dcm", stored, signed=signed, VOILUTSequence=[lut(table, first, bits)])
    np.testing.assert_allclose(pixels_of(path), windowed(path), atol=1e-6)
    assert read_radiograph(path).origin["voi"] == "VOI LUT of the file"


def test_a_voi_lut_wins_over_a_window(make_film, tmp_path) -> None:
    item = lut(np.arange(4096), 0, 12)
    path = make_film(tmp_path / "film.dcm", RAMP, VOILUTSequence=[item], WindowCenter=10, WindowWidth=10)
    np.testing.assert_allclose(pixels_of(path), RAMP / 4095, atol=1e-6)


def test_pixel_padding_becomes_black_and_does_not_stretch_the_range(make_film, tmp_path) -> None:
    stored = RNG.integers(1000, 2001, (20, 30))
    stored[0, 10:12] = 1000, 2000
    stored[:, :5] = 0
    path = make_film(tmp_path / "two.dcm", stored, PixelPaddingValue=0)
    film = pixels_of(path)
    assert (film[:, :5] == 0).all()
    np.testing.assert_allclose(film[:, 5:], (stored[:, 5:] - 1000) / 1000, atol=1e-6)
    assert read_radiograph(path).origin["padding"] == "16.7% of pixels set to black"
    inverted = pixels_of(make_film(tmp_path / "one.dcm", stored, "MONOCHROME1", PixelPaddingValue=0))
    assert (inverted[:, :5] == 0).all()  # black, also where small values are bright
    np.testing.assert_allclose(inverted[:, 5:], 1 - film[:, 5:], atol=1e-6)


def test_a_range_of_padding_and_negative_padding_are_known(make_film, tmp_path) -> None:
    stored = RAMP - 2048
    path = make_film(tmp_path / "a.dcm", stored, signed=True, PixelPaddingValue=-2048, PixelPaddingRangeLimit=-2000)
    assert (pixels_of(path)[stored <= -2000] == 0).all()
    assert "set to black" in read_radiograph(path).origin["padding"]
    low = stored[stored > -2000].min()
    assert read_radiograph(path).origin["voi"] == f"no window in the file: its range {low} to 2047"


def test_padding_between_the_greys_is_black_too_and_leaves_the_range_alone(make_film, tmp_path) -> None:
    path = make_film(tmp_path / "film.dcm", RAMP, PixelPaddingValue=2000, PixelPaddingRangeLimit=1000)
    padded = (RAMP >= 1000) & (RAMP <= 2000)
    np.testing.assert_allclose(pixels_of(path), np.where(padded, 0, RAMP / 4095), atol=1e-6)
    assert read_radiograph(path).origin["padding"] == f"{padded.mean():.1%} of pixels set to black"


@pytest.mark.parametrize("value", [0, 4000])
def test_a_film_that_is_all_padding_or_holds_none_is_shown_whole(make_film, tmp_path, value) -> None:
    stored = RNG.integers(100, 901, (20, 30))
    path = make_film(tmp_path / "film.dcm", stored, PixelPaddingValue=value, PixelPaddingRangeLimit=min(value, 50))
    assert read_radiograph(path).origin["padding"] == "none"
    whole = make_film(tmp_path / "whole.dcm", stored, PixelPaddingValue=0, PixelPaddingRangeLimit=1000)
    assert read_radiograph(whole).origin["padding"] == "none"


def test_a_lut_that_ends_where_it_begins_has_contrast_when_its_middle_is_used(make_film, tmp_path) -> None:
    tent = 2047 - abs(np.arange(4096) - 2047.5).astype(int)
    film = pixels_of(make_film(tmp_path / "film.dcm", RAMP, VOILUTSequence=[lut(tent, 0, 12)]))
    np.testing.assert_allclose(film, tent[RAMP] / 4095, atol=1e-6)
    ends = np.where(RNG.random((20, 30)) < 0.5, 0, 4095)
    assert refused(make_film(tmp_path / "ends.dcm", ends, VOILUTSequence=[lut(tent, 0, 12)])) == "no_contrast"


SPACINGS = [
    ({"PixelSpacing": ["0.2", "0.3"]}, (0.2, 0.3), "PixelSpacing"),
    ({"ImagerPixelSpacing": ["0.14", "0.15"]}, (0.14, 0.15), "ImagerPixelSpacing"),
    ({"PixelSpacing": ["0.2", "0.3"], "ImagerPixelSpacing": ["0.1", "0.1"]}, (0.2, 0.3), "PixelSpacing"),
    ({"PixelSpacing": ["0", "0.3"], "ImagerPixelSpacing": ["0.1", "0.1"]}, (0.1, 0.1), "ImagerPixelSpacing"),
    ({}, None, "none in the file"),
    *(({"PixelSpacing": value}, None, "none in the file") for value in
      (b"0\\0", b"-0.5\\0.5", b"0.5", b"abc", b"abc\\0.5", b"nan\\inf", b"0,5\\0,5", b"1\\1\\1", b"")),
]  # fmt: skip


@pytest.mark.parametrize(("elements", "spacing", "source"), SPACINGS)
def test_spacing_is_read_with_its_source_or_is_none(make_film, tmp_path, elements, spacing, source) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = read_radiograph(make_film(tmp_path / "film.dcm", RAMP, **elements))
    assert image.spacing == spacing
    assert image.origin["spacing"] == source


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_other_uncompressed_syntaxes_give_the_same_film(make_film, tmp_path, syntax) -> None:
    plain = make_film(tmp_path / "a.dcm", RAMP, WindowCenter=2000, WindowWidth=3000)
    other = make_film(tmp_path / "b.dcm", RAMP, syntax=syntax, WindowCenter=2000, WindowWidth=3000)
    np.testing.assert_array_equal(pixels_of(plain), pixels_of(other))


def test_a_big_endian_film_is_read(make_film, tmp_path) -> None:
    film = pydicom.dcmread(make_film(tmp_path / "a.dcm", RAMP))
    film.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    film.PixelData = RAMP.astype(">u2").tobytes()
    pydicom.dcmwrite(tmp_path / "b.dcm", film, implicit_vr=False, little_endian=False)
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.dcm"), pixels_of(tmp_path / "b.dcm"))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_losslessly_compressed_films_equal_their_uncompressed_twin(make_film, tmp_path, syntax) -> None:
    if not available(syntax):
        pytest.skip(f"no decoder for {UID(syntax).name} is installed")
    try:
        packed = make_film(tmp_path / "b.dcm", RAMP, syntax=syntax)
    except (RuntimeError, NotImplementedError):
        pytest.skip(f"no encoder for {UID(syntax).name} is installed")
    np.testing.assert_array_equal(pixels_of(packed), pixels_of(make_film(tmp_path / "a.dcm", RAMP)))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_damaged_compressed_films_are_rejected_or_read_but_never_end_the_process(make_film, tmp_path, syntax) -> None:
    if not available(syntax):
        pytest.skip(f"no decoder for {UID(syntax).name} is installed")
    try:
        whole = make_film(tmp_path / "whole.dcm", RAMP, syntax=syntax).read_bytes()
    except (RuntimeError, NotImplementedError):
        pytest.skip(f"no encoder for {UID(syntax).name} is installed")
    rng, damaged = np.random.default_rng(0), tmp_path / "damaged.dcm"
    outcomes = []
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(500, len(data), 4):
            data[place] = rng.integers(256)
        damaged.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                outcomes.append(read_radiograph(damaged).pixels.ndim == 3)
            except Rejected:
                outcomes.append(False)
    assert len(outcomes) == 60
    assert False in outcomes  # the damage was felt


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless])
def test_a_film_cut_anywhere_is_rejected(make_film, tmp_path, syntax, keep) -> None:
    path = make_film(tmp_path / "film.dcm", RNG.integers(0, 4096, (64, 64)), syntax=syntax)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) - 8])  # a sequence delimiter of 8 bytes may be lost unharmed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert refused(path) in ("truncated", "no_pixels", "undecodable")


REFUSALS: list[tuple[str, dict[str, Any]]] = [
    ("no_contrast", {"pixels": np.full((20, 30), 77)}),
    ("no_contrast", {"WindowCenter": 60000, "WindowWidth": 2}),  # everything is black
    ("no_pixels", {"PixelData": None}),
    ("photometric", {"PhotometricInterpretation": "PALETTE COLOR"}),
    ("photometric", {"PhotometricInterpretation": "XENON"}),
    ("photometric", {"PhotometricInterpretation": None}),
    ("photometric", {"pixels": np.zeros((20, 30, 3), int), "photometric": "RGB", "bits": 8}),
    ("frames", {"pixels": np.stack([RAMP, RAMP]), "NumberOfFrames": 2}),
    ("frames", {"pixels": np.stack([RAMP, RAMP, RAMP])}),  # more pixels than the header declares
    ("frames", {"NumberOfFrames": -5}),
    ("truncated", {"Rows": 4000}),
    ("pixel_budget", {"Rows": 60000, "Columns": 60000}),
    ("pixel_budget", {"Rows": 0}),
    ("bits", {"BitsAllocated": 32}),
    ("rescale", {"RescaleSlope": b"0", "RescaleIntercept": b"0"}),
    ("rescale", {"RescaleSlope": b"1e308", "RescaleIntercept": b"0"}),
    ("rescale", {"RescaleSlope": b"NaN", "RescaleIntercept": b"0"}),
    ("rescale", {"RescaleSlope": b"1", "RescaleIntercept": b"inf"}),
    ("rescale", {"RescaleSlope": b"one", "RescaleIntercept": b"0"}),
    ("rescale", {"RescaleSlope": b"1\\2", "RescaleIntercept": b"0"}),
    ("tag", {"WindowCenter": b"middle", "WindowWidth": b"9"}),
    ("tag", {"WindowCenter": b"NaN", "WindowWidth": b"9"}),
    ("tag", {"SamplesPerPixel": 0}),
    ("tag", {"BitsStored": 77}),
    ("bits", {"BitsStored": 17}),
    ("bits", {"BitsAllocated": 12}),
    ("lut", {"VOILUTSequence": [lut(np.arange(100), 0, 0)]}),
    ("lut", {"VOILUTSequence": [lut(np.arange(4096), 0, 8)]}),  # its outputs need 12 bits
    ("lut", {"ModalityLUTSequence": [lut(np.arange(100), 0, 99)]}),
    ("voi_function", {"WindowCenter": 9, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}),
    ("tag", {"PixelRepresentation": None}),
    ("tag", {"Rows": None}),
    ("undecodable", {"SamplesPerPixel": 3, "PlanarConfiguration": 0}),
]


@pytest.mark.parametrize(("reason", "elements"), REFUSALS)
def test_a_film_unfit_to_be_read_is_rejected_with_its_reason(make_film, tmp_path, reason, elements) -> None:
    elements = dict(elements)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = make_film(tmp_path / "film.dcm", elements.pop("pixels", RAMP), **elements)
        assert refused(path) == reason


def test_a_lut_that_holds_less_than_it_declares_is_rejected(make_film, tmp_path) -> None:
    item = lut(np.arange(100), 0, 12)
    item.LUTDescriptor = [4096, 0, 12]
    assert refused(make_film(tmp_path / "film.dcm", RAMP, VOILUTSequence=[item])) == "lut"


def test_a_huge_header_over_compressed_pixels_is_rejected_before_decoding(make_film, tmp_path) -> None:
    path = make_film(tmp_path / "film.dcm", RAMP, syntax=RLELossless, Rows=60000, Columns=60000)
    assert refused(path) == "pixel_budget"


def test_a_syntax_without_a_decoder_is_rejected_with_what_to_install(make_film, tmp_path, monkeypatch) -> None:
    path = make_film(tmp_path / "film.dcm", RAMP, syntax=RLELossless)
    monkeypatch.setitem(CODECS, RLELossless, CODECS[RLELossless]._replace(library="a_library_that_is_not_there"))
    with pytest.raises(Rejected, match=r"medvit\[codecs\]") as caught:
        read_radiograph(path)
    assert caught.value.reason == "no_decoder"


def test_no_reason_repeats_what_the_header_says_of_the_patient(make_film, tmp_path) -> None:
    path = make_film(tmp_path / "film.dcm", RAMP, PatientName="ZZSECRET", RescaleSlope=b"ZZSECRET")
    with pytest.raises(Rejected) as caught:
        read_radiograph(path)
    assert "ZZSECRET" not in str(caught.value)


GREY = RNG.integers(0, 256, (20, 31)).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "PNG", "jpg", "jpeg"])
def test_an_8_bit_picture_keeps_its_grey_values(tmp_path, suffix) -> None:
    smooth = np.add.outer(np.arange(24), np.arange(32)).astype(np.uint8) * 3
    Pillow.fromarray(smooth).save(tmp_path / f"film.{suffix}", **({} if suffix.lower() == "png" else {"quality": 100}))
    tolerance = 1e-7 if suffix.lower() == "png" else 3 / 255
    image = read_radiograph(tmp_path / f"film.{suffix}")
    np.testing.assert_allclose(image.pixels[0], smooth / 255, atol=tolerance)
    assert image.spacing is None
    assert image.origin["voi"] == "full range of the file, 0 to 255"


def test_a_16_bit_png_keeps_all_of_its_grey_values(tmp_path) -> None:
    deep = RNG.integers(0, 65536, (20, 31)).astype(np.uint16)
    Pillow.fromarray(deep).save(tmp_path / "film.png")
    image = read_radiograph(tmp_path / "film.png")
    np.testing.assert_allclose(image.pixels[0], deep / 65535, atol=1e-7)
    assert image.origin["voi"] == "full range of the file, 0 to 65535"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
def test_other_pictures_become_grey(tmp_path, mode) -> None:
    source = Pillow.fromarray(GREY).convert("RGB" if mode == "P" else mode).convert(mode)
    source.save(tmp_path / "film.png")
    np.testing.assert_allclose(pixels_of(tmp_path / "film.png"), np.asarray(source.convert("L")) / 255, atol=1e-7)


def test_a_palette_png_shows_its_palette_and_not_its_indices(tmp_path) -> None:
    picture = Pillow.fromarray(np.array([[0, 1], [2, 3]], np.uint8), "L")
    picture = picture.convert("P")
    picture.putpalette([200, 200, 200, 10, 10, 10, 90, 90, 90, 255, 255, 255])
    picture.save(tmp_path / "film.png")
    np.testing.assert_allclose(pixels_of(tmp_path / "film.png") * 255, [[200, 10], [90, 255]], atol=0.01)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_exif_orientation_is_obeyed(tmp_path, orientation, depth) -> None:
    source = Pillow.fromarray(GREY.astype(depth))
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    source.save(tmp_path / "film.png", exif=exif)
    turned = {1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1], 5: GREY.T, 6: GREY[::-1].T,
              7: GREY[::-1, ::-1].T, 8: GREY.T[::-1]}[orientation]  # fmt: skip
    top = np.iinfo(depth).max
    np.testing.assert_allclose(pixels_of(tmp_path / "film.png"), turned / top, atol=1e-7)
    assert ImageOps.exif_transpose(Pillow.open(tmp_path / "film.png")).size == turned.shape[::-1]


def test_a_constant_picture_has_no_contrast(tmp_path) -> None:
    Pillow.new("L", (20, 30), 9).save(tmp_path / "film.png")
    assert refused(tmp_path / "film.png") == "no_contrast"


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_a_picture_that_is_none_is_undecodable(tmp_path, content) -> None:
    (tmp_path / "film.png").write_bytes(content)
    assert refused(tmp_path / "film.png") == "undecodable"


def test_only_the_png_and_jpeg_decoders_are_ever_tried(tmp_path) -> None:
    Pillow.fromarray(GREY).save(tmp_path / "film.png", format="TIFF")
    assert refused(tmp_path / "film.png") == "undecodable"


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_picture_is_undecodable(tmp_path, suffix) -> None:
    path = tmp_path / f"film.{suffix}"
    Pillow.fromarray(RNG.integers(0, 256, (90, 90)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert refused(path) == "undecodable"


@pytest.mark.real
@pytest.mark.parametrize("name", ["RG1", "RG3"])
def test_real_films_agree_with_their_lossless_jpeg_2000_twins(name) -> None:
    store = pytest.importorskip("data_store", reason="pydicom-data is not installed")
    if not available(JPEG2000Lossless):
        pytest.skip("no decoder for JPEG 2000 is installed")
    folder = Path(store.__file__).parent / "data"
    plain, packed = (read_radiograph(folder / f"{name}_{kind}.dcm") for kind in ("UNCR", "J2KR"))
    np.testing.assert_array_equal(plain.pixels, packed.pixels)
    assert plain.pixels.shape[1] > 1000
    assert 0.05 < plain.pixels.mean() < 0.95


@pytest.mark.real
def test_a_real_open_film_is_read_and_one_without_a_preamble_is_named() -> None:
    from medvit.readers.survey import read_header

    if not OPEN_FILMS.is_dir():
        pytest.skip(f"{OPEN_FILMS} is not there")
    if not available(JPEG2000Lossless):
        pytest.skip("no decoder for JPEG 2000 is installed")
    image = read_radiograph(OPEN_FILMS / "RG1_J2KR.dcm")
    assert image.pixels.shape == (1, 1955, 1841)
    assert read_header(OPEN_FILMS / "RG1_J2KR.dcm")["modality"] in ("CR", "DX")
    with pytest.raises(Rejected) as caught:
        read_header(OPEN_FILMS / "CR-MONO1-10-chest.dcm")
    assert caught.value.reason == "not_dicom"


@pytest.mark.parametrize("name", ["film.dcm", "film.png"])
def test_a_disk_that_refuses_is_no_fault_of_the_film(tmp_path, make_film, monkeypatch, name) -> None:
    path = make_film(tmp_path / "film.dcm", np.arange(64).reshape(8, 8), bits=8)
    Pillow.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "film.png")

    def refuse(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("medvit.readers.survey.os.open" if name == path.name else "builtins.open", refuse)
    with pytest.raises(Unanswered, match="cannot be read from the disk: Input/output error") as refusal:
        read_radiograph(tmp_path / name)
    assert (refusal.value.status, refusal.value.reason) == ("failed", "unreadable")
