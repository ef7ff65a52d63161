"""The sample volumes: made twice alike, split by patient, their masks and boxes on them, one as an oblique series."""

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np

from medvit.case import read_boxes
from medvit.data.mask_tables import read_masked
from medvit.readers.masks import read_mask
from medvit.readers.scan import Grey, read_scan
from medvit.readers.series import read_series

FOLDER = Path(__file__).resolve().parents[2] / "sample_data"
SHIPPED = FOLDER / "volumes"
LABELS = ("liver", "spleen", "kidney_right", "kidney_left", "aorta")


def test_the_shipped_volumes_are_those_that_the_generator_makes(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; import sys, make\n"
        "volume, mask = make.paint_abdomen(make.plan_volumes(0)[7].abdomen)\n"
        "make.write_nifti(Path(sys.argv[1], 'v.nii.gz'), volume); make.write_nifti(Path(sys.argv[1], 'm.nii.gz'), mask)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=FOLDER, check=True)
    for made, shipped in (("v", SHIPPED / "0007.nii.gz"), ("m", SHIPPED / "masks" / "0007.nii.gz")):
        voxels = [np.asarray(nibabel.load(path).dataobj) for path in (tmp_path / f"{made}.nii.gz", shipped)]
        np.testing.assert_array_equal(*voxels)


def test_the_table_is_split_by_patient_and_every_mask_lies_on_its_volume() -> None:
    splits = read_masked("medvit", SHIPPED / "cases.csv")
    assert {split: len(cases) for split, cases in splits.items()} == {"train": 18, "val": 4, "test": 8}
    for case in splits["test"]:
        image = read_scan(case.files, case.modality, Grey())
        assert case.mask is not None and image.spacing == (6.0, 3.0, 3.0)
        assert set(np.unique(read_mask(case.mask, image))) == set(range(6))


def test_boxes_hold_the_organs_that_they_name() -> None:
    boxes = read_boxes(SHIPPED / "boxes.csv")
    assert len(boxes) == 9
    for path, rows in boxes.items():
        assert {row.label for row in rows} == set(LABELS)
        if path != "series":
            image = read_scan([SHIPPED / path], "NIFTI", Grey())
            mask = read_mask(SHIPPED / "masks" / path, image)
            for row in rows:
                inside = mask[row.slice or 0] == LABELS.index(row.label) + 1
                rows_, columns = np.nonzero(inside)
                assert (columns.min(), rows_.min()) == (row.x_min + 1, row.y_min + 1)
                assert (columns.max(), rows_.max()) == (row.x_max - 2, row.y_max - 2)


def test_the_series_is_oblique_and_whole() -> None:
    image = read_series(sorted((SHIPPED / "series").glob("*.dcm")))
    assert image.pixels.shape == (1, 10, 72, 72) and image.place is not None
    axes = image.place.affine[:3, :3] / np.linalg.norm(image.place.affine[:3, :3], axis=0)
    assert np.abs(np.abs(axes).max(axis=0)).max() < 0.99
    assert image.pixels.min() == -100


def test_the_volumes_are_small() -> None:
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) < 2_000_000
