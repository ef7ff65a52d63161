"""The worklist: which cases there are, what the AI found, how far they have been read."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import streamlit as st

from apps.review.readings import OPEN, PARTLY, READ, Board, readers, state
from apps.review.running import news, progress
from apps.review.runs import Row, Run, Said
from apps.review.viewers import viewer

if TYPE_CHECKING:
    from apps.review.shell import Visit

PAGE = 50  # cases on a page
EVERY_S, EVERY_S_RUNNING = 20, 4  # until the list looks for news
NAMED, TOLD = 3, 24  # findings of a case beside the strongest: in the list, and under the pointer
ANY = "any finding"
STATES = {
    "any state": "",
    "not yet read": "not read",
    "needs a reader": "needed",
    OPEN: OPEN,
    PARTLY: PARTLY,
    READ: READ,
}
STATE_WORDS = {OPEN: "open", PARTLY: "◐ begun", READ: "✓ read"}
SORTS = ("strongest finding first", "lowest probability first", "nearest to the threshold first", "as answered", "case")


class Chosen(NamedTuple):
    """What the reader wants to see: which runs, findings, states, and in what order."""

    runs: tuple[str, ...]
    finding: str = ANY
    positive: bool = False
    unlike: bool = False
    state: str = ""
    search: str = ""
    sort: str = SORTS[0]
    readers: int = 1  # that a case is for


class Line(NamedTuple):
    """A case in the list."""

    run: Run
    row: Row
    state: str
    counts: Mapping[str, int]


def lines(
    runs: Mapping[str, Run], boards: Mapping[str, Board], chosen: Chosen, reviewer: str, blind: bool = False
) -> list[Line]:
    """The cases that were asked for, in the order that was asked for."""
    found = []
    text = chosen.search.strip().lower()
    for key in chosen.runs:
        run, counts = runs[key], boards[key].counts()
        for row in run.rows.values():
            if text and text not in row.case and text not in row.header.get("study_uid", ""):
                continue
            if not _shows(row, chosen, blind):
                continue
            decided = counts.get(row.case, {})
            how = state(decided.get(reviewer, 0), run.asks(row, blind))
            if chosen.state in (OPEN, PARTLY, READ) and how != chosen.state:
                continue
            if chosen.state in ("not read", "needed") and how == READ:
                continue
            if chosen.state == "needed" and len(list(readers(dict(decided), run.asks(row, blind)))) >= chosen.readers:
                continue  # enough others have read it
            found.append(Line(run, row, how, decided))
    return _sorted(found, chosen, blind)


def _shows(row: Row, chosen: Chosen, blind: bool) -> bool:
    """Whether what the AI says of a case is what was asked for; a blind reader cannot ask."""
    if blind:
        return True
    if chosen.unlike and not (row.distance and row.distance.far):
        return False
    if chosen.finding == ANY:
        return not chosen.positive or bool(row.positive)
    said = row.finding(chosen.finding)
    return said is not None and (said.positive or not chosen.positive)


def _sorted(found: list[Line], chosen: Chosen, blind: bool) -> list[Line]:
    if chosen.sort == SORTS[4] or blind:  # the order would tell what the AI says
        return sorted(found, key=lambda line: line.row.case)
    if chosen.sort == SORTS[3]:
        return found

    def weight(line: Line) -> tuple[float, ...]:
        said = line.row.strongest if chosen.finding == ANY else line.row.finding(chosen.finding)
        if said is None:
            return (9.0,)
        if chosen.sort == SORTS[1]:
            return (said.probability,)
        if chosen.sort == SORTS[2]:
            return (abs(said.probability - said.threshold),)
        return (-float(said.positive), -said.probability)

    return sorted(found, key=weight)


def show(visit: "Visit") -> None:
    """The page."""
    running = any(progress(run.refresh()).going for run in visit.desk.runs.values())
    st.fragment(run_every=EVERY_S_RUNNING if running else EVERY_S)(_list)(visit)


def _list(visit: "Visit") -> None:
    desk, reviewer = visit.desk, visit.person.name
    for key, run in desk.runs.items():
        run.refresh()
        desk.boards[key].refresh()
    going = news(list(desk.runs.values()))
    chosen = _choose(visit)
    found = lines(desk.runs, desk.boards, chosen, reviewer, visit.settings.blind)
    _progress(found, going)
    pages = max(-(-len(found) // PAGE), 1)
    page = min(int(st.session_state.get("page", 0)), pages - 1)
    part = found[page * PAGE : (page + 1) * PAGE]
    data = {
        "rows": [_shown(visit, line) for line in part],
        "empty": _empty(visit, bool(going)),
        "blind": visit.settings.blind,
        "height": "calc(100vh - 232px)",
    }
    result = viewer("worklist", "worklist", data, on_open_change=lambda: None)
    _pager(page, pages, len(found))
    if result.open:
        open_case([(line.run.key, line.row.case) for line in found], str(result.open["run"]), str(result.open["case"]))
        st.rerun()
    first = next((line for line in found if line.state != READ), None)
    if st.session_state.pop("open_next", False) and first:
        open_case([(line.run.key, line.row.case) for line in found], first.run.key, first.row.case)
        st.rerun()


def open_case(queue: Sequence[tuple[str, str]], run: str, case: str) -> None:
    """Go to a case and remember the list that it was chosen from, for next and previous."""
    st.session_state["queue"] = list(queue)
    st.query_params.from_dict({"view": "case", "run": run, "case": case})


def _choose(visit: "Visit") -> Chosen:
    """The row of filters."""
    runs, blind = visit.desk.runs, visit.settings.blind
    labels = sorted({said.label for run in runs.values() for row in list(run.rows.values())[:1] for said in row.said})
    columns = st.columns([2, 1.9, 1.75, 1.25, 1.6, 2, 2.6], vertical_alignment="bottom")
    names = {run.name: run.key for run in runs.values()}
    run = columns[0].selectbox("Run", ["all runs", *names] if len(names) > 1 else list(names), key="run")
    finding = columns[1].selectbox("Finding", [ANY, *labels], key="finding", disabled=blind)
    positive = columns[2].checkbox("p ≥ threshold", key="positive", disabled=blind)
    unlike = columns[3].checkbox(
        "unlike", key="unlike", disabled=blind, help="Only cases unlike those it was trained on."
    )
    how = columns[4].selectbox("State", list(STATES), key="state")
    search = columns[5].text_input("Case or study", key="search", placeholder="first digits of a case", max_chars=64)
    sort = columns[6].selectbox("Sort", SORTS, SORTS.index("case") if blind else 0, key="sort", disabled=blind)
    keys = tuple(names.values()) if run == "all runs" else (names.get(run, next(iter(names.values()))),)
    wanted = visit.settings.readers
    return Chosen(keys, finding, bool(positive), bool(unlike), STATES[how], search or "", sort, wanted)


def _progress(found: Sequence[Line], going: str) -> None:
    done = sum(line.state == READ for line in found)
    columns = st.columns([5, 2], vertical_alignment="center")
    text = f"{done} of {len(found)} read by you{f' · {going}' if going else ''}"
    columns[0].progress(done / len(found) if found else 0.0, text)
    columns[1].button(
        "Open the next unread case", shortcut="J", key="next_unread", on_click=_open_next, width="stretch"
    )


def _open_next() -> None:
    st.session_state["open_next"] = True


def _pager(page: int, pages: int, count: int) -> None:
    columns = st.columns([1, 1, 6], vertical_alignment="center")
    columns[0].button("◂ Page", key="page_back", disabled=page == 0, on_click=_turn, args=(page - 1,), width="stretch")
    columns[1].button(
        "Page ▸", key="page_on", disabled=page >= pages - 1, on_click=_turn, args=(page + 1,), width="stretch"
    )
    columns[2].html(f'<span class="medvit-line soft">page {page + 1} of {pages} · {count} cases</span>')


def _turn(page: int) -> None:
    st.session_state["page"] = page


def _empty(visit: "Visit", unfinished: bool) -> str:
    if any(run.rows for run in visit.desk.runs.values()):
        return "No case is left by these filters. Choose any finding and any state to see all."
    if unfinished:
        return "No results here yet: medvit predict is still reading. This list fills by itself."
    return "No case was answered in this run. report.html in its folder says what became of the inputs."


def unlike(row: Row) -> str:
    """How far a case lies from the training cases, in words; "" where the run did not look."""
    if row.distance is None:
        return ""
    value, limit, far = row.distance
    return f"{'unlike' if far else 'like'} the training cases (distance {value:.2f}, far from {limit:.2f})"


def _also(row: Row, most: Said, shown: int = NAMED) -> str:
    """The other positive findings with their probabilities, the most probable first; how many more than that there are."""
    rest = sorted((said for said in row.positive if said is not most), key=lambda said: -said.probability)
    named = [f"{said.label.replace('_', ' ')} {said.probability:.2f}" for said in rest[:shown]]
    return ", ".join(named) + (f", {len(rest) - shown} more" if len(rest) > shown else "")


def _all(row: Row, most: Said) -> str:
    """All positive findings, for under the pointer; where there is none the most probable one."""
    first, rest = f"{most.label.replace('_', ' ')} {most.probability:.2f}", _also(row, most, TOLD)
    return f"{first}, {rest}" if rest else first


def _shown(visit: "Visit", line: Line) -> dict[str, Any]:
    """A case as the browser shows it; nothing of the AI's answer where the reader is blind."""
    run, row, blind = line.run, line.row, visit.settings.blind
    read = len(list(readers(dict(line.counts), run.asks(row, blind))))
    told: dict[str, Any] = {
        "run": run.key, "case": row.case, "kind": row.modality or run.kind(row),
        "thumbnail": f"/review/thumbnail/{run.key}/{row.case}",
        "run_name": run.name if len(visit.desk.runs) > 1 else "",
        "state": line.state, "state_said": STATE_WORDS[line.state],
        "readers": f"{read} of {visit.settings.readers} read" if visit.settings.readers > 1 else "",
        "ood": "", "ood_said": "",
    }  # fmt: skip
    most = None if blind else row.strongest
    if most:
        far = row.distance
        told |= {
            "finding": most.label.replace("_", " "), "positive": most.positive, "probability": most.probability,
            "threshold": most.threshold, "also": _also(row, most), "far": bool(far and far.far),
            "all": _all(row, most),
            "ood": "–" if far is None else "! unlike them" if far.far else "like them",
            "ood_said": unlike(row) or "This run did not look whether cases are unlike those that the system learned from.",
        }  # fmt: skip
    return told
