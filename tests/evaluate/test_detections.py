"""FROC with intervals, against counts by hand and against `medvit.evaluate.froc`; outlines of lesions as others write them."""

import gzip
import json

import numpy as np
import pytest

from medvit.case import Box, Case
from medvit.codes import Label, code_of
from medvit.errors import MedvitError
from medvit.evaluate.detections import Marks, marks_in_boxes, marks_in_mask, measured, peaks
from medvit.evaluate.froc import FALSE_ALARMS, Found, froc
from medvit.evaluate.places import Places
from medvit.image import Fit, Tiling
from medvit.readers.outlines import lesion_plane, read_outlines
from medvit.result import Finding, Heatmap, Result, TileScores

LABEL = Label("tumour", code_of("tumour"))


def test_the_score_of_marks_is_that_of_the_masks_they_came_from() -> None:
    rng = np.random.default_rng(1)
    found, masks = [], []
    for _ in range(12):
        mask = np.zeros((120, 120), bool)
        for row, column in rng.integers(5, 75, (int(rng.integers(0, 3)), 2)):
            mask[row : row + 35, column : column + 35] = True
        n = int(rng.integers(0, 9))
        found.append(Found(rng.random(n).round(1).astype(np.float32), rng.integers(0, 120, (n, 2))))
        masks.append(mask)
    whole = froc(found, masks, [10.0] * len(masks))
    told = measured([marks_in_mask(f, m, 10.0) for f, m in zip(found, masks, strict=True)], [""] * len(masks), 200)
    assert told["score"][0] == pytest.approx(whole.score, abs=1e-9)
    assert [one[0] for one in told["sensitivity"].values()] == pytest.approx(whole.sensitivity, abs=1e-9)
    assert (told["lesions"], told["images"]) == (whole.lesions, whole.slides)
    assert told["score"][1] < told["score"][0] < told["score"][2]


def test_drawing_patients_makes_the_interval_wider_than_drawing_slides() -> None:
    rng = np.random.default_rng(2)
    marks = [Marks(rng.random(2), np.array([0.9 if one else 0.0])) for one in np.repeat(rng.random(15) < 0.5, 4)]
    slides = measured(marks, [""] * 60, 500)["score"]
    patients = measured(marks, [f"p{i // 4}" for i in range(60)], 500)["score"]
    assert slides[0] == patients[0] and patients[2] - patients[1] > 1.5 * (slides[2] - slides[1])


def test_without_a_lesion_there_is_no_score_and_false_alarms_alone_lower_it() -> None:
    assert measured([Marks(np.array([0.5]), np.empty(0))], [""]) is None
    clean = [Marks(np.empty(0), np.array([0.6]))] * 4
    noisy = [Marks(np.array([0.9, 0.8, 0.7]), np.array([0.6]))] * 4
    assert measured(clean, [""] * 4, 20)["score"][0] == 1
    told = measured(noisy, [""] * 4, 20)
    assert [told["sensitivity"][f"{at:g}"][0] for at in FALSE_ALARMS] == [0, 0, 0, 0, 1, 1]


def test_peaks_lie_apart_and_a_box_is_found_by_the_peak_inside_it() -> None:
    values = np.zeros((12, 12), np.float32)
    values[2, 3], values[2, 4], values[9, 9], values[6, 1] = 1.0, 0.9, 0.6, 0.4
    places, shares = peaks(values)
    assert places.tolist() == [[2, 3], [9, 9]] and shares.tolist() == pytest.approx([1.0, 0.6])
    assert peaks(np.zeros((4, 4), np.float32))[1].size == 0
    boxes = [Box("a", 20, 10, 50, 40), Box("a", 60, 60, 70, 70)]
    marks = marks_in_boxes(np.array([[35.0, 25.0], [95.0, 95.0]]), np.array([0.8, 0.3]), boxes)
    assert marks.false.tolist() == [0.3] and marks.lesions.tolist() == [0.8, 0.0]


def test_films_are_scored_in_source_pixels_and_films_that_nobody_boxed_do_not_count() -> None:
    places = Places(["tumour"], {"tumour": 0.5}, boxed=True)
    values = np.zeros((4, 4), np.float32)
    values[1, 2] = 1
    heat = Heatmap(LABEL, values, Fit((80, 100), (32, 32), (0, 10, 80, 90)), "m")  # the cell's middle: x 60, y 30
    for patient, label, boxes in (("a", 1.0, (Box("tumour", 55, 25, 65, 35),)), ("b", 0.0, ()), ("c", 1.0, ())):
        case = Case(patient, "DX", (), {"tumour": label}, boxes=boxes, patient=patient)
        places.take(case, Result(case, (Finding(LABEL, 0.7),), heatmaps=(heat,)))
    told = places.told(20)["tumour"]["m"]
    assert (told["images"], told["lesions"], told["false_alarms"]) == (2, 1, 1)
    assert told["sensitivity"]["0.25"][0] == pytest.approx(0.5)  # box and false alarm score alike


@pytest.fixture(params=["xml", "geojson", "geojson.gz", "png"])
def outlines(request, tmp_path):
    """A square of 400 level-0 pixels with a hole of 100, as each kind of file has it."""
    outer, inner = [[200, 100], [600, 100], [600, 500], [200, 500]], [[300, 200], [400, 200], [400, 300], [300, 300]]
    path = tmp_path / f"lesion.{request.param}"
    if request.param == "xml":
        groups = [f'<Annotation PartOfGroup="{name}"><Coordinates>' + "".join(
            f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(ring)) + "</Coordinates></Annotation>"
            for name, ring in (("_0", outer), ("_2", inner))]  # fmt: skip
        path.write_text(f"<ASAP_Annotations><Annotations>{''.join(groups)}</Annotations></ASAP_Annotations>")
    elif request.param == "png":
        from PIL import Image

        mask = np.zeros((60, 80), np.uint8)
        mask[10:50, 20:60], mask[20:30, 30:40] = 2, 1
        Image.fromarray(mask).save(path)
    else:
        rings = [[*ring, ring[0]] for ring in (outer, inner)]
        tree = {"type": "FeatureCollection", "features": [
            {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}, "properties": {}}]}  # fmt: skip
        path.write_bytes(
            gzip.compress(json.dumps(tree).encode()) if path.suffix == ".gz" else json.dumps(tree).encode()
        )
    return path


def test_outlines_of_every_kind_mark_the_same_place(outlines) -> None:
    plane, step = lesion_plane(outlines, (800, 600), 0.8, (2,))
    assert step == 10 and plane.shape == (60, 80)
    truth = np.zeros((60, 80), bool)
    truth[10:50, 20:60] = True
    truth[20:30, 30:40] = False
    assert (plane ^ truth).mean() < 0.03 and plane[12, 22] and not plane[25, 35] and not plane[5, 5]


def test_a_file_that_is_no_outline_is_refused_in_a_sentence(tmp_path) -> None:
    for name, content in (("a.xml", "<x"), ("b.geojson", "{"), ("c.xml", '<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>'),
                          ("d.geojson", '{"type": "Polygon", "coordinates": [[["x", 1]]]}')):  # fmt: skip
        (tmp_path / name).write_text(content)
        with pytest.raises(MedvitError, match="cannot be read as outlines"):
            read_outlines(tmp_path / name)


def test_a_slide_with_its_tumour_named_scores_one_and_one_that_names_glass_scores_nothing(outlines) -> None:
    corners = np.array([[x, y] for y in range(0, 600, 100) for x in range(0, 800, 100)])
    inside = ((corners >= [200, 100]) & (corners < [600, 500])).all(axis=1)
    for right, score in ((True, 1.0), (False, 0.0)):
        places = Places(["tumour"], {"tumour": 0.5}, masks={"a": outlines}, values=(2,), silence_um=100.0)
        for uid, truth in (("a", 1.0), ("b", 0.0)):
            case = Case(uid, "SM", (), {"tumour": truth}, patient=uid)
            values = np.where(inside == right, 0.9, 0.1).astype(np.float32) * np.float32(truth)
            tiles = TileScores(Tiling(corners, 100.0, (800, 600), 0.8), {"tumour attention": values})
            places.take(case, Result(case, (Finding(LABEL, 0.8 * truth),), tiles=tiles))
        told = places.told(20)["tumour"]["attention of tiles"]
        assert (told["images"], told["lesions"]) == (2, 1) and told["sensitivity"]["0.25"][0] == score
