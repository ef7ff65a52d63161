"""Findings and their codes."""

import re

import pytest
from pydicom.sr._concepts_dict import concepts

from medvit.codes import CODES, LABEL_SETS, METHODS, PRIVATE, TERMS, code_of, file_name, labels_of
from medvit.errors import MedvitError


def test_the_14_findings_come_in_the_order_of_the_release() -> None:
    assert [label.name for label in labels_of("nih14")] == [
        "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
        "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
    ]  # fmt: skip


@pytest.mark.parametrize("name", LABEL_SETS)
def test_every_label_of_a_set_has_a_code_that_was_checked(name) -> None:
    for label in labels_of(name):
        assert label.code == CODES[label.name]
        assert label.code.source
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", label.code.checked_on)


def test_every_concept_of_written_objects_was_checked_and_the_standards_are_in_its_tables() -> None:
    for code in [*TERMS.values(), *CODES.values()]:
        assert code.source
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", code.checked_on)
        assert len(code.meaning) <= 64
        if code.source.startswith("DICOM PS3.16"):
            meanings = [found[code.value][0] for found in concepts[code.scheme].values() if code.value in found]
            assert code.meaning in meanings, code
            context = re.search(r"CID (\d+)", code.source)
            groups = [found[code.value][1] for found in concepts[code.scheme].values() if code.value in found]
            assert context is None or any(int(context[1]) in group for group in groups), code


def test_the_private_codes_are_these_and_no_more() -> None:
    private = {code.value for code in [*TERMS.values(), *CODES.values()] if code.scheme == PRIVATE}
    eyes = {"RETINAL-DETACH", "RD-VS-NORMAL", "RD-VS-PVD", "MACULA-INTACT", "PVD-VS-NORMAL"}
    assert private == {"PLEURAL-THICK", "HERNIA", "THRESHOLD", "DISTANCE", "UNLIKE-TRAINING"} | eyes


def test_every_method_of_heat_maps_has_a_concept() -> None:
    assert set(METHODS.values()) <= set(TERMS)


@pytest.mark.parametrize("name", [*CODES, "Something quite unheard of, at least here", "Lung Opacity"])
def test_a_code_fits_the_dicom_elements_it_goes_to(name) -> None:
    code = code_of(name)
    assert 0 < len(code.value) <= 16  # SH
    assert len(code.scheme) <= 16  # SH
    assert len(code.meaning) <= 64  # LO
    assert "\\" not in code.value + code.meaning


def test_no_two_findings_share_a_code() -> None:
    assert len({(code.scheme, code.value) for code in CODES.values()}) == len(CODES)


def test_an_unknown_finding_gets_a_private_code() -> None:
    assert code_of("Lung Opacity")[:3] == ("LUNG-OPACITY", PRIVATE, "Lung Opacity")
    assert str(code_of("Lung Opacity")) == "99MEDVIT:LUNG-OPACITY"
    assert str(code_of("Mass")) == "SCT:4147007"


def test_labels_can_be_listed() -> None:
    assert [label.name for label in labels_of(["Mass", "Fever"])] == ["Mass", "Fever"]
    assert labels_of(["Mass"])[0].threshold == 0.5


@pytest.mark.parametrize("names", [[], ["Mass", "Mass"], ()])
def test_no_label_or_one_given_twice_is_refused(names) -> None:
    with pytest.raises(MedvitError, match="each finding once and at least one"):
        labels_of(names)


def test_an_unknown_set_is_refused_with_those_there_are() -> None:
    with pytest.raises(MedvitError, match="no label set 'nih15'; there are nih14, chexpert5"):
        labels_of("nih15")


@pytest.mark.parametrize("label", ["Mass", "../../etc/passwd", "a b/c", "x" * 300, "Ödem", "a\0b\nc"])
def test_a_label_in_a_file_name_stays_in_its_folder(label) -> None:
    name = file_name(label)
    assert name
    assert len(name) <= 64
    assert not set(name) & set("/\\.\0\n ")
