"""How far readers agree, how long they take, and the way out for what they decided."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import streamlit as st

from apps.review import export
from apps.review.decide import shown, tell
from apps.review.kappa import Kappa, cohen, fleiss
from apps.review.readings import READINGS, Board
from apps.review.runs import Run
from apps.review.tables import heading, interval, share, table
from medvit.errors import MedvitError

if TYPE_CHECKING:
    from apps.review.shell import Visit

DISPUTES = 8  # different readings that are listed

Said = Mapping[str, Mapping[str, str]]  # case to reviewer to reading, of one finding


class Pair(NamedTuple):
    """Two readers of a finding, or all of them, and how far they agree."""

    finding: str
    readers: str
    kappa: Kappa


def by_finding(board: Board) -> dict[str, dict[str, dict[str, str]]]:
    """Every standing reading: finding to case to reviewer."""
    told: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for case, reviewer, finding, made in board.everything():
        told[finding][case][reviewer] = made.reading
    return {finding: dict(cases) for finding, cases in told.items()}


def pairs(said: Said, finding: str) -> list[Pair]:
    """Cohen's kappa of every two readers of a finding, and Fleiss' kappa where there are more than two.

    Fleiss' kappa does not ask who the readers of a case were, but wants as many for each: it is of the cases that have the
    usual number of readings, two at least.
    """
    readers = sorted({reviewer for case in said.values() for reviewer in case})
    told = []
    for one, two in combinations(readers, 2):
        both = [case for case in said.values() if one in case and two in case]
        if both:
            first, second = [case[one] for case in both], [case[two] for case in both]
            told.append(Pair(finding, f"{one} and {two}", cohen(first, second, READINGS)))
    sizes = Counter(len(case) for case in said.values() if len(case) > 1)
    if len(readers) > 2 and sizes:
        usual = max(sizes, key=lambda size: (sizes[size], size))
        every = [list(case.values()) for case in said.values() if len(case) == usual]
        who = f"all {usual}" if usual == len(readers) else f"any {usual} of {len(readers)}"
        told.append(Pair(finding, f"{who} (Fleiss)", fleiss(every, READINGS)))
    return told


def times(run: Run, board: Board) -> list[tuple[str, int, float, float]]:
    """Reviewer, cases, median seconds a case, and all seconds."""
    spent: dict[str, list[float]] = defaultdict(list)
    for case, people in board.counts().items():
        for reviewer, decided in people.items():
            if decided and case in run.rows:
                spent[reviewer].append(board.seconds(case, reviewer))
    return [(reviewer, len(all_of), median(all_of), sum(all_of)) for reviewer, all_of in sorted(spent.items())]


def show(visit: "Visit") -> None:
    """The page."""
    run = choose_run(visit)
    board = visit.desk.boards[run.key].refresh()
    said = by_finding(board)
    st.html(
        heading(
            "Agreement of readers",
            "Cohen's kappa of two readers, over the cases that both decided, Fleiss' of more; in "
            "brackets 95 % of 2,000 draws of cases. A dash: there is nothing to agree about beyond chance.",
        )
    )
    found = [pair for finding in sorted(said) for pair in pairs(said[finding], finding)]
    if found:
        st.html(
            table(
                ("finding", "readers", "cases#", "agree#", "kappa (95 %)#"),
                [
                    (
                        shown(pair.finding),
                        pair.readers,
                        pair.kappa.cases,
                        share(pair.kappa.agreement),
                        interval(pair.kappa.value, pair.kappa.low, pair.kappa.high),
                    )
                    for pair in found
                ],
            )
        )
    else:
        st.info("No case has been decided by two readers yet. Start with --reviewers and --readers 2 to ask for that.")
    left, right = st.columns(2, gap="medium")
    with left:
        st.html(heading("Time", "Seconds from opening a case to its last decision, all visits together."))
        rows = [
            (who, cases, f"{middle:.0f} s", f"{whole / 60:.1f} min") for who, cases, middle, whole in times(run, board)
        ]
        st.html(
            table(("reader", "cases#", "median#", "all#"), rows) if rows else heading("", "Nobody has decided yet.")
        )
    with right:
        _disputes(visit, run, board, said)
    _out(visit, run, board)


def choose_run(visit: "Visit") -> Run:
    """The run that a page is about."""
    runs = visit.desk.runs
    if len(runs) == 1:
        return next(iter(runs.values())).refresh()
    key = st.selectbox(
        "Run", list(runs), format_func=lambda key: f"{runs[key].name} · {runs[key].about.system}", key="about_run"
    )
    return runs[str(key)].refresh()


def _disputes(visit: "Visit", run: Run, board: Board, said: Mapping[str, Said]) -> None:
    """Cases of which readers say different things, of those that this reader has decided, or all for an admin."""
    mine = visit.person.name
    rows = []
    for finding, cases in said.items():
        for case, people in cases.items():
            if len(set(people.values())) > 1 and (visit.person.is_admin or mine in people):
                counted = Counter(people.values())
                rows.append(
                    (case, shown(finding), ", ".join(f"{count} {reading}" for reading, count in counted.most_common()))
                )
    st.html(heading("Different readings", "Of the cases that you decided about." if not visit.person.is_admin else ""))
    st.html(table(("case", "finding", "readings"), sorted(rows)[:DISPUTES]) if rows else heading("", "None."))
    if rows:
        _open(run, sorted({case for case, _, _ in rows}), len(rows))


def _open(run: Run, cases: list[str], count: int) -> None:
    """The way to a case about which readers differ."""
    from apps.review.shell import go

    more = f" of {count} readings, {DISPUTES} shown" if count > DISPUTES else ""
    columns = st.columns([3, 1], vertical_alignment="bottom")
    case = columns[0].selectbox(f"Look at one of {len(cases)} cases{more}", cases, key="disputed")
    columns[1].button("Open it", key="open_disputed", on_click=go, width="stretch",
                      kwargs={"view": "case", "run": run.key, "case": str(case)})  # fmt: skip


def _out(visit: "Visit", run: Run, board: Board) -> None:
    """Tables for admins, signed reports for whoever decided."""
    st.html(
        heading(
            "Take it along",
            "The head in the JSON file proves later that no row was lost: medvit review --verify --head.",
        )
    )
    columns = st.columns(3)
    store = visit.desk.stores[run.key]
    if visit.person.is_admin:
        columns[0].download_button(
            "Decisions as CSV",
            lambda: export.as_csv(run, board),
            f"decisions_{run.name}.csv",
            "text/csv",
            width="stretch",
            on_click="ignore",
            key="csv",
        )
        columns[1].download_button(
            "Decisions and log as JSON",
            lambda: export.as_json(run, board, store),
            f"decisions_{run.name}.json",
            "application/json",
            width="stretch",
            on_click="ignore",
            key="json",
        )
    mine = [case for case, people in board.counts().items() if people.get(visit.person.name)]
    columns[2 if visit.person.is_admin else 0].button(
        f"Sign the reports of my {len(mine)} cases",
        key="sign",
        on_click=_signed,
        args=(visit, run, mine),
        disabled=not mine,
        width="stretch",
        help="New structured reports, VERIFIED by you, in OUT/review/reports; "
        "the AI's report is their predecessor and stays as it is.",
    )
    own = sum(who == visit.person.name for _, who in board.all_masks())
    if own:
        st.button(
            f"Write my masks of {own} cases",
            key="hand_out",
            on_click=_handed,
            args=(visit, run),
            help="NIfTI over the source's voxels, and DICOM SEG where the source is DICOM, in OUT/review/handed.",
        )
    told = st.session_state.pop("told", None)
    if told:
        (st.warning if told[1] else st.info)(told[0])


def _handed(visit: "Visit", run: Run) -> None:
    folder = run.folder / "review" / "handed"
    written, faults = export.hand_out(visit.desk, run, folder, visit.person.name, visit.person.name)
    tell(
        f"The masks of {written} cases were written to {folder}."
        + "".join(f" {count} times: {fault}" for fault, count in faults.items()),
        bool(faults),
    )


def _signed(visit: "Visit", run: Run, cases: list[str]) -> None:
    written, faults = 0, Counter[str]()
    for case in cases:
        try:
            written += export.sign(visit.desk, run, case, visit.person.name) is not None
        except MedvitError as error:
            faults[str(error)] += 1
    left = len(cases) - written - sum(faults.values())
    said = f"{written} reports were written to {run.folder / 'review' / 'reports'}."
    said += f" {left} cases have no report of the AI to follow, or no finding decided." if left else ""
    tell(said + "".join(f" {count} could not be written: {fault}" for fault, count in faults.items()), bool(faults))
