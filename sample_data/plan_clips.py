"""Which sample clips there are: patients, splits, findings; and how one is written, as DICOM or as a video."""

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, UltrasoundMultiFrameImageStorage

from paint_clips import COLUMNS, FLOATING, KINDS, NOTHING, OFF, ON, ROWS, Eye

CLIPS = 160
SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}
MIX = {NOTHING: 0.25, FLOATING: 0.2, OFF: 0.275, ON: 0.275}
FRAMES = (10, 14)  # fewest and most
RATE = 12  # frames a second
QUALITY = 25
VIDEOS = 6  # of the test clips, also written as MP4
# Columns of the table, 1, 0 or blank, by what a clip shows; as ERDES's tasks have them.
LABELS: dict[str, dict[str, int]] = {
    "Retinal_Detachment": {NOTHING: 0, FLOATING: 0, OFF: 1, ON: 1},
    "Retinal_Detachment_vs_Normal": {NOTHING: 0, OFF: 1, ON: 1},
    "Retinal_Detachment_vs_PVD": {FLOATING: 0, OFF: 1, ON: 1},
    "Macula_Intact_vs_Detached": {OFF: 0, ON: 1},
    "PVD_vs_Normal": {NOTHING: 0, FLOATING: 1},
}


@dataclass(frozen=True)
class PlannedClip:
    """One clip before it is painted."""

    number: int
    patient: int
    split: str
    eye: Eye

    @property
    def name(self) -> str:
        """The file's name, which tells nothing."""
        return f"{self.number:04d}.dcm"

    @property
    def patient_id(self) -> str:
        """A patient identifier nobody could take for a real one."""
        return f"SAMPLE-E{self.patient:03d}"

    @property
    def row(self) -> list[object]:
        """Its row of the table."""
        known = [of.get(self.eye.kind, "") for of in LABELS.values()]
        return [self.name, self.patient_id, self.split, *known]


def plan_clips(seed: int = 0, clips: int = CLIPS) -> list[PlannedClip]:
    """Decides everything about every clip but its pixels: two clips a patient, the same mix in every split."""
    rng = np.random.default_rng([seed, 11])
    planned: list[PlannedClip] = []
    for split, share in SHARES.items():
        count = round(share * clips)
        ends = np.cumsum([round(MIX[kind] * count) for kind in KINDS])
        kinds = [KINDS[min(int(np.searchsorted(ends, i, side="right")), len(KINDS) - 1)] for i in range(count)]
        for index in rng.permutation(count):
            number = len(planned)
            eye = Eye(kinds[index], int(rng.integers(FRAMES[0], FRAMES[1] + 1)), bool(rng.random() < 0.5),
                      int(rng.integers(2**31)))  # fmt: skip
            planned.append(PlannedClip(number, (number + 1) // 2 if split == "train" else number, split, eye))
    return planned


def write_clip(clip: PlannedClip, frames: npt.NDArray[np.uint8], folder: Path, uid: Any) -> None:
    """Writes frames (T, H, W) as a multi-frame ultrasound object, JPEG by frame."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = UltrasoundMultiFrameImageStorage, uid("clip", clip.number)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (
        uid("clip study", clip.number),
        uid("clip series", clip.number),
    )
    dataset.Modality, dataset.ImageType = "US", ["ORIGINAL", "PRIMARY", "OPHTHALMIC"]
    dataset.PatientName, dataset.PatientID = f"Sample^{clip.patient_id}", clip.patient_id
    dataset.PatientBirthDate = dataset.PatientSex = dataset.AccessionNumber = dataset.StudyID = ""
    dataset.StudyDate, dataset.StudyTime, dataset.ReferringPhysicianName = "20240102", "090000", ""
    dataset.Manufacturer, dataset.SeriesNumber, dataset.InstanceNumber = "medvit sample data", 1, 1
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = len(frames), ROWS, COLUMNS
    dataset.FrameTime, dataset.FrameIncrementPointer = f"{1000 / RATE:.6g}", 0x00181063
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.BurnedInAnnotation, dataset.LossyImageCompression = "NO", "01"
    dataset.LossyImageCompressionMethod = "ISO_10918_1"
    coded = [_jpeg(frame) for frame in frames]
    dataset.LossyImageCompressionRatio = f"{frames.nbytes / sum(map(len, coded)):.1f}"
    dataset.PixelData = encapsulate(coded)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    meta.ImplementationClassUID, meta.ImplementationVersionName = uid("implementation"), "MEDVIT_SAMPLE"
    dataset.file_meta = meta
    dataset.save_as(folder / clip.name, enforce_file_format=True)


def _jpeg(frame: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def write_video(path: Path, frames: npt.NDArray[np.uint8]) -> None:
    """Writes frames (T, H, W) as MPEG-4 in MP4."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(RATE))
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = COLUMNS, ROWS, "yuv420p", 400_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray8")))
        container.mux(stream.encode())
