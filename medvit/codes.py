"""Finding labels and their codes: one table, one source a row.

A label without a confirmed public code carries a private one (scheme ``99MEDVIT``), openly. RadLex and
SNOMED CT tables found in public repositories are often wrong, so every row says where it was checked.
"""

from collections.abc import Iterable
from typing import NamedTuple

from medvit.errors import MedvitError

PRIVATE = "99MEDVIT"


class Code(NamedTuple):
    """A coded concept (DICOM PS3.3 section 8.8) and where it was checked.

    Args:
        value: Code Value (0008,0100).
        scheme: Coding Scheme Designator (0008,0102), such as ``SCT``.
        meaning: Code Meaning (0008,0104).
        source: Where the row was checked.
        checked_on: ISO date of the check.
    """

    value: str
    scheme: str
    meaning: str
    source: str = "private code: no public one was looked up"
    checked_on: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}:{self.value}"


class Label(NamedTuple):
    """A finding that a system answers, and the probability from which it counts as positive."""

    name: str
    code: Code
    threshold: float = 0.5


_MAPPING = "published mapping to SNOMED CT"
_DAY = "2026-11-21"
CODES = {
    "Atelectasis": Code("46621007", "SCT", "Atelectasis", f"{_MAPPING} (MedDRA)", _DAY),
    "Cardiomegaly": Code("8186001", "SCT", "Cardiomegaly", _MAPPING, _DAY),
    "Effusion": Code("60046008", "SCT", "Pleural effusion", "DICOM PS3.16 CID 645", _DAY),
    "Infiltration": Code("112121", "DCM", "Infiltrate", "DICOM PS3.16 CID 6104", _DAY),
    "Mass": Code("4147007", "SCT", "Mass", "DICOM PS3.16 CID 6104", _DAY),
    "Nodule": Code("27925004", "SCT", "Nodule", "DICOM PS3.16 CID 6104", _DAY),
    "Pneumonia": Code("233604007", "SCT", "Pneumonia", _MAPPING, _DAY),
    "Pneumothorax": Code("36118008", "SCT", "Pneumothorax", "DICOM PS3.16 CID 6105", _DAY),
    "Consolidation": Code("95436008", "SCT", "Lung consolidation", f"{_MAPPING} (OMOP)", _DAY),
    "Edema": Code("19242006", "SCT", "Pulmonary edema", "DICOM PS3.16 CID 3700", _DAY),
    "Emphysema": Code("87433001", "SCT", "Pulmonary emphysema", _MAPPING, _DAY),
    "Fibrosis": Code("51615001", "SCT", "Pulmonary fibrosis", f"{_MAPPING} (MedDRA)", _DAY),
    "Pleural_Thickening": Code("PLEURAL-THICK", PRIVATE, "Pleural thickening", "no public code confirmed", _DAY),
    # Clips of the eye. A label's meaning says what 1 is and what 0 is.
    "Retinal_Detachment": Code(
        "RETINAL-DETACH", PRIVATE, "Retinal detachment (0: none)", "no public code confirmed", _DAY
    ),
    "Retinal_Detachment_vs_Normal": Code(
        "RD-VS-NORMAL", PRIVATE, "Retinal detachment (0: normal eye)", "no public code confirmed", _DAY
    ),
    "Retinal_Detachment_vs_PVD": Code(
        "RD-VS-PVD", PRIVATE, "Retinal detachment (0: vitreous detachment)", "no public code confirmed", _DAY
    ),
    "Macula_Intact_vs_Detached": Code(
        "MACULA-INTACT", PRIVATE, "Macula intact in retinal detachment (0: detached)", "no public code confirmed", _DAY
    ),
    "PVD_vs_Normal": Code(
        "PVD-VS-NORMAL", PRIVATE, "Posterior vitreous detachment (0: normal eye)", "no public code confirmed", _DAY
    ),
    "Hernia": Code("HERNIA", PRIVATE, "Hernia", "NIH's label is wider than SCT 84089009 Hiatal hernia", _DAY),
}

# Organs that masks may be of, by names as people write them; not case-sensitive.
_ORGANS = "DICOM PS3.16 as in pydicom's tables, CID 7151"
ORGANS = {
    name.lower(): Code(value, "SCT", name, _ORGANS, _DAY)
    for name, value in (
        ("Liver", "10200004"), ("Spleen", "78961009"), ("Kidney", "64033007"), ("Pancreas", "15776009"),
        ("Stomach", "69695003"), ("Gallbladder", "28231008"), ("Aorta", "15825003"),
        ("Heart", "80891009"), ("Lung", "39607008"), ("Brain", "12738006"),
        ("Hippocampus", "5366008"), ("Prostate", "41216001"), ("Esophagus", "32849002"), ("Spine", "421060004"),
    )
}  # fmt: skip

# What written objects say beside the labels: what was measured, how, and of what kind it is.
_DICT = "DICOM PS3.16 as in pydicom's tables"
TERMS = {
    "probability": Code("122157", "DCM", "Probability", f"{_DICT}, annex D", _DAY),
    "threshold": Code(
        "THRESHOLD", PRIVATE, "Probability from which a finding counts as present", "no public one", _DAY
    ),
    "distance": Code("DISTANCE", PRIVATE, "Distance from the training cases, 1 is usual", "no public one", _DAY),
    "unlike": Code(
        "UNLIKE-TRAINING", PRIVATE, "Unlike the cases that the algorithm learned from", "no public one", _DAY
    ),
    "presence": Code("705057003", "SCT", "Presence", "ACR/RSNA Open Imaging Data Model", _DAY),
    "present": Code("52101004", "SCT", "Present", f"{_DICT}, CID 240", _DAY),
    "absent": Code("272519000", "SCT", "Absent", f"{_DICT}, CID 240", _DAY),
    "no units": Code("1", "UCUM", "no units", f"{_DICT}, CID 7181", _DAY),
    "abnormal structure": Code("49755003", "SCT", "Morphologically Abnormal Structure", f"{_DICT}, CID 7150", _DAY),
    "anatomical structure": Code("91723000", "SCT", "Anatomical Structure", f"{_DICT}, CID 7150", _DAY),
    "place": Code("309825002", "SCT", "Spatial and Relational Concept", f"{_DICT}, CID 7150", _DAY),
    "radiograph": Code("43468-8", "LN", "XR unspecified body region", f"{_DICT}, CID 100", _DAY),
    "imaging": Code("363679005", "SCT", "Imaging procedure", f"{_DICT}, CID 100", _DAY),
    "class activation": Code("130402", "DCM", "Class activation", f"{_DICT}, CID 217", _DAY),
    "gradient-weighted class activation": Code(
        "130403", "DCM", "Gradient-weighted class activation", f"{_DICT}, CID 217", _DAY
    ),
    "saliency": Code("130404", "DCM", "Saliency", f"{_DICT}, CID 217", _DAY),
}
# How heat maps were made, by `medvit.result.Heatmap.method`; what is not named here is a saliency map, CID 217's widest.
METHODS = {"grad-cam": "gradient-weighted class activation", "cam": "class activation"}

LABEL_SETS = {
    # NIH ChestX-ray14 in the order of the thorax MAE release, which differs from the alphabetical one.
    "nih14": (
        "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
        "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
    ),
    # The five CheXpert targets in the order of the thorax MAE release.
    "chexpert5": ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Effusion"),
    # What the generated films of sample_data/ show.
    "sample6": ("Cardiomegaly", "Effusion", "Nodule", "Mass", "Pneumothorax", "Consolidation"),
}  # fmt: skip


def code_of(name: str) -> Code:
    """The code of a finding; a name outside the table gets a private code made of it."""
    value = "".join(c if c.isalnum() else "-" for c in name.upper())[:16]
    return CODES.get(name) or ORGANS.get(name.lower()) or Code(value, PRIVATE, name)


def category_of(name: str) -> str:
    """What a label is, as one of `TERMS`: an organ, a finding, or a place that somebody asked about and named as they liked."""
    return "abnormal structure" if name in CODES else "anatomical structure" if name.lower() in ORGANS else "place"


def labels_of(names: str | Iterable[str]) -> tuple[Label, ...]:
    """The labels of a set's name (``nih14``) or of a list of findings, in order.

    Raises:
        MedvitError: For an unknown set, no name at all or a name given twice.
    """
    if isinstance(names, str):
        if names not in LABEL_SETS:
            raise MedvitError(
                f"There is no label set {names!r}; there are {', '.join(LABEL_SETS)}, or a list of findings."
            )
        names = LABEL_SETS[names]
    names = tuple(names)
    if not names or len({file_name(name) for name in names}) != len(names):
        raise MedvitError(
            f"labels must name each finding once and at least one, also as file names, not {list(names)}."
        )
    return tuple(Label(name, code_of(name)) for name in names)


def file_name(label: str) -> str:
    """A label as part of a file name."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in label)[:64]
