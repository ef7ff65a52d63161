"""Which sample volumes there are: patients, splits; and how one is written, as NIfTI or as an oblique DICOM series."""

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from paint_organs import SPACING_MM, Abdomen

VOLUMES = 30
SHARES = {"train": 18, "val": 4, "test": 8}
HU = 2.0, -100.0  # slope and intercept that make grey of 0 to 255 Hounsfield units within -100 to 410
TILT = np.deg2rad((25.0, -15.0))  # of the series, about two axes
Voxels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PlannedVolume:
    """One volume before it is painted."""

    number: int
    split: str
    abdomen: Abdomen

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.number:04d}.nii.gz"

    @property
    def mask_name(self) -> str:
        """Its mask's name."""
        return f"masks/{self.number:04d}.nii.gz"

    @property
    def patient_id(self) -> str:
        """A patient identifier nobody could take for a real one."""
        return f"SAMPLE-V{self.number:03d}"


def plan_volumes(seed: int = 0, volumes: int = VOLUMES) -> list[PlannedVolume]:
    """Decides everything about every volume but its voxels: a patient each."""
    rng = np.random.default_rng([seed, 16])
    splits = [split for split, share in SHARES.items() for _ in range(round(share * volumes / VOLUMES))]
    return [PlannedVolume(n, split, Abdomen(int(rng.integers(2**31)))) for n, split in enumerate(splits)]


def write_nifti(path: Path, volume: Voxels, spacing_mm: tuple[float, float, float] = SPACING_MM) -> None:
    """Writes a volume (slices up, rows back, columns left) as NIfTI-1: its axes are columns, rows, slices, that is L, P, S."""
    path.parent.mkdir(parents=True, exist_ok=True)
    D, H, W = volume.shape
    dz, dy, dx = spacing_mm
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, W, H, D, 1, 1, 1, 1)
    struct.pack_into("<hh", head, 70, 2, 8)  # unsigned bytes
    struct.pack_into("<8f", head, 76, 1, dx, dy, dz, 0, 0, 0, 0)
    struct.pack_into("<f", head, 108, 352)
    struct.pack_into("<ff", head, 112, 1, 0)  # scl_slope, scl_inter
    struct.pack_into("<B", head, 123, 2)  # millimetres
    struct.pack_into("<hh", head, 252, 0, 1)  # qform_code, sform_code
    rows = ((-dx, 0, 0, dx * W / 2), (0, -dy, 0, dy * H / 2), (0, 0, dz, 0))
    for place, row in zip((280, 296, 312), rows, strict=True):
        struct.pack_into("<4f", head, place, *row)
    head[344:348] = b"n+1\0"
    path.write_bytes(gzip.compress(bytes(head) + volume.tobytes(), 9, mtime=0))


def write_series(folder: Path, volume: Voxels, uid: Any) -> None:
    """Writes a volume as CT slices of a stack that is oblique to all axes of the patient."""
    folder.mkdir(parents=True, exist_ok=True)
    a, b = TILT
    across = np.array([np.cos(a), np.sin(a), 0])
    down = np.array([-np.sin(a) * np.cos(b), np.cos(a) * np.cos(b), np.sin(b)])
    for number, plane in enumerate(volume):
        place = np.cross(across, down) * SPACING_MM[0] * number + np.array([-100.0, -110.0, 40.0])
        _slice(number, plane, place, np.concatenate([across, down]), uid).save_as(
            folder / f"{number:04d}.dcm", enforce_file_format=True
        )


def _slice(number: int, plane: Voxels, place: npt.NDArray[np.float64], cosines: Any, uid: Any) -> Dataset:
    one = Dataset()
    one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, uid("slice", number)
    one.StudyInstanceUID, one.SeriesInstanceUID = uid("volume study"), uid("volume series")
    one.FrameOfReferenceUID, one.PositionReferenceIndicator = uid("volume frame"), ""
    one.Modality, one.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    one.PatientName, one.PatientID = "Sample^SAMPLE-V900", "SAMPLE-V900"
    one.PatientBirthDate = one.PatientSex = one.AccessionNumber = one.StudyID = one.ReferringPhysicianName = ""
    one.StudyDate, one.StudyTime, one.BodyPartExamined = "20240102", "090000", "ABDOMEN"
    one.Manufacturer, one.SeriesNumber, one.AcquisitionNumber = "medvit sample data", 1, 1
    one.InstanceNumber, one.PatientPosition, one.KVP = number + 1, "HFS", "120"
    one.ImagePositionPatient = [f"{value:.6f}" for value in place]
    one.ImageOrientationPatient = [f"{value:.8f}" for value in cosines]
    one.PixelSpacing, one.SliceThickness = [SPACING_MM[1], SPACING_MM[2]], SPACING_MM[0]
    one.Rows, one.Columns = plane.shape
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
    one.RescaleSlope, one.RescaleIntercept, one.RescaleType = HU[0], HU[1], "HU"
    one.PixelData = plane.astype("<u2").tobytes()
    one["PixelData"].VR = "OW"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID, meta.ImplementationVersionName = uid("implementation"), "MEDVIT_SAMPLE"
    one.file_meta = meta
    return one
