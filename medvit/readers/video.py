"""Decode a video file frame by frame: what is decoded counts, not what a header says; nothing else is opened on the way.

Source: reliability of FFmpeg's frame counts as measured for this project: damaged files declare frames that do not come.
"""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvit import budgets
from medvit.errors import Rejected, Unanswered

if TYPE_CHECKING:
    import av.container

# Containers and bare streams by their first bytes. Formats are named, never guessed: some that FFmpeg knows are lists of
# other files and addresses.
MAGIC = (
    (4, b"ftyp", "mp4"), (4, b"moov", "mp4"), (4, b"mdat", "mp4"), (4, b"wide", "mp4"), (8, b"AVI ", "avi"),
    (0, b"\x1aE\xdf\xa3", "matroska"), (0, b"\0\0\1\xb3", "mpegvideo"), (0, b"\0\0\1\xba", "mpeg"),
    (0, b"\0\0\0\1", "h264"), (0, b"G", "mpegts"),
)  # fmt: skip
START = 12  # bytes that tell
SEGMENT = b"\x18\x53\x80\x67"  # of Matroska: all that follows its head


class Film(NamedTuple):
    """A decoded video.

    Args:
        grey: (T, H, W) uint16, the sum of red, green and blue: 0 to 765.
        rate: Frames a second; None where the file does not say.
        coded_as: Its codec, such as ``h264``.
    """

    grey: NDArray[np.uint16]
    rate: float | None
    coded_as: str


def read_video(file: BinaryIO, declared: int | None = None) -> Film:
    """Decode every frame of a video.

    Args:
        file: At its start.
        declared: Frames that something else than the video declares, such as a DICOM header.

    Raises:
        Rejected: When it is of another format, has no picture, is damaged or truncated, or when other frames come than
            are declared.
        Unanswered: When PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise Unanswered("no_decoder", "Videos need PyAV: `pip install medvit[video]`.") from None
    start = file.read(START)
    file.seek(0)
    named = next((name for at, magic, name in MAGIC if start[at:].startswith(magic)), None)
    if named is None:
        raise Rejected("not_a_video", "It does not begin as an MP4, AVI, Matroska or MPEG video.")
    if named == "matroska" and _ends_early(file):
        raise Rejected("truncated", "The file is shorter than it says: truncated. Copy it again.")
    av.logging.set_level(None)
    try:
        with av.open(file, "r", format=named, metadata_errors="replace") as container:
            return _decoded(container, declared)
    except (av.FFmpegError, OSError, ValueError, EOFError) as error:
        raise Rejected(
            "undecodable", f"The video cannot be decoded: truncated or damaged ({type(error).__name__}). Copy it again."
        ) from error


def _ends_early(file: BinaryIO) -> bool:
    """Whether a Matroska file, which declares no frames, ends before its segment does; the file is left at its start."""
    file.seek(4)
    head = _length(file)
    file.seek(head or 0, io.SEEK_CUR)
    segment = _length(file) if file.read(len(SEGMENT)) == SEGMENT else None
    wanted = file.tell() + (segment or 0)
    there = file.seek(0, io.SEEK_END)
    file.seek(0)
    return there < wanted


def _length(file: BinaryIO) -> int | None:
    """A length of Matroska's at the place of a file; None where it says that it does not know."""
    first = int.from_bytes(file.read(1))
    more = 8 - first.bit_length()  # bytes; the highest bit of the first one marks them
    value = int.from_bytes(bytes([first & (0x7F >> more)]) + file.read(more)) if more < 8 else 0
    return None if value == (1 << 7 * (more + 1)) - 1 else value


def video_of_bytes(data: bytes, declared: int) -> Film:
    """`read_video` of a video that lies inside another file."""
    return read_video(io.BytesIO(data), declared)


def _decoded(container: "av.container.InputContainer", declared: int | None) -> Film:
    if not container.streams.video:
        said = "sound but no picture" if container.streams.audio else "no picture"
        raise Rejected("no_video", f"It holds {said}.")
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    frames = list(_frames(container))
    for count in {stream.frames, declared or 0} - {0}:
        if count != len(frames):
            raise Rejected(
                "frames",
                f"It declares {count} frames and {len(frames)} can be decoded: truncated or damaged. Copy it again.",
            )
    if not frames:
        raise Rejected("no_video", "Not one frame of it can be decoded.")
    rate = float(stream.average_rate) if stream.average_rate else None
    return Film(np.stack(frames), rate, stream.codec_context.name)


def _frames(container: "av.container.InputContainer") -> Iterator[NDArray[np.uint16]]:
    """Sums of red, green and blue (H, W), frame by frame; all of one size, undamaged and within the budgets."""
    size, pixels = None, 0
    for index, frame in enumerate(container.decode(video=0)):
        size = size or (frame.height, frame.width)
        pixels += frame.height * frame.width
        if (frame.height, frame.width) != size:
            raise Rejected("size_mismatch", "Its frames change their size.")
        if index >= budgets.FRAMES or pixels > budgets.CLIP_PIXELS:
            raise too_long()
        if frame.is_corrupt:
            raise Rejected("damaged", f"Its frame {index + 1} is damaged. Copy it again.")
        yield frame.to_ndarray(format="rgb24").sum(axis=2, dtype=np.uint16)


def too_long() -> Rejected:
    """A clip of more pixels than the budget."""
    return Rejected(
        "clip_budget", f"All its frames together have more than {budgets.CLIP_PIXELS // 10**6} million pixels. Cut it."
    )
