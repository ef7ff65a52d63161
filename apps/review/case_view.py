"""One case on one screen: the picture, what the AI says, what the reader decides."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from apps.review import beside, decide, drawing
from apps.review.captions import case_line, meaning, side
from apps.review.decide import shown
from apps.review.kin import Beside
from apps.review.readings import WORDS, Decision
from apps.review.runs import BOX, NONE, OWN, Row, Run, may_draw
from apps.review.tables import plain
from apps.review.viewers import viewer
from apps.review.worklist import Chosen, lines
from medvit.codes import file_name
from medvit.writers.geojson import PREVIEW

if TYPE_CHECKING:
    from apps.review.shell import Visit

HEIGHT, HEIGHT_OF_TWO = "calc(100vh - 218px)", "calc(100vh - 250px)"
AI_KEYS = (("accept", "✓ Accept", "A"), ("reject", "✗ Reject", "X"), ("uncertain", "? Uncertain", "U"))
BLIND_KEYS = (("present", "Present", "Y"), ("absent", "Absent", "X"), ("uncertain", "? Uncertain", "U"))
PAINT = "E paint or draw (P brush, D eraser, [ ] size, Z undo)"
KEYS: dict[str, tuple[str, ...]] = {  # of the viewers, which tell them by themselves
    "film": ("I invert", "H map", "B outlines", "[ ] opacity", "0 fit"),
    "slide": ("H attention", "[ ] opacity", "0 fit"),
    "smear": ("H attention", "[ ] opacity", "0 fit", "↑ ↓ focal plane, where there are several"),
    "clip": ("space plays", "← → frame", "M most important", "H map", "[ ] opacity"),
    "cells": (),
    "volume": ("↑ ↓ slice", "W window", "H outlines", PAINT),
}
# Those that a blind reader has not got.
OF_THE_AI = ("H map", "H attention", "H outlines", "B outlines", "M most important", "[ ] opacity", PAINT)
NOTHING = "(not corrected)"


def show(visit: "Visit") -> None:
    """The page."""
    run, row = visit.desk.case(st.query_params.get("run", ""), st.query_params.get("case", ""))
    board = visit.desk.boards[run.key].refresh()
    _opened(visit, run, row)
    queue, place = _queue(visit, run, row)
    hidden = visit.settings.blind and not board.was_shown(row.case, visit.person.name)
    standing = board.of(row.case, visit.person.name)
    own = [name for name in board.masks(row.case, visit.person.name) if name.startswith((BOX, OWN))]
    own += drawing.begun(run, row, own)
    finding = _chosen(run, row, standing, hidden, own)
    _line(visit, run, row, queue, place, hidden)
    left, right = st.columns([2, 1], gap="small")
    with right:
        panel, below = st.container(), st.columns(2, gap="small")
    with below[1]:
        other = beside.choose(visit, run, row) if run.kind(row) == "film" else None
    with left:
        _picture(visit, run, row, finding, hidden, queue, place, other)
    with panel:
        _panel(visit, run, row, finding, standing, hidden, own)
    with below[0]:
        _corrected(visit, run, row, finding)
    with right:
        done = not hidden and all(name in standing for name in run.wanted(row, visit.settings.blind))
        kind = "volume" if drawing.is_drawn_on(run, row) else run.kind(row)
        _told(board.seconds(row.case, visit.person.name), kind, hidden, done)


def _opened(visit: "Visit", run: Run, row: Row) -> None:
    """Start the clock of a case and note that it was looked at, once a visit."""
    opened = st.session_state.setdefault("opened", {})
    key = f"{run.key} {row.case}"
    if key not in opened:
        opened[key] = time.monotonic()
        decide.write(visit, run, "opened", row.case, "", {"visit": st.session_state.get("visit", "")}, None)
    if st.session_state.get("here") != key:
        st.session_state["here"] = key
        opened[key] = time.monotonic()
        for name in ("chosen", "advance"):
            st.session_state.pop(name, None)


def _queue(visit: "Visit", run: Run, row: Row) -> tuple[list[tuple[str, str]], int]:
    """The list that next and previous go through, and where in it this case stands."""
    queue = st.session_state.get("queue")
    here = (run.key, row.case)
    if not queue or here not in queue:
        found = lines(visit.desk.runs, visit.desk.boards, Chosen((run.key,)), visit.person.name, visit.settings.blind)
        queue = [(line.run.key, line.row.case) for line in found]
        st.session_state["queue"] = queue
    return queue, queue.index(here) if here in queue else 0


def _names(run: Run, row: Row, hidden: bool, own: Sequence[str] = ()) -> list[str]:
    """The findings in the order of the panel: what is asked about first; alphabetical where the AI's answer is hidden."""
    if hidden:
        return [*run.wanted(row, True), *own]
    wanted = run.wanted(row, False)
    rest = sorted((said for said in row.said if said.label not in wanted), key=lambda said: -said.probability)
    first = sorted(wanted, key=lambda name: -(row.finding(name) or row.said[0]).probability)
    return [*first, *(said.label for said in rest), *own]


def _chosen(run: Run, row: Row, standing: Mapping[str, Decision], hidden: bool, own: Sequence[str]) -> str:
    """The finding that keys are about: the one chosen, and after a decision the next that is still open."""
    names = _names(run, row, hidden, own)
    wanted = run.wanted(row, hidden)
    chosen = st.session_state.get("chosen")
    if st.session_state.pop("advance", False) or chosen not in names:
        chosen = next(
            (name for name in names if name in wanted and name not in standing), chosen if chosen in names else names[0]
        )
    st.session_state["chosen"] = chosen
    return str(chosen)


def _line(visit: "Visit", run: Run, row: Row, queue: list[tuple[str, str]], place: int, hidden: bool) -> None:
    """Which case this is, and the way to its neighbours."""
    from apps.review.shell import go

    facts = visit.desk.facts(run.key, row.case)
    identity = " · ".join(f"{plain(said)} {plain(text)}" for said, text in facts.get("identity", {}).items())
    columns = st.columns([7, 1.3, 1.2, 0.8], vertical_alignment="center")
    columns[0].html(
        f'<div class="medvit-line" data-testid="case-line">{case_line(run, row, facts, hidden)}'
        + (f'<br><span class="soft">{identity}</span>' if identity else "")
        + "</div>"
    )
    for column, step, said, key in ((columns[1], -1, "◂ Previous", "K"), (columns[2], 1, "Next ▸", "J")):
        there = place + step
        inside = 0 <= there < len(queue)
        where = dict(zip(("run", "case"), queue[there], strict=True)) if inside else {}
        column.button(said, key=f"step{step}", shortcut=key, on_click=go, kwargs={"view": "case", **where}, disabled=not inside,
                      width="stretch", help="previous case" if step < 0 else "next case")  # fmt: skip
    columns[3].html(f'<div class="medvit-line soft" style="text-align:right">{place + 1} of {len(queue)}</div>')


def _picture(
    visit: "Visit", run: Run, row: Row, finding: str, hidden: bool, queue: list[tuple[str, str]], place: int,
    other: Beside | None,
) -> None:  # fmt: skip
    kind = run.kind(row)
    name = "slide" if kind == "smear" else kind
    here = f"{run.key}/{row.case}"
    following = queue[place + 1] if place + 1 < len(queue) else None
    ahead = ""
    if following and following[0] == run.key and kind in ("film", "clip"):
        ahead = f"/review/{kind}/{following[0]}/{following[1]}"
    facts = visit.desk.facts(run.key, row.case)
    own = sum(name.startswith(BOX) for name in visit.desk.boards[run.key].masks(row.case, visit.person.name))
    data = {
        "case": row.case, "film": f"/review/film/{here}", "clip": f"/review/clip/{here}", "slide": f"/review/slide/{here}",
        "slices": f"/review/slices/{here}", "tile": f"/review/tile/{here}", "heat": f"/review/heat/{here}",
        "tiles": f"/review/tiles/{here}",
        "region": f"/review/region/{here}", "masks": f"/review/masks/{here}?own={own}", "paint": f"/review/paint/{here}",
        "segments": bool(visit.settings.segment) and kind == "volume",
        "finding": finding, "attends": _attended(row, finding),
        "hidden": hidden, "kind": kind, "next": ahead, "side": side(row, facts), "height": HEIGHT,
        "about": "AI unverified · research use only", "draws": not hidden and may_draw(finding),
    }  # fmt: skip
    if kind == "volume" or (kind == "film" and drawing.is_drawn_on(run, row)):
        _outlines(visit, run, row, data, own)
        return
    if kind == "cells":
        _cells(run, row, finding, hidden)
        return
    if other is None:
        viewer(name, f"viewer_{name}", data)
        return
    one, two = st.columns(2, gap="small")
    data |= {"two": True, "height": HEIGHT_OF_TWO}
    with one:
        viewer(name, f"viewer_{name}", data)
    with two:
        viewer(name, "viewer_beside", {**data, **beside.shown(visit, run, other), "next": "", "role": "beside"})


def _outlines(visit: "Visit", run: Run, row: Row, data: dict[str, Any], before: int) -> None:
    """Slices with outlines; a box that the reader sends comes back as an outline of its own, to be accepted or rejected."""
    result = viewer("volume", "viewer_volume", data, on_box_change=lambda: None, on_painted_change=lambda: None)
    if result.box and visit.settings.segment:
        with st.spinner("Outlining what is in the box"):
            name = decide.outline(visit, run, row, dict(result.box), before)
        if name:
            st.session_state["chosen"] = name
        st.rerun()


def _attended(row: Row, finding: str) -> str:
    """The finding whose attention is looked at: where nothing is above its threshold that of the most probable one."""
    return row.strongest.label if finding == NONE and row.strongest else finding


def _cells(run: Run, row: Row, finding: str, hidden: bool) -> None:
    """Pictures of cells as the run left them: the most attended ones first where the answer may be seen, then all of them."""
    folder = run.folder / "cases" / row.case
    label = _attended(row, finding)
    shown = {} if hidden else {"By attention, highest first": folder / f"gallery_{file_name(label)}.png"}
    shown["All of them, in the order of their names"] = folder / PREVIEW
    there = {said: path for said, path in shown.items() if path.is_file()}
    if not there:
        st.info("The run left no picture of these cells. Run it with --write geojson,gallery.")
    for said, path in there.items():
        st.image(path.read_bytes(), caption=said)


def _panel(
    visit: "Visit", run: Run, row: Row, finding: str, standing: Mapping[str, Decision], hidden: bool, own: Sequence[str]
) -> None:
    """Findings, the keys, and what was written."""
    others = _others(visit, run, row, standing, hidden)
    rows = [
        _finding(visit, run, row, name, standing.get(name), name == finding, hidden, others)
        for name in _names(run, row, hidden, own)
    ]
    data = {"rows": rows, "blind": hidden, "others": bool(others), "height": "min(330px, calc(100vh - 480px))"}
    result = viewer("findings", "findings", data, on_choose_change=lambda: None)
    if result.choose and result.choose["finding"] != finding:
        st.session_state["chosen"] = result.choose["finding"]
        st.rerun()
    latest = visit.desk.stores[run.key].latest(visit.person.name, row.case, finding)
    after = latest.seq if latest else 0
    more = meaning(finding)
    also = f' <span class="soft">{plain(more)}</span>' if more else ""
    st.html(f'<div class="medvit-line" data-testid="about"><b>{plain(shown(finding))}</b>{also}</div>')
    columns = st.columns(3, gap="small")
    for column, (what, said, key) in zip(columns, BLIND_KEYS if hidden else AI_KEYS, strict=True):
        column.button(said, key=f"do_{what}", shortcut=key, on_click=decide.decide, width="stretch",
                      disabled=finding.startswith(OWN),
                      args=(visit, run, row, finding, what, standing.get(finding), after))  # fmt: skip
    columns = st.columns(3, gap="small")
    columns[0].button("Undo", key="undo", shortcut="Z", on_click=decide.undo, width="stretch",
                      args=(visit, run, row, standing.get(finding), finding, after))  # fmt: skip
    if not hidden:
        drawing.button(run, row, own, columns[1])
    if hidden:
        _reveal(visit, run, row, standing, columns[1], columns[2])
    _note(visit, run, row, finding)


def _finding(
    visit: "Visit", run: Run, row: Row, name: str, made: Decision | None, chosen: bool, hidden: bool,
    others: Mapping[str, Mapping[str, Decision]],
) -> dict[str, Any]:  # fmt: skip
    said = row.finding(name)
    board = visit.desk.boards[run.key]
    word = (made.reading if made.blind or hidden else made.verdict) if made else ""
    sign = {"present": "accept", "absent": "reject"}.get(word, word)
    told: dict[str, Any] = {
        "name": name, "shown": shown(name), "chosen": chosen, "verdict": WORDS.get(word, word), "sign": sign,
        "note": bool(board.remark(row.case, visit.person.name, name).note), "positive": False, "probability": None,
        "others": ", ".join(f"{who}: {of[name].reading}" for who, of in others.items() if name in of),
    }  # fmt: skip
    if said and not hidden:
        told |= {"positive": said.positive or name == NONE, "title": f"{said.code} {name}"}
        painted = board.masks(row.case, visit.person.name).get(name)
        if painted and painted.painted and not name.startswith(OWN):
            told["shown"] += " (drawn)" if painted.drawn else " (painted)"
        if name.startswith((BOX, OWN)):
            told |= {"positive": True, "title": "drawn by you" if name.startswith(OWN) else "outlined in your box"}
        elif name != NONE:
            told |= {"probability": said.probability, "threshold": said.threshold or None}
    return told


def _others(
    visit: "Visit", run: Run, row: Row, standing: Mapping[str, Decision], hidden: bool
) -> dict[str, dict[str, Decision]]:
    """What others decided: shown once the reader has decided about everything that was asked."""
    if hidden or any(name not in standing for name in run.wanted(row, visit.settings.blind)):
        return {}
    everybody = visit.desk.boards[run.key].by_reviewer(row.case)
    return {who: said for who, said in everybody.items() if who != visit.person.name}


def _reveal(visit: "Visit", run: Run, row: Row, standing: Mapping[str, Decision], rest: Any, answer: Any) -> None:
    """The two keys of a blind reader: all the rest is absent, and: show what the AI says."""
    left = [name for name in run.wanted(row, True) if name not in standing]
    rest.button("Rest absent", key="rest", shortcut="B", on_click=_rest, args=(visit, run, row, left), disabled=not left,
                width="stretch")  # fmt: skip
    answer.button("Show the AI", key="reveal", shortcut="S", on_click=_shown, args=(visit, run, row), disabled=bool(left),
                  width="stretch", help="once you have decided about every finding")  # fmt: skip


def _rest(visit: "Visit", run: Run, row: Row, left: list[str]) -> None:
    for name in left:
        decide.decide(visit, run, row, name, "absent", None, 0)


def _shown(visit: "Visit", run: Run, row: Row) -> None:
    decide.write(visit, run, "shown", row.case, "", {"seconds": decide.elapsed(run, row)}, None)


def _note(visit: "Visit", run: Run, row: Row, finding: str) -> None:
    """Free text about a finding; kept when the field is left."""
    before = visit.desk.boards[run.key].remark(row.case, visit.person.name, finding)
    key = f"note_{run.key}_{row.case}_{finding}"

    def keep() -> None:
        decide.remark(visit, run, row, finding, str(st.session_state.get(key) or ""), before.corrected)

    st.text_input(
        "Note (N)", before.note, key=key, on_change=keep, max_chars=2000, placeholder="kept when you leave the field"
    )


def _corrected(visit: "Visit", run: Run, row: Row, finding: str) -> None:
    """The finding that it should have been; kept when it is chosen."""
    before = visit.desk.boards[run.key].remark(row.case, visit.person.name, finding)
    key = f"corrected_{run.key}_{row.case}_{finding}"
    labels = [NOTHING, *(said.label for said in row.said if said.label != finding)]

    def keep() -> None:
        chosen = str(st.session_state.get(key) or NOTHING)
        note = str(st.session_state.get(f"note_{run.key}_{row.case}_{finding}") or before.note)
        decide.remark(visit, run, row, finding, note, "" if chosen == NOTHING else chosen)

    index = labels.index(before.corrected) if before.corrected in labels else 0
    st.selectbox("It should be", labels, index, key=key, on_change=keep, format_func=shown)


def _told(seconds: float, kind: str, hidden: bool, done: bool) -> None:
    """What was said of the last key, that a case is done, and which keys there are."""
    told = st.session_state.pop("told", None)
    if told:
        (st.warning if told[1] else st.info)(told[0])
    deciding = "Y X U decide · B rest absent · S show the AI" if hidden else "A X U decide"
    seeing = (key for key in KEYS[kind] if not (hidden and key in OF_THE_AI))
    keys = " · ".join(("J K next, previous", "1–9 choose", deciding, "Z undo", "N note", *seeing))
    st.html(
        ('<div class="medvit-line" data-testid="done"><b>✓ All decided</b>, J goes on</div>' if done else "")
        + f'<div class="medvit-line soft">{keys}'
        f"{f' · {seconds:.0f} s on this case' if seconds else ''}</div>"
    )
