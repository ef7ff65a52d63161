"""Small ultrasound clips for tests: a speckled sector that moves, with burnt-in text that does not, as DICOM or video."""

import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage

Frames = NDArray[np.uint8]
RATE = 20


def sector(rows: int = 96, columns: int = 128) -> NDArray[np.bool_]:
    """A fan that opens downwards."""
    y, x = np.mgrid[:rows, :columns]
    return (abs(x - columns / 2) < 0.1 * columns + 0.3 * y) & (y > 8) & (y < rows - 8) & (abs(x - columns / 2) < 40)


def scan(frames: int = 8, rows: int = 96, columns: int = 128, seed: int = 0) -> Frames:
    """Grey frames (T, H, W) of a scanner's screen: sector, name of the scanner at its corner."""
    rng = np.random.default_rng(seed)
    speckle = rng.rayleigh(50, (frames, rows, columns)) * sector(rows, columns)
    words = Pillow.new("L", (columns, rows))
    ImageDraw.Draw(words).text((2, rows - 12), "SCAN 9", fill=255)
    return np.maximum(speckle.clip(0, 255), np.asarray(words)).round().astype(np.uint8)


def write_us(path: Path, pixels: Frames, photometric: str = "MONOCHROME2", **elements: Any) -> Path:
    """A multi-frame ultrasound object of (T, H, W[, 3]) stored values; elements may lie."""
    clip = Dataset()
    clip.file_meta = FileMetaDataset()
    clip.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    clip.SOPClassUID = UltrasoundMultiFrameImageStorage
    for level, number in (("Study", 1), ("Series", 2), ("SOP", 3)):
        setattr(clip, f"{level}InstanceUID", UID(f"2.25.{number}{abs(hash(str(path))) % 10**12}"))
    clip.PatientName, clip.PatientID, clip.Modality = "Doe^Jane", "DOE-0001", "US"
    clip.NumberOfFrames, clip.Rows, clip.Columns = pixels.shape[:3]
    clip.SamplesPerPixel, clip.PhotometricInterpretation = (3 if pixels.ndim == 4 else 1), photometric
    if pixels.ndim == 4:
        clip.PlanarConfiguration = 0
    clip.BitsAllocated, clip.BitsStored, clip.HighBit, clip.PixelRepresentation = 8, 8, 7, 0
    clip.FrameTime = str(1000 / RATE)
    clip.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    clip["PixelData"].VR = "OB"
    for keyword, value in elements.items():
        setattr(clip, keyword, value)
    clip.file_meta.MediaStorageSOPClassUID = clip.SOPClassUID
    clip.file_meta.MediaStorageSOPInstanceUID = clip.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    clip.save_as(path, enforce_file_format=True)
    return path


def write_video(path: Path, frames: Frames, codec: str = "mpeg4", **options: str) -> Path:
    """A video of grey frames (T, H, W)."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=Fraction(RATE), options={"qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.flags |= 2  # quality by qscale
        stream.codec_context.global_quality = 2 * 118
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray8")))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """A video file with sound and no picture."""
    import av

    with wave.open(str(path.with_suffix(".wav")), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    with av.open(str(path.with_suffix(".wav"))) as source, av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        for frame in source.decode(audio=0):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
