"""Camelyon16 as it is downloaded, and folds whose test patients nothing learns from."""

from pathlib import Path

import pytest

from medvit.case import Case
from medvit.data.slide_tables import dealt, read_camelyon16, read_slides
from medvit.errors import MedvitError


def camelyon(folder: Path, flat: bool = False) -> Path:
    """The names of Camelyon16 without its pixels."""
    normal, tumor, test = ("images",) * 3 if flat else ("training/normal", "training/tumor", "testing/images")
    names = [
        *(f"{normal}/normal_{i:03d}.tif" for i in (1, 2, 3, 4, 5, 86)),
        *(f"{tumor}/tumor_{i:03d}.tif" for i in range(1, 40)),
        *(f"{test}/test_{i:03d}.tif" for i in (1, 2, 49, 114)),
        "masks/tumor_001_mask.tif",
    ]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"II*\0")
    (folder / "testing").mkdir(exist_ok=True)
    (folder / "testing/reference.csv").write_text(
        "test_001,Tumor,IDC,Macro\ntest_002,Normal,None,None\ntest_049,Normal\ntest_114,Tumor\n"
    )
    return folder


def named(cases: list[Case]) -> dict[str, Case]:
    return {case.files[0].stem: case for case in cases}


@pytest.mark.parametrize("flat", [False, True])
def test_camelyon16_is_read_as_it_lies_on_the_disk_with_its_known_errors_put_right(tmp_path: Path, flat: bool) -> None:
    splits = read_camelyon16(camelyon(tmp_path, flat), ["tumour"])
    learned, test = named([*splits["train"], *splits["val"]]), named(splits["test"])
    assert len(learned) == 45 and set(test) == {"test_001", "test_002", "test_114"}  # 049 is a duplicate
    assert learned["normal_001"].labels == {"tumour": 0} and learned["tumor_001"].labels == {"tumour": 1}
    assert learned["normal_086"].labels == {"tumour": 1}
    assert (test["test_001"].labels, test["test_002"].labels) == ({"tumour": 1}, {"tumour": 0})
    assert (test["test_114"].header["places"], test["test_001"].header["places"]) == ("no", "yes")
    assert all(case.modality == "SM" for case in learned.values())


def test_validation_slides_are_the_same_wherever_the_set_lies(tmp_path: Path) -> None:
    first, second = (read_camelyon16(camelyon(tmp_path / name), ["tumour"]) for name in "ab")
    assert set(named(first["val"])) == set(named(second["val"])) != set()


def test_what_camelyon16_lacks_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(MedvitError, match="Give the folder of Camelyon16"):
        read_camelyon16(tmp_path, ["tumour"])
    folder = camelyon(tmp_path)
    with pytest.raises(MedvitError, match="one label, not 2"):
        read_camelyon16(folder, ["tumour", "micro"])
    (folder / "testing/images/test_007.tif").write_bytes(b"II*\0")
    with pytest.raises(MedvitError, match=r"does not say what test_007\.tif is"):
        read_camelyon16(folder, ["tumour"])
    (folder / "testing/reference.csv").unlink()
    with pytest.raises(MedvitError, match=r"no reference\.csv"):
        read_camelyon16(folder, ["tumour"])


def patients(count: int) -> list[Case]:
    return [Case(f"{i}", "SM", (), {"tumour": float(i // 2 % 3 == 0)}, patient=f"p{i // 2}") for i in range(2 * count)]


def test_every_patient_is_tested_once_and_never_in_two_splits_of_a_fold() -> None:
    cases, tested = patients(17), []
    for fold in range(5):
        splits = dealt(cases, 5, fold, ["tumour"])
        who = {split: {case.patient for case in found} for split, found in splits.items()}
        assert not who["test"] & who["val"] and not who["test"] & who["train"] and not who["val"] & who["train"]
        assert len(who["test"] | who["val"] | who["train"]) == 17
        assert {case.labels["tumour"] for case in splits["test"]} == {0, 1}
        tested += [case.uid for case in splits["test"]]
    assert sorted(tested) == sorted(case.uid for case in cases)


def test_folds_do_not_depend_on_the_order_of_the_table() -> None:
    cases = patients(12)
    assert {case.uid for case in dealt(cases, 4, 1, ["tumour"])["test"]} == {
        case.uid for case in dealt(cases[::-1], 4, 1, ["tumour"])["test"]
    }


@pytest.mark.parametrize(("folds", "fold"), [(2, 0), (5, 5), (5, -1)])
def test_folds_that_leave_nothing_to_learn_from_are_refused(
    request: pytest.FixtureRequest, folds: int, fold: int
) -> None:
    table = request.config.rootpath / "sample_data/slides/cases.csv"
    with pytest.raises(MedvitError, match=r"data\.fold"):
        read_slides("medvit", table, ["tumour"], folds, fold)
    with pytest.raises(MedvitError, match="cannot be dealt"):
        dealt(patients(3), 5, 0)
