"""Small volumes for tests: bright blocks in noise, as NIfTI with masks or as an oblique series of CT slices."""

import hashlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian

NET = {
    "image_size": 32, "patch": 8, "width": 32, "depth": 2, "heads": 2, "everywhere": [0, 1], "window": 2, "channels": 32,
    "decoder_heads": 2, "decoder_hidden": 64,
}  # fmt: skip
SHAPE = (5, 24, 28)  # slices, rows, columns
SPACING = (4.0, 1.5, 2.0)
TURN = np.deg2rad((20, -35))


def block(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A volume of noise with two bright ellipsoids, and their mask with 1 and 2."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[: shape[0], : shape[1], : shape[2]].astype(float)
    volume = 60 + rng.normal(0, 12, shape)
    mask = np.zeros(shape, np.uint8)
    for number, middle in ((1, 0.3), (2, 0.72)):
        at = (2.0, shape[1] * rng.uniform(0.4, 0.6), shape[2] * middle)
        r = (2.2, shape[1] * rng.uniform(0.18, 0.3), shape[2] * rng.uniform(0.13, 0.18))
        inside = sum(((p - c) / s) ** 2 for p, c, s in zip((z, y, x), at, r, strict=True)) < 1
        volume[inside] += 60 + 40 * number
        mask[inside] = number
    return volume.clip(0, 255).astype(np.uint8), mask


def cosines() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors along rows and columns that are oblique to all axes."""
    a, b = TURN
    return np.array([np.cos(a), np.sin(a), 0]), np.array([-np.sin(a) * np.cos(b), np.cos(a) * np.cos(b), np.sin(b)])


def oblique() -> NDArray[np.float64]:
    """The affine of an array of columns, rows, slices."""
    across, down = cosines()
    affine = np.eye(4)
    affine[:3, :3] = np.stack([across * SPACING[2], down * SPACING[1], np.cross(across, down) * SPACING[0]], axis=1)
    affine[:3, 3] = (20, -15, 30)
    return np.diag([-1.0, -1, 1, 1]) @ affine


def write_nifti(path: Path, volume: NDArray[Any], affine: NDArray[np.float64] | None = None) -> Path:
    """A volume (slices, rows, columns) as NIfTI of columns, rows, slices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1]) if affine is None else affine
    nifti = nibabel.Nifti1Image(np.ascontiguousarray(volume.transpose(2, 1, 0)), affine)
    nifti.set_sform(affine, 1)
    nibabel.save(nifti, path)
    return path


def write_series(folder: Path, volume: NDArray[np.uint8], **elements: Any) -> list[Path]:
    """A volume as CT slices, oblique, their names in no order; elements of all slices may be replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    across, down = cosines()
    first = np.array([20.0, -15, 30])
    files = []
    for number, plane in enumerate(volume):
        one = Dataset()
        for level in ("Study", "Series", "SOP"):
            own = number if level == "SOP" else ""
            digest = hashlib.sha256(f"{level} {folder} {own}".encode()).digest()
            setattr(one, f"{level}InstanceUID", UID(f"2.25.{int.from_bytes(digest[:12])}"))
        one.SOPClassUID, one.FrameOfReferenceUID = CTImageStorage, UID("2.25.99")
        one.Modality, one.PatientName, one.PatientID = "CT", "Doe^Jane", "DOE-0001"
        one.InstanceNumber = len(volume) - number
        one.Rows, one.Columns = plane.shape
        place = first + np.cross(across, down) * SPACING[0] * number
        one.ImagePositionPatient = [f"{value:.6f}" for value in place]
        one.ImageOrientationPatient = [f"{value:.8f}" for value in (*across, *down)]
        one.PixelSpacing, one.SliceThickness = [SPACING[1], SPACING[2]], SPACING[0]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
        one.RescaleSlope, one.RescaleIntercept = 2, -150
        one.PixelData = plane.astype("<u2").tobytes()
        one["PixelData"].VR = "OW"
        for keyword, value in elements.items():
            setattr(one, keyword, value(number) if callable(value) else value)
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        files.append(folder / f"{(number * 3) % len(volume)}.dcm")
        one.save_as(files[-1], enforce_file_format=True)
    return files


def write_enhanced(path: Path, volume: NDArray[np.uint8], **elements: Any) -> Path:
    """A volume as one enhanced MR object that lies as `write_series`, its frames from the last to the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    across, down = cosines()
    one, shared = Dataset(), Dataset()
    for level in ("Study", "Series", "SOP"):
        digest = hashlib.sha256(f"{level} {path}".encode()).digest()
        setattr(one, f"{level}InstanceUID", UID(f"2.25.{int.from_bytes(digest[:12])}"))
    one.SOPClassUID, one.FrameOfReferenceUID = EnhancedMRImageStorage, UID("2.25.98")
    one.Modality, one.PatientName, one.PatientID, one.InstanceNumber = "MR", "Doe^Jane", "DOE-0001", 1
    one.NumberOfFrames, one.Rows, one.Columns = volume.shape
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
    measures, orientation, values = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [SPACING[1], SPACING[2]], SPACING[0]
    orientation.ImageOrientationPatient = [f"{value:.8f}" for value in (*across, *down)]
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 2, -150, "US"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    shared.PixelValueTransformationSequence = [values]
    groups = []
    for number in reversed(range(len(volume))):
        place, group = Dataset(), Dataset()
        at = np.array([20.0, -15, 30]) + np.cross(across, down) * SPACING[0] * number
        place.ImagePositionPatient = [f"{value:.6f}" for value in at]
        group.PlanePositionSequence = [place]
        groups.append(group)
    one.SharedFunctionalGroupsSequence, one.PerFrameFunctionalGroupsSequence = [shared], groups
    one.PixelData = volume[::-1].astype("<u2").tobytes()
    one["PixelData"].VR = "OW"
    for keyword, value in elements.items():
        setattr(one, keyword, value)
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    one.save_as(path, enforce_file_format=True)
    return path


def write_set(folder: Path, volumes: int = 6) -> Path:
    """A table of volumes with masks, the last two in split val."""
    rows = ["path,patient_id,split,mask"]
    for n in range(volumes):
        volume, mask = block(n)
        write_nifti(folder / f"{n}.nii.gz", volume)
        write_nifti(folder / "masks" / f"{n}.nii.gz", mask)
        rows.append(f"{n}.nii.gz,P{n},{'train' if n < volumes - 2 else 'val'},masks/{n}.nii.gz")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return folder / "cases.csv"


def write_boxes(path: Path, rows: list[tuple[Any, ...]]) -> Path:
    """A table of boxes."""
    lines = ["path,label,x_min,y_min,x_max,y_max,slice", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """x_min, y_min, x_max, y_max around a mask (rows, columns)."""
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
