"""Focal planes of DICOM slides: a file written here, frame by frame as PS3.3 C.7.6.17.3 orders them."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import JPEGBaseline8Bit, generate_uid

from medvit.case import WHOLE_SLIDE
from medvit.errors import Rejected
from medvit.readers.focus import sharpness
from medvit.readers.slide import Slide

TILE, SIDE, PLANES, SHARP = 64, 128, 3, 2
MPP, BETWEEN_UM = 0.5, 2.0


def code(value: str, meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return Sequence([item])


def field(plane: int) -> np.ndarray:
    """A field (SIDE, SIDE, 3) whose planes differ in colour and in how sharp their stripes are."""
    v, u = np.mgrid[0:SIDE, 0:SIDE]
    contrast = 90 if plane == SHARP else 20
    grey = 120 + contrast * np.sin(u / 2.0) * np.sin(v / 3.0)
    return np.rint(np.stack([grey, grey, np.full_like(grey, 40 + 60 * plane)], -1)).astype(np.uint8)


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Path:
    """A slide of one level and three focal planes, TILED_FULL."""
    slide = Dataset()
    slide.SOPClassUID, slide.SOPInstanceUID = WHOLE_SLIDE, generate_uid()
    slide.StudyInstanceUID, slide.SeriesInstanceUID, slide.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    slide.Modality, slide.ImageType = "SM", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    slide.PatientID, slide.PatientName, slide.PatientBirthDate, slide.PatientSex = "TEST", "Test^Stack", "", ""
    slide.StudyID, slide.StudyDate, slide.StudyTime, slide.AccessionNumber = "", "", "", ""
    slide.ReferringPhysicianName, slide.SeriesNumber, slide.InstanceNumber = "", 1, 1
    slide.PositionReferenceIndicator, slide.VolumetricProperties = "SLIDE_CORNER", "VOLUME"
    slide.Manufacturer, slide.ManufacturerModelName, slide.DeviceSerialNumber = "medvit", "test", "1"
    slide.SoftwareVersions, slide.ContentDate, slide.ContentTime = "1", "20261121", "120000"
    slide.AcquisitionDateTime, slide.AcquisitionDuration = "20261121120000", 1.0
    slide.DimensionOrganizationType, slide.NumberOfOpticalPaths = "TILED_FULL", 1
    slide.TotalPixelMatrixColumns = slide.TotalPixelMatrixRows = SIDE
    slide.TotalPixelMatrixFocalPlanes = PLANES
    slide.ImagedVolumeWidth = slide.ImagedVolumeHeight = SIDE * MPP / 1000
    slide.ImagedVolumeDepth = BETWEEN_UM * PLANES / 1000
    slide.ImageOrientationSlide = [0, 1, 0, 1, 0, 0]
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 0
    slide.TotalPixelMatrixOriginSequence = Sequence([origin])
    slide.FocusMethod, slide.ExtendedDepthOfField, slide.SpecimenLabelInImage = "AUTO", "NO", "NO"
    slide.BurnedInAnnotation, slide.LossyImageCompression = "NO", "01"
    slide.LossyImageCompressionRatio, slide.LossyImageCompressionMethod = 10, "ISO_10918_1"
    path = Dataset()
    path.OpticalPathIdentifier, path.OpticalPathDescription = "0", "Brightfield"
    path.IlluminationTypeCodeSequence = code("111744", "Brightfield illumination")
    path.IlluminationColorCodeSequence = code("R-102C0", "Full Spectrum")
    slide.OpticalPathSequence = Sequence([path])
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [MPP / 1000, MPP / 1000], BETWEEN_UM / 1000
    measures.SpacingBetweenSlices = BETWEEN_UM / 1000
    shared.PixelMeasuresSequence = Sequence([measures])
    slide.SharedFunctionalGroupsSequence = Sequence([shared])
    slide.ContainerIdentifier, slide.IssuerOfTheContainerIdentifierSequence = "1", Sequence([])
    slide.ContainerTypeCodeSequence = code("433466003", "Microscope slide")
    slide.AcquisitionContextSequence, slide.SpecimenDescriptionSequence = Sequence([]), Sequence([])
    slide.SamplesPerPixel, slide.PhotometricInterpretation, slide.PlanarConfiguration = 3, "YBR_FULL_422", 0
    slide.Rows = slide.Columns = TILE
    slide.BitsAllocated, slide.BitsStored, slide.HighBit, slide.PixelRepresentation = 8, 8, 7, 0
    frames = []
    for plane in range(PLANES):
        whole = Image.fromarray(field(plane))
        for y in range(0, SIDE, TILE):
            for x in range(0, SIDE, TILE):
                file = io.BytesIO()
                whole.crop((x, y, x + TILE, y + TILE)).save(file, "JPEG", quality=95)
                frames.append(file.getvalue())
    slide.NumberOfFrames = len(frames)
    slide.PixelData = encapsulate(frames)
    slide["PixelData"].is_undefined_length = True
    slide.file_meta = FileMetaDataset()
    slide.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    slide.file_meta.MediaStorageSOPClassUID, slide.file_meta.MediaStorageSOPInstanceUID = (
        WHOLE_SLIDE,
        slide.SOPInstanceUID,
    )
    file = tmp_path_factory.mktemp("stack") / "stack.dcm"
    pydicom.dcmwrite(file, slide, enforce_file_format=True)
    return file


def test_every_focal_plane_of_a_dicom_slide_is_read_in_the_order_of_its_depths(stack: Path) -> None:
    slide = Slide(stack)
    assert (slide.reader, slide.planes, slide.size, slide.mpp) == ("wsidicom", PLANES, (SIDE, SIDE), MPP)
    for plane in range(PLANES):
        found = slide.read((32, 32), TILE, MPP, z=plane).astype(int)
        assert np.abs(found - field(plane)[32 : 32 + TILE, 32 : 32 + TILE]).mean() < 4


def test_the_sharpest_plane_of_a_dicom_slide_is_found(stack: Path) -> None:
    slide = Slide(stack)
    every = slide.read((10, 20), TILE, MPP, z="all")
    assert every.shape == (PLANES, TILE, TILE, 3)
    assert int(np.argmax([sharpness(plane) for plane in every])) == SHARP
    assert np.array_equal(slide.read((10, 20), TILE, MPP, z="best"), every[SHARP])


def test_a_plane_that_is_not_there_is_refused(stack: Path) -> None:
    with pytest.raises(Rejected, match="3 focal planes"):
        Slide(stack).read((0, 0), TILE, MPP, z=3)
