"""What the app's pages do, without a browser: lists, keys, blind reading, two readers, the door, and what they refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from review_runs import LABELS, leave, leave_cells, leave_films, reply_of

from apps.review.desk import Settings
from apps.review.pictures import thumbnail
from apps.review.runs import NONE, Run, locate
from apps.review.store import Store

pytest.importorskip("streamlit")
from streamlit.testing.v1 import AppTest

from apps.review.worklist import SORTS, Chosen, lines, unlike

SCRIPT = Path(__file__).parents[1] / "apps/review/app.py"
ANSWERS = ((0.9, 0.2, 0.6), (0.1, 0.2, 0.3), (0.55, 0.95, 0.1))


@pytest.fixture
def out(tmp_path, make_film):
    return leave_films(tmp_path, make_film, ANSWERS)


def opened(out, name="anna", role="reviewer", query=None, **settings):
    """The page for somebody, run once."""
    page = AppTest.from_file(str(SCRIPT), default_timeout=60)
    told = Settings((str(out),), (str(out.parent),), workers=0, **settings)
    page.secrets["review"] = told.plain()
    page.user = {"reviewer": name, "role": role}
    page.query_params.update(query or {})
    page.run()
    assert not page.exception, page.exception
    return page


def at_case(out, place=0, **more):
    """The page of a case by its place among the films."""
    run = Run(out).refresh()
    case = list(run.rows)[place]
    return opened(out, query={"view": "case", "run": run.key, "case": case}, **more), case


def press(page, key):
    page.button(key=key).click().run()
    assert not page.exception, page.exception
    return page


def decided(out):
    return [
        (row.reviewer, row.case, row.finding, row.said["verdict"])
        for row in Store(out).since()
        if row.kind == "decision"
    ]


def words(page):
    return " ".join(str(part.value) for part in (*page.info, *page.warning, *page.error)) + " ".join(html_of(page))


def html_of(page):
    return [part.proto.body for part in page.get("html")]


def test_the_next_unread_case_opens_and_accepting_writes_one_row_about_what_was_shown(out):
    page = press(opened(out), "next_unread")
    case = page.query_params["case"]
    assert page.query_params["view"] in ("case", ["case"])
    press(page, "do_accept")
    run = Run(out).refresh()
    (row,) = [row for row in Store(out).since() if row.kind == "decision"]
    assert row.case == (case if isinstance(case, str) else case[0]) and row.reviewer == "anna"
    assert row.finding == run.rows[row.case].strongest.label and row.said["reading"] == "present"
    assert row.said["seen"]["probability"] == run.rows[row.case].strongest.probability
    assert [one.kind for one in Store(out).since()] == ["entered", "opened", "decision"]


def test_keys_go_through_the_findings_and_a_new_session_finds_everything(out):
    page, case = at_case(out)
    press(press(page, "do_accept"), "do_reject")
    assert decided(out) == [("anna", case, "Mass", "accept"), ("anna", case, "Nodule", "reject")]
    again, _ = at_case(out)
    press(again, "do_reject")  # all that was asked is decided: the first stands chosen
    assert decided(out)[2] == ("anna", case, "Mass", "reject")
    assert Store(out).since()[-1].said["before"] == "accept"


def test_pressing_the_same_key_again_writes_nothing_and_undo_brings_back_what_was(out):
    page, case = at_case(out, 1)
    press(press(page, "do_accept"), "do_accept")
    assert decided(out) == [("anna", case, NONE, "accept")] and "already" in words(page)
    press(press(page, "do_reject"), "undo")
    board = [row.kind for row in Store(out).since()]
    assert board.count("decision") == 2 and board[-1] == "undo"
    press(press(page, "undo"), "undo")
    assert "Nothing to undo" in words(page)


def test_two_windows_of_one_reviewer_never_overwrite_each_other(out):
    one, case = at_case(out)
    two, _ = at_case(out)
    press(one, "do_accept")
    press(two, "do_reject")
    assert decided(out) == [("anna", case, "Mass", "accept")]
    assert "another window" in words(two)
    press(two, "do_reject")  # now it goes on from what the other window did: to the next finding
    assert decided(out)[-1] == ("anna", case, "Nodule", "reject")


def test_two_reviewers_do_not_see_each_other_until_both_have_decided(out):
    one, _case = at_case(out, 1)
    two, _ = at_case(out, 1, name="ben", readers=2)
    press(one, "do_reject")
    two.run()
    assert "anna" not in panel(two)
    press(two, "do_accept")
    assert "anna: present" in panel(two)
    assert {row[0] for row in decided(out)} == {"anna", "ben"}


def panel(page):
    """What the findings panel was given."""
    return next(part.proto.json for part in page.get("bidi_component") if '"others"' in part.proto.json)


def test_blind_readers_get_nothing_of_the_answer_until_they_have_decided_about_everything(out):
    listed = opened(out, blind=True)
    assert "probability" not in json.dumps([part.proto.json for part in listed.get("bidi_component")])
    page, _case = at_case(out, blind=True)
    shown = json.loads(panel(page))
    assert [row["name"] for row in shown["rows"]] == sorted(label.name for label in LABELS)
    assert all(row["probability"] is None and not row["positive"] for row in shown["rows"])
    assert page.button(key="reveal").disabled
    press(press(page, "do_present"), "rest")
    assert not page.button(key="reveal").disabled
    press(page, "reveal")
    assert json.loads(panel(page))["rows"][0]["probability"] == 0.9
    rows = [row for row in Store(out).since() if row.kind == "decision"]
    assert [(row.finding, row.said["reading"], row.said["blind"]) for row in rows] == [
        ("Effusion", "present", True), ("Mass", "absent", True), ("Nodule", "absent", True)
    ]  # fmt: skip
    assert [row.said["verdict"] for row in rows] == ["reject", "reject", "reject"]


def test_notes_and_corrected_labels_are_kept_and_shown_to_the_next_session(out):
    page, _case = at_case(out)
    page.text_input[0].set_value("a rib, no mass").run()
    page.selectbox[0].set_value("Effusion").run()
    last = Store(out).since()[-1]
    assert (last.kind, last.finding, last.said) == ("note", "Mass", {"corrected": "Effusion", "note": "a rib, no mass"})
    again, _ = at_case(out)
    assert again.text_input[0].value == "a rib, no mass" and again.selectbox[0].value == "Effusion"


def test_who_is_not_let_in_sees_nothing_and_an_address_names_nobody(out):
    page = opened(out, query={"reviewer": "eve", "view": "case"}, name="", role="")
    assert "may not read" in words(page) and not page.button
    at_case(out)[0].query_params["reviewer"] = "eve"
    assert {row.reviewer for row in Store(out).since()} <= {"anna"}


def test_an_unknown_case_is_a_sentence_and_a_way_back(out):
    page = opened(out, query={"view": "case", "run": "x", "case": "../../etc/passwd"})
    assert "no such case" in words(page)


def test_every_case_says_side_series_spacing_model_and_that_it_is_for_research(out):
    page, case = at_case(out)
    told = " ".join(html_of(page))
    for word in (case, "laterality: right", "series …", "no. 3",
                 "spacing at the detector (ImagerPixelSpacing)", "ThoraxMAE", "3a3a3a3a",
                 "unverified", "research use only"):  # fmt: skip
        assert word in told.replace("&#8230;", "…").replace("&#39;", "'"), word
    assert "Doe" not in told and "DOE-0001" not in told
    named, _ = at_case(out, show_identity=True)
    assert "Doe" in " ".join(html_of(named))


def test_a_record_that_is_written_while_the_list_is_open_appears(out):
    run = Run(out).refresh()
    before = (out / "records.jsonl").read_text().splitlines()
    (out / "records.jsonl").write_text(before[0] + "\n" + before[1][:40])  # another file, its last line not finished
    assert len(run.refresh().rows) == 1
    (out / "records.jsonl").write_text("\n".join(before[:2]) + "\n")
    with (out / "records.jsonl").open("a") as file:
        file.write(before[2] + "\n")
    assert len(run.refresh().rows) == 3


def test_the_list_filters_and_sorts_by_what_was_asked(out):
    run = Run(out).refresh()
    store = Store(out)
    lines_of = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    lines_of[2]["distance"] = {"value": 7.25, "limit": 4.5, "far": True}
    leave(out, "ThoraxMAE", lines_of)
    assert unlike(run.refresh().rows[lines_of[2]["case"]]) == "unlike the training cases (distance 7.25, far from 4.50)"
    from apps.review.readings import Board

    runs, boards = {run.key: run}, {run.key: Board(store)}
    cases = list(run.rows)

    def listed(**asked):
        return [cases.index(line.row.case) for line in lines(runs, boards, Chosen((run.key,), **asked), "anna")]

    assert listed() == [2, 0, 1] and listed(sort=SORTS[1]) == [1, 0, 2]
    assert listed(sort=SORTS[2]) == [1, 0, 2] and listed(sort=SORTS[4]) == sorted(range(3), key=cases.__getitem__)
    assert listed(positive=True) == [2, 0] and listed(finding="Nodule", positive=True) == [0]
    assert listed(search=cases[1][:6]) == [1] and listed(unlike=True) == [2]
    store.append("anna", "decision", cases[1], NONE, {"verdict": "accept", "reading": "absent"})
    boards[run.key].refresh()
    assert listed(state="read") == [1] and listed(state="not read") == [2, 0]


def test_a_file_is_found_by_its_record_and_no_other_is_taken_for_it(out, tmp_path):
    run = Run(out).refresh()
    row = next(iter(run.rows.values()))
    found = locate(row, [tmp_path / "elsewhere", tmp_path])
    assert found == tmp_path / "films/00.dcm"
    assert locate(row, [tmp_path / "elsewhere"]) is None
    moved = tmp_path / "elsewhere/films/00.dcm"
    moved.parent.mkdir(parents=True)
    moved.write_bytes(found.read_bytes())
    assert locate(row, [tmp_path / "elsewhere"]) is None  # the same name somewhere else is not the same file
    assert locate(row._replace(source="films.zip!/00.dcm"), [tmp_path]) is None  # see test_review_zips.py


def test_another_film_in_the_place_of_a_case_is_not_shown(out, tmp_path):
    from apps.review.pictures import film
    from medvit.errors import Rejected

    run = Run(out).refresh()
    first, _second = list(run.rows)[:2]
    assert film(str(tmp_path / "films/00.dcm"), first).plain["rows"] == 320
    with pytest.raises(Rejected, match="Another image"):
        film(str(tmp_path / "films/01.dcm"), first)


def test_addresses_too_tell_a_blind_reader_nothing_until_they_asked(out):
    from starlette.applications import Starlette
    from starlette.middleware import Middleware

    from apps.review.desk import desk
    from apps.review.door import Door, Keys, Person
    from apps.review.routes import routes

    shared = desk(Settings((str(out),), (str(out.parent),), blind=True, workers=0))
    keys = Keys((Person("anna"), Person("ben")), 1)
    app = Starlette(routes=routes(shared), middleware=[Middleware(Door, keys=keys)])
    cookies = {name: f"medvit_review_1={link.partition('key=')[2]}" for name, link in keys.links.items()}
    (run,) = shared.runs.values()
    case = next(iter(run.rows))
    heat = f"/review/heat/{run.key}/{case}"
    assert reply_of(app, heat, "")[0] == 401 and reply_of(app, heat, cookies["anna"]) == (200, b"[]")
    Store(out).append("anna", "shown", case)
    status, body = reply_of(app, heat, cookies["anna"])
    assert status == 200 and [one["label"] for one in json.loads(body)] == ["Mass", "Nodule"]
    assert reply_of(app, heat, cookies["ben"]) == (200, b"[]")
    assert reply_of(app, f"/review/thumbnail/{run.key}/{case}", cookies["ben"])[1][:3] == b"\xff\xd8\xff"
    assert reply_of(app, f"/review/film/{run.key}/{'0' * 16}", cookies["ben"])[0] == 404


def test_a_folder_of_cells_shows_what_the_run_left_and_blind_readers_see_no_attention(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)).save(tmp_path / "in" / name)
    out = leave_cells(tmp_path, tmp_path / "in")
    for blind, captions in ((False, ["By attention", "All of them"]), (True, ["All of them"])):
        page, _ = at_case(out, blind=blind)
        found = [image.proto.imgs[0].caption for image in page.get("image")]
        assert [caption.split(",")[0] for caption in found] == captions
    (row,) = Run(out).refresh().rows.values()
    assert thumbnail(str(tmp_path / row.source), row.case, Run(out).kind(row), 64).arrays[0].nbytes > 100
