"""Every file of the DICOM zoo: the right pixels, or the right refusal."""

import csv
import functools
import hashlib
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from medvit.errors import Unanswered
from medvit.readers.codecs import CODECS
from medvit.readers.dicom import open_dicom
from medvit.readers.pixels import NATIVE, decode

pytestmark = pytest.mark.real
ZOO = Path(__file__).resolve().parents[3] / "shared/data/dicom_zoo"
# The manifest names an error for these two, an artefact of how it was made; its column `decode` says what is in them.
ANSWERABLE = {
    "pydicom__image_dfl.dcm": "ok uint8 (512, 512) min=0 max=255",
    "cornerstone__CTImage.dcm_DeflatedExplicitVRLittleEndianTransferSyntax_1.2.840.10008.1.2.1.99.dcm":
        "ok int16 (512, 512) min=-2000 max=2402",
}  # fmt: skip
REFUSED = {
    "cornerstone__CTImage.dcm_JPEGProcess10_12TransferSyntax_1.2.840.10008.1.2.4.55.dcm": "transfer_syntax",
    "cornerstone__CTImage.dcm_JPEGProcess6_8TransferSyntax_1.2.840.10008.1.2.4.53.dcm": "transfer_syntax",
    "dtf__MR1_JPLY.dcm": "undecodable",
    "dtf__RG3_JPLY.dcm": "undecodable",
    "fodicom__CR-MONO1-10-chest.dcm": "not_dicom",
    "fodicom__GH1146.dcm": "no_pixels",
    "fodicom__GH177_D_CLUNIE_CT1_IVRLE_BigEndian_undefined_length.dcm": "unreadable",
    "fodicom__GH178.dcm": "no_pixels",
    "fodicom__GH220.dcm": "no_pixels",
    "fodicom__GH340.dcm": "not_dicom",
    "fodicom__GH487.dcm": "no_pixels",
    "fodicom__GH626.dcm": "truncated",
    "fodicom__Issue1097_FailToOpenDeflatedFileWithSQ.dcm": "no_pixels",
    "fodicom__genFile.dcm": "undecodable",
    "highdicom__sm_annotations.dcm": "no_pixels",
    "highdicom__sr_document.dcm": "no_pixels",
    "pydicom__ExplVR_BigEndNoMeta.dcm": "not_dicom",
    "pydicom__JPEG-lossy.dcm": "undecodable",
    "pydicom__JPEG2000-embedded-sequence-delimiter.dcm": "size_mismatch",
    "pydicom__MR_truncated.dcm": "truncated",
    "pydicom__UN_sequence.dcm": "no_sop_uid",
    "pydicom__badVR.dcm": "frames",
    "pydicom__fall.dcm": "no_pixels",
    "pydicom__meta_missing_tsyntax.dcm": "transfer_syntax",
    "pydicom__nested_priv_SQ.dcm": "no_sop_uid",
    "pydicom__no_meta.dcm": "not_dicom",
    "pydicom__no_meta_group_length.dcm": "no_sop_uid",
    "pydicom__reportsi_with_empty_number_tags.dcm": "no_pixels",
    "pydicom__rtplan_truncated.dcm": "truncated",
    "pydicom__rtstruct.dcm": "not_dicom",
    "pydicom__test-SR.dcm": "no_pixels",
    "pydicomdata2__liver_deflate.dcm": "transfer_syntax",
    "pydicomdata2__liver_rle.dcm": "bits",
    "pydicomdata__OT-PAL-8-face.dcm": "not_dicom",
}  # fmt: skip


@functools.cache
def manifest() -> dict[str, dict[str, str]]:
    if not ZOO.is_dir():
        return {}
    with (ZOO / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


@functools.cache
def lossy() -> dict[str, np.ndarray]:
    return dict(np.load(ZOO / "expected_lossy.npz")) if ZOO.is_dir() else {}


def outcome(path: str) -> str:
    """``hash``, ``lossy``, ``decoded``, ``wrong``, or the reason of the refusal."""
    row = manifest()[path]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            values = decode(open_dicom(ZOO / path))
        except Unanswered as refusal:
            return refusal.reason
    if path in lossy():
        first = values[0] if values.ndim > lossy()[path].ndim else values
        near = (
            values.shape == tuple(map(int, row["raw_shape"].strip("[]").split(","))) and first.dtype == row["raw_dtype"]
        )
        return "lossy" if near and abs(first.astype(int) - lossy()[path]).max() <= 2 else "wrong"
    if path in ANSWERABLE:
        told = f"ok {values.dtype} {values.shape} min={values.min()} max={values.max()}"
        return "decoded" if told == row["decode"] == ANSWERABLE[path] else "wrong"
    told = hashlib.sha256(values.tobytes()).hexdigest(), str(list(values.shape)), str(values.dtype)
    return "hash" if told == (row["raw_sha256"], row["raw_shape"], row["raw_dtype"]) else "wrong"


@pytest.mark.parametrize(
    "path", sorted(manifest()) or [pytest.param("", marks=pytest.mark.skip(f"{ZOO} is not there"))]
)
def test_a_file_of_the_zoo_gives_the_pixels_of_the_manifest_or_is_refused_for_its_reason(path) -> None:
    right = "lossy" if path in lossy() else "decoded" if path in ANSWERABLE else REFUSED.get(path, "hash")
    assert outcome(path) == right


def test_every_file_of_the_zoo_is_accounted_for() -> None:
    if not manifest():
        pytest.skip(f"{ZOO} is not there")
    hashed = {path for path, row in manifest().items() if row["raw_sha256"]}
    assert set(manifest()) == hashed | set(REFUSED) | set(ANSWERABLE)
    assert not hashed & (set(REFUSED) | set(ANSWERABLE))
    assert Counter(hashed=len(hashed - set(lossy())), lossy=len(lossy()), refused=len(REFUSED)) == Counter(
        hashed=117, lossy=7, refused=34
    )


def test_every_transfer_syntax_of_the_zoo_that_has_pixels_is_in_the_table_of_decoders() -> None:
    if not manifest():
        pytest.skip(f"{ZOO} is not there")
    named = {row["ts"] for row in manifest().values() if row["raw_sha256"]}
    assert named <= {syntax.name for syntax in NATIVE} | {syntax.name for syntax in map(type(NATIVE[0]), CODECS)}
    assert len({row["ts"] for row in manifest().values()}) == 19
