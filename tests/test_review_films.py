"""Beside a film and over it: outlines of regions, other films of the patient, images in zips, how far a run is."""

import os
import time
import zipfile

import numpy as np
import pytest
from review_runs import COLUMNS, HOT, ROWS, film_pixels, leave, leave_films

from apps.review import running
from apps.review.desk import Settings, desk
from apps.review.kin import kin
from apps.review.regions import regions
from apps.review.runs import Run
from medvit.atomic import locked
from medvit.case import digest
from medvit.errors import Rejected

FIELD, SOURCE = (0.0, 0.0, 80.0, 40.0), (80, 40)  # the model saw all of a film of 80 rows and 40 columns


def peaks(*places):
    """A map (8, 8) that is high at places: row, column, height."""
    values = np.full((8, 8), 0.01, np.float32)
    for row, column, height in places:
        values[row, column] = height
    return values


def test_an_outline_holds_the_peak_in_source_pixels_and_no_more_than_three_are_drawn():
    ((left, top, right, bottom),) = regions(peaks((6, 2, 1.0)), FIELD, SOURCE)
    assert left < 12.5 < right and top < 65 < bottom  # the middle of that token
    assert (right - left) * (bottom - top) < 3 * (40 / 8) * (80 / 8)
    two = regions(peaks((6, 2, 1.0), (1, 6, 0.8)), FIELD, SOURCE)
    assert len(two) == 2 and two[0][1] > two[1][3]  # the strongest first
    assert len(regions(peaks(*((row, row, 1.0) for row in (0, 2, 4, 6))), FIELD, SOURCE)) == 3


def test_a_map_that_points_nowhere_gets_no_outline_and_none_leaves_the_film():
    assert regions(np.ones((8, 8), np.float32), FIELD, SOURCE) == []
    assert regions(np.zeros((8, 8), np.float32), FIELD, SOURCE) == []
    wide = (-20.0, -20.0, 100.0, 60.0)  # what the model saw goes beyond the film: a token is 15 rows and 10 columns
    ((left, top, right, bottom),) = regions(peaks((1, 2, 1.0)), wide, SOURCE)
    assert top == 0.0 and 0 <= left < 5 < right < 20 and 2.5 < bottom < 20
    assert regions(peaks((0, 0, 1.0)), wide, SOURCE) == []  # beside the film


def opened(out, bases):
    """A desk that opens files in this process, its run, and what it told of heat maps of the first case."""
    shared = desk(Settings((str(out),), tuple(map(str, bases)), workers=0))
    (run,) = shared.runs.values()
    return shared, run


def test_the_page_is_told_the_outlines_of_a_finding(tmp_path, make_film):
    shared, run = opened(leave_films(tmp_path, make_film, ((0.9, 0.2, 0.6),)), (tmp_path,))
    (one, *_) = shared.heat(run.key, next(iter(run.rows)))
    ((left, top, right, bottom),) = one["regions"]
    assert left < (HOT[1] * 8 + 0.5) / 8 * COLUMNS < right and top < (HOT[0] * 8 + 0.5) / 8 * ROWS < bottom


def series(tmp_path, make_film, *headers):
    """A run over films with these headers, each a study of its own, and the cases in that order."""
    from medvit.readers.headers import read_facts

    records = []
    for number, header in enumerate(headers):
        film = make_film(tmp_path / f"films/{number}.dcm", film_pixels(), **header)
        facts, _ = read_facts(film)
        finding = {"label": "Mass", "code": "x", "probability": 0.1, "threshold": 0.5, "positive": False}
        told = {name: facts[name] for name in ("study_uid", "series_uid", "sop_uid", "modality")}
        records.append({
            "key": digest(os.path.abspath(film)), "source": f"films/{number}.dcm", "case": digest(facts["sop_uid"]),  # noqa: PTH100
            "status": "ok", "header": told, "origin": {}, "findings": [finding],
        })  # fmt: skip
    leave(tmp_path / "out", "ThoraxMAE", records)
    return tmp_path / "out", [record["case"] for record in records]


PATIENT = {"PatientID": "7", "PatientBirthDate": "19500101", "PatientSex": "F"}


def beside(shared, run, case):
    """What is offered beside a case, once all headers have been read."""
    for _ in range(100):
        found, done = shared.kin[run.key].of(run.rows[case])
        if done:
            return [(one.case, one.kind, one.said) for one in found]
        time.sleep(0.05)
    raise AssertionError("headers are never all read")


def test_earlier_and_later_films_of_the_same_patient_are_offered_with_the_days_between(tmp_path, make_film):
    out, cases = series(
        tmp_path, make_film,
        {**PATIENT, "StudyDate": "20240301", "ViewPosition": "PA"},
        {**PATIENT, "StudyDate": "20240229", "ViewPosition": "AP"},
        {**PATIENT, "StudyDate": "20230301"},
        {**PATIENT, "StudyDate": "20240401"},
        {**PATIENT, "StudyDate": "20240301", "ViewPosition": "LL"},
    )  # fmt: skip
    shared, run = opened(out, (tmp_path,))
    assert beside(shared, run, cases[0]) == [
        (cases[4], "view", "LL, same day"), (cases[1], "earlier", "AP, 1 day earlier"),
        (cases[2], "earlier", "PA, 366 days earlier"), (cases[3], "later", "PA, 31 days later"),
    ]  # fmt: skip


@pytest.mark.parametrize("other", [
    {"PatientID": "8"}, {"IssuerOfPatientID": "another hospital"}, {"PatientBirthDate": "19500102"}, {"PatientSex": "M"},
    {"PatientID": None}, {"StudyDate": None}, {"StudyDate": "2023-01-"},
], ids=str)  # fmt: skip
def test_nobody_elses_film_is_offered_nor_one_without_a_date(tmp_path, make_film, other):
    first = {**PATIENT, "StudyDate": "20240301"}
    out, cases = series(tmp_path, make_film, first, {**PATIENT, "StudyDate": "20230301", **other})
    shared, run = opened(out, (tmp_path,))
    assert beside(shared, run, cases[0]) == []


def test_films_of_one_study_are_offered_and_what_workers_tell_names_nobody(tmp_path, make_film):
    shared, run = opened(
        leave_films(tmp_path, make_film, ((0.9, 0.2, 0.6), (0.1, 0.2, 0.3), (0.1, 0.1, 0.1))), (tmp_path,)
    )
    first, second, third = run.rows
    assert beside(shared, run, first) == [(second, "view", "same study, PA")] and beside(shared, run, third) == []
    told = kin([(str(tmp_path / "films/00.dcm"), first), (str(tmp_path / "films/01.dcm"), first)], "00").plain
    assert [case for case, *_ in told] == [first]  # the second is another case than was said
    assert "DOE" not in str(told) and told[0][1] != kin([(str(tmp_path / "films/00.dcm"), first)], "01").plain[0][1]


@pytest.fixture
def packed(tmp_path, make_film):
    """A finished run over two films in a zip, as `predict` notes them."""
    import json

    out = leave_films(tmp_path, make_film, ((0.9, 0.2, 0.6), (0.1, 0.2, 0.3)))
    with zipfile.ZipFile(tmp_path / "films.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for film in sorted((tmp_path / "films").iterdir()):
            archive.write(film, f"a/{film.name}")
            film.unlink()
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    for number, record in enumerate(records):
        record["source"] = f"films.zip!/a/{number:02d}.dcm"
        record["key"] = digest(f"{tmp_path}/films.zip!/a/{number:02d}.dcm")
    leave(out, "ThoraxMAE", records)
    return out


def test_a_film_in_a_zip_is_shown_and_lies_beside_the_decisions_for_its_owner_alone(packed, tmp_path):
    shared, run = opened(packed, (tmp_path,))
    first, second = run.rows
    film = shared.ask("film", run.key, first).result()
    assert film.plain["rows"] == ROWS and film.arrays[0].shape == (ROWS, COLUMNS)
    (folder,) = (packed / "review/unpacked").iterdir()
    assert folder.stat().st_mode & 0o077 == 0 and [path.name for path in folder.glob("*.dcm")] == [f"{first}.dcm"]
    (folder / f"{first}.dcm").unlink()  # somebody tidied up
    assert shared.path(run, run.rows[first]).is_file() and shared.path(run, run.rows[second]).stem == second


def test_what_a_killed_app_unpacked_is_removed_and_what_a_living_one_holds_is_not(packed, tmp_path):
    shared, run = opened(packed, (tmp_path,))
    living = shared.path(run, next(iter(run.rows.values()))).parent
    dead = living.with_name("dead")
    dead.mkdir()
    (dead / "film.dcm").write_bytes(b"x")
    from apps.review.unpacked import Unpacked

    Unpacked(packed / "review")
    assert not dead.exists() and living.is_dir()


@pytest.mark.parametrize("what", ["another member", "a bomb", "no zip", "gone"])
def test_a_zip_that_changed_is_refused_with_a_sentence(packed, tmp_path, what):
    shared, run = opened(packed, (tmp_path,))
    row, archive = next(iter(run.rows.values())), tmp_path / "films.zip"
    if what == "another member":
        with zipfile.ZipFile(archive) as old:
            other = old.read("a/01.dcm")
        with zipfile.ZipFile(archive, "w") as new:
            new.writestr("a/00.dcm", other)
        with pytest.raises(Rejected, match="Another image lies in its place"):
            shared.ask("film", run.key, row.case).result()
        return
    if what == "a bomb":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as new:
            new.writestr("a/00.dcm", b"\0" * 40_000_000)
    elif what == "no zip":
        archive.write_bytes(b"PK\3\4 and nothing more")
    else:
        archive.unlink()
    said = {"a bomb": "unpacks to more than", "no zip": "damaged", "gone": "not where it was answered"}[what]
    with pytest.raises(Rejected, match=said):
        shared.path(run, row)


def test_a_picture_in_a_zip_is_known_by_its_name_in_there(packed, tmp_path):
    import io

    from PIL import Image as Pillow

    content = io.BytesIO()
    Pillow.fromarray((np.arange(4096) % 251).astype(np.uint8).reshape(64, 64)).save(content, "PNG")
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("one.PNG", content.getvalue())
        archive.writestr("two.png", content.getvalue())
    place = f"{tmp_path}/pictures.zip!/one.PNG"
    finding = {"label": "Mass", "code": "x", "probability": 0.1, "threshold": 0.5, "positive": False}
    leave(packed, "ThoraxMAE", [{"key": digest(place), "case": digest(place), "source": "pictures.zip!/one.PNG", "status": "ok",
                                 "header": {}, "origin": {}, "findings": [finding]}])  # fmt: skip
    shared, run = opened(packed, (tmp_path,))
    run.refresh()
    assert shared.ask("film", run.key, digest(place)).result().plain["rows"] == 64


def test_a_run_that_is_not_finished_says_how_far_it_is_and_whether_it_goes_on(tmp_path, make_film):
    import json

    out = leave_films(tmp_path, make_film, ((0.9, 0.2, 0.6), (0.1, 0.2, 0.3)))
    run = Run(out).refresh()
    assert running.news([run]) == ""
    told = json.loads((out / "run.json").read_text())
    del told["counts"]
    (out / "run.json").write_text(json.dumps(told))
    with locked(out):
        assert running.news([run.refresh()]) == "run going on, looking for inputs; new cases appear here"
        (out / "run.json").write_text(json.dumps({**told, "inputs_found": 120}))
        assert running.news([run.refresh()]) == "run going on, 2 of 120 inputs; new cases appear here"
    os.utime(out / "records.jsonl", (1, 1))
    assert running.news([run]).startswith("run seems to have stopped, 2 of 120 inputs; `medvit predict … --resume`")
    (out / "run.json").write_text(json.dumps({**told, "counts": {"inputs": 120, "ok": 2, "unfinished": 118}}))
    assert running.news([run.refresh()]).startswith("run seems to have stopped, 2 of 120 inputs")
    (out / "run.json").write_text(json.dumps({**told, "counts": {"inputs": 2, "ok": 2}}))
    assert running.news([run.refresh()]) == ""  # though the records did not change


def test_of_a_series_in_a_zip_every_slice_lies_beside_the_first(tmp_path, make_film):
    with zipfile.ZipFile(tmp_path / "series.zip", "w") as archive:
        for number in range(3):
            film = make_film(tmp_path / f"{number}.dcm", film_pixels(), SeriesInstanceUID="2.25.7")
            archive.write(film, f"ct/{film.name}")
    case, key = digest("2.25.7"), digest(f"{tmp_path}/series.zip!/ct/1.dcm")
    leave(tmp_path / "out", "DBSAM", [{
        "key": key, "case": case, "source": "series.zip!/ct/1.dcm", "status": "ok", "header": {"series_uid": "2.25.7"},
        "origin": {}, "findings": [],
    }])  # fmt: skip
    shared, run = opened(tmp_path / "out", (tmp_path,))
    first = shared.path(run, run.rows[case])
    assert first.read_bytes() == (tmp_path / "1.dcm").read_bytes() and len(list(first.parent.glob("*.dcm"))) == 3
    assert shared.path(run, run.rows[case]) == first
