import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import JPEGBaseline8Bit
from tiny_clips import scan, sector, write_sound, write_us, write_video

from medvit import budgets
from medvit.errors import Unanswered
from medvit.readers.clip import read_clip
from medvit.readers.sector import bounds, find_sector

SHARED = Path(__file__).parents[3] / "shared/data/us_video"


def refused(path: Path) -> tuple[str, str]:
    with pytest.raises(Unanswered) as caught:
        read_clip(path)
    return caught.value.reason, str(caught.value)


def test_a_grey_clip_comes_as_stored_with_its_rate_and_without_the_text_outside_the_sector(tmp_path: Path) -> None:
    frames = scan()
    image = read_clip(write_us(tmp_path / "a.dcm", frames))
    inside = sector()
    assert image.pixels.shape == (1, 8, 96, 128)
    assert image.pixels.dtype == np.float32
    kept = image.pixels[0][:, inside] == (frames / np.float32(255))[:, inside]
    assert kept.mean() > 0.97, "all but a few pixels at the edge"
    assert frames[0, -12:, :20].max() > 200
    assert image.pixels[0, :, -12:, :20].max() == 0
    assert image.origin["rate"] == "20 frames a second of FrameTime"
    assert image.origin["frames"] == "8 decoded"
    assert image.origin["sector"].startswith("rows 9 to 88, columns 2")


def test_without_cropping_every_pixel_stays(tmp_path: Path) -> None:
    frames = scan()
    image = read_clip(write_us(tmp_path / "a.dcm", frames), crop=False)
    assert np.allclose(image.pixels[0], frames / 255)
    assert "sector" not in image.origin


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_colours_become_the_mean_of_red_green_and_blue(tmp_path: Path, photometric: str) -> None:
    grey = scan()
    colours = np.stack([grey, grey // 2, grey // 4], axis=-1)
    stored = (
        colours if photometric == "RGB" else convert_color_space(colours.copy(), "RGB", photometric, per_frame=True)
    )
    image = read_clip(write_us(tmp_path / "a.dcm", stored, photometric), crop=False)
    assert np.abs(image.pixels[0] - colours.mean(-1) / 255).max() < 2 / 255


def test_colours_that_two_pixels_share_are_spread_over_both(tmp_path: Path) -> None:
    grey = scan()
    colours = np.stack([grey, grey // 2, grey // 4], axis=-1).repeat(2, axis=2)  # each pair of columns is alike
    ybr = convert_color_space(colours.copy(), "RGB", "YBR_FULL", per_frame=True)
    shared = np.stack([ybr[:, :, ::2, 0], ybr[:, :, 1::2, 0], ybr[:, :, ::2, 1], ybr[:, :, ::2, 2]], axis=-1)
    path = write_us(tmp_path / "a.dcm", ybr, "YBR_FULL_422", PixelData=shared.tobytes())
    image = read_clip(path, crop=False)
    assert np.abs(image.pixels[0] - colours.mean(-1) / 255).max() < 2 / 255


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    frames = scan()
    ramp = np.arange(256)
    palette: dict[str, Any] = {}
    for colour, table in (("Red", ramp), ("Green", 255 - ramp), ("Blue", ramp // 2)):
        palette[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{colour}PaletteColorLookupTableData"] = (table * 257).astype("<u2").tobytes()
    image = read_clip(write_us(tmp_path / "a.dcm", frames, "PALETTE COLOR", **palette), crop=False)
    wanted = (255 + (frames // 2).astype(int)) / 765
    assert np.abs(image.pixels[0] - wanted).max() < 1e-3


def test_monochrome1_is_inverted_and_twelve_bits_count_as_twelve(tmp_path: Path) -> None:
    frames = scan().astype("<u2") * 16
    path = write_us(
        tmp_path / "a.dcm", frames[..., None].view(np.uint8).reshape(8, 96, 128, 2), "MONOCHROME1", SamplesPerPixel=1,
        PlanarConfiguration=None, BitsAllocated=16, BitsStored=12, HighBit=11,
    )  # fmt: skip
    image = read_clip(path, crop=False)
    assert np.allclose(image.pixels[0], 1 - frames / 4095, atol=1e-6)


def test_the_regions_of_the_header_bound_the_sector_and_give_the_spacing(tmp_path: Path) -> None:
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType = 1, 1
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 40, 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 127, 49
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.02, 0.03
    image = read_clip(write_us(tmp_path / "a.dcm", scan(), SequenceOfUltrasoundRegions=[region]))
    assert image.spacing == pytest.approx((0.3, 0.2))
    assert image.pixels[0, :, 50:].max() == 0
    assert image.pixels[0, :, 20:50].max() > 0.5


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv"])
def test_a_video_is_decoded_to_its_last_frame(tmp_path: Path, name: str) -> None:
    frames = scan(20)
    image = read_clip(write_video(tmp_path / name, frames))
    inside = sector()
    assert image.pixels.shape == (1, 20, 96, 128)
    assert np.abs(image.pixels[0][:, inside] - frames[:, inside] / 255).mean() < 0.05
    assert image.origin["rate"] == "20 frames a second of the file"
    assert image.origin["frames"] == "20 decoded"


def test_a_video_inside_dicom_is_decoded_and_counted(tmp_path: Path) -> None:
    from pydicom.encaps import encapsulate
    from pydicom.uid import MPEG4HP41

    frames = scan(12)
    stream = write_video(tmp_path / "a.mp4", frames).read_bytes()
    path = write_us(tmp_path / "a.dcm", frames[..., None].repeat(3, -1), "YBR_PARTIAL_420")
    clip = __import__("pydicom").dcmread(path)
    clip.PixelData, clip.file_meta.TransferSyntaxUID = encapsulate([stream]), MPEG4HP41
    clip["PixelData"].is_undefined_length = True
    clip.save_as(path)
    assert read_clip(path).pixels.shape == (1, 12, 96, 128)
    clip.NumberOfFrames = 100
    clip.save_as(path)
    assert refused(path) == (
        "frames",
        "It declares 100 frames and 12 can be decoded: truncated or damaged. Copy it again.",
    )


def test_jpeg_frames_are_decoded(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("imagecodecs")
    from imagecodecs import jpeg8_encode
    from pydicom.encaps import encapsulate

    frames = scan()
    path = write_us(tmp_path / "a.dcm", frames)
    clip = pydicom.dcmread(path)
    clip.PixelData = encapsulate([jpeg8_encode(frame, level=98) for frame in frames])
    clip.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    clip.save_as(path)
    image = read_clip(path)
    inside = sector()
    assert np.abs(image.pixels[0][:, inside] - frames[:, inside] / 255).mean() < 0.02


@pytest.mark.parametrize(
    ("name", "options"), [("a.mp4", {}), ("a.mp4", {"movflags": "faststart"}), ("a.avi", {}), ("a.mkv", {})]
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_video_is_refused(tmp_path: Path, name: str, options: dict[str, str], share: float) -> None:
    whole = write_video(tmp_path / name, scan(40), **options).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    reason, message = refused(tmp_path / name)
    assert reason in ("undecodable", "frames", "damaged", "truncated")
    assert "Copy it again" in message


def test_a_matroska_file_that_was_written_as_a_stream_and_knows_no_length_is_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", scan(12), live="1")
    assert b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff" in path.read_bytes()
    assert read_clip(path).pixels.shape[1] == 12


def test_an_avi_header_that_lies_about_its_frames_is_refused(tmp_path: Path) -> None:
    content = bytearray(write_video(tmp_path / "a.avi", scan(12)).read_bytes())
    for at in (content.index(b"avih") + 8 + 16, content.index(b"strh") + 8 + 32):  # dwTotalFrames, dwLength
        assert struct.unpack_from("<I", content, at) == (12,)
        struct.pack_into("<I", content, at, 100_000)
    (tmp_path / "a.avi").write_bytes(content)
    reason, message = refused(tmp_path / "a.avi")
    assert reason == "frames"
    assert message == "It declares 100000 frames and 12 can be decoded: truncated or damaged. Copy it again."


@pytest.mark.parametrize("declared", [7, 9, 0, -3])
def test_a_dicom_header_that_lies_about_its_frames_is_refused(tmp_path: Path, declared: int) -> None:
    reason, message = refused(write_us(tmp_path / "a.dcm", scan(8), NumberOfFrames=declared))
    assert reason in ("truncated", "frames")
    assert message.endswith(".")


@pytest.mark.parametrize("write", [write_us, write_video])
def test_one_frame_is_no_clip(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path / ("a.dcm" if write is write_us else "a.mp4"), scan(1))
    assert refused(path) == ("one_frame", "It holds one frame: a still image, no clip.")


def test_a_still_image_repeated_is_no_clip(tmp_path: Path) -> None:
    still = scan(1).repeat(6, axis=0)
    assert refused(write_us(tmp_path / "a.dcm", still))[0] == "still"
    assert refused(write_video(tmp_path / "a.avi", still))[0] in ("still", "no_sector")


def test_black_frames_have_no_contrast(tmp_path: Path) -> None:
    assert refused(write_us(tmp_path / "a.dcm", np.zeros((4, 96, 128), np.uint8)))[0] == "no_contrast"


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    assert refused(write_sound(tmp_path / "a.mp4")) == ("no_video", "It holds sound but no picture.")


def test_a_clip_in_which_only_a_clock_ticks_has_no_sector(tmp_path: Path) -> None:
    frames = np.full((8, 96, 128), 30, np.uint8)
    frames[::2, 2:8, 2:8] = 255
    reason, message = refused(write_us(tmp_path / "a.dcm", frames))
    assert reason == "no_sector"
    assert "system.crop" in message


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"#EXTM3U\nhttp://a/b.ts\n", b"ffconcat version 1.0\nfile /a\n"])
def test_files_that_are_no_video_are_refused_and_lists_of_files_not_followed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    assert refused(tmp_path / "a.mp4")[0] == "not_a_video"


def test_a_clip_beyond_the_budget_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "CLIP_PIXELS", 96 * 128 * 5)
    for path in (write_us(tmp_path / "a.dcm", scan(6)), write_video(tmp_path / "a.mp4", scan(6))):
        assert refused(path)[0] == "clip_budget"
    assert read_clip(write_us(tmp_path / "b.dcm", scan(5))).pixels.shape[1] == 5


def test_the_sector_is_found_within_text_clock_and_noise() -> None:
    frames = scan(16).astype(np.float32) / 255
    frames[:, 2:9, 100:126] = np.random.default_rng(1).random((16, 1, 1)).astype(np.float32)  # a clock
    frames += np.random.default_rng(2).normal(0, 0.001, frames.shape).astype(np.float32)
    found = find_sector(frames)
    assert found is not None
    wanted = sector()
    assert (found & wanted).sum() / (found | wanted).sum() > 0.9
    assert all(abs(a - b) <= 4 for a, b in zip(bounds(found), bounds(wanted), strict=True))


def test_a_clip_that_was_cropped_before_is_left_whole() -> None:
    frames = np.random.default_rng(0).random((8, 64, 64)).astype(np.float32)
    assert find_sector(frames).all()  # type: ignore[union-attr]


def test_without_pyav_the_user_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", scan(4))
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    assert refused(path) == ("no_decoder", "Videos need PyAV: `pip install medvit[video]`.")


@pytest.mark.real
def test_real_lung_clips_decode_to_the_number_of_frames_that_their_table_says() -> None:
    import csv
    import json

    if not (SHARED / "labels.csv").is_file():
        pytest.skip("real clips are not at hand")
    with (SHARED / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == "covid_blues"]
    for row in rows[::15]:
        image = read_clip(SHARED / row["path"])
        told = json.loads(row["extra"])
        assert image.pixels.shape == (1, told["frames"], *told["wh"][::-1])


@pytest.mark.real
def test_a_real_echo_in_jpeg_loses_its_frame_of_text() -> None:
    path = SHARED / "open/dicom/examples_ybr_color.dcm"
    if not path.is_file():
        pytest.skip("real clips are not at hand")
    image = read_clip(path)
    assert image.pixels.shape == (1, 30, 240, 320)
    assert image.origin["rate"] == "30 frames a second of FrameTime"
    assert image.pixels[0, :, 220:].max() == 0, "the buttons at the bottom"
    assert image.pixels[0, :, 60:200, 100:240].max() > 0.7
