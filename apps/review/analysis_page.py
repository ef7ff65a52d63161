"""What the run found against what its readers decided, and where the AI looked."""

import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from PIL import Image as Pillow

from apps.review.agreement_page import by_finding, choose_run
from apps.review.decide import shown
from apps.review.kappa import wilson
from apps.review.readings import Board
from apps.review.runs import NONE, Run
from apps.review.tables import heading, interval, share, table
from medvit.codes import file_name
from medvit.writers.heat import INFERNO

if TYPE_CHECKING:
    from apps.review.shell import Visit

MAPS = 200  # of a finding that a mean map is made of
GRID = 28  # rows and columns of a mean map
BINS = 5
FOCUS = 0.1  # of the map: the share of relevance that its highest tenth holds


class Against(NamedTuple):
    """A finding: how often AI and readers say it, and how often they agree. Readers' majority; ties are left out."""

    finding: str
    decided: int
    both: int
    ai_only: int
    readers_only: int
    neither: int
    unclear: int


def majority(readings: list[str]) -> str:
    """What most readers say: present or absent; "" where they are undecided or balanced."""
    counted = Counter(readings)
    return "" if counted["present"] == counted["absent"] else max(("present", "absent"), key=counted.__getitem__)


def against(run: Run, board: Board) -> list[Against]:
    """Every finding that was decided about."""
    told = []
    for finding, cases in sorted(by_finding(board).items()):
        counted: Counter[tuple[bool, str]] = Counter()
        for case, people in cases.items():
            said = run.rows[case].finding(finding) if case in run.rows else None
            if said and finding != NONE:
                counted[said.positive, majority(list(people.values()))] += 1
        if counted:
            told.append(
                Against(
                    finding,
                    sum(counted.values()),
                    counted[True, "present"],
                    counted[True, "absent"],
                    counted[False, "present"],
                    counted[False, "absent"],
                    counted[True, ""] + counted[False, ""],
                )
            )
    return told


def calibration(run: Run, board: Board) -> list[tuple[str, int, float, float]]:
    """Range of probability, decided findings, their mean probability, and the share that readers hold for present."""
    bins: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for finding, cases in by_finding(board).items():
        for case, people in cases.items():
            said = run.rows[case].finding(finding) if case in run.rows and finding != NONE else None
            most = majority(list(people.values()))
            if said and most:
                bins[min(int(said.probability * BINS), BINS - 1)].append((said.probability, most == "present"))
    return [
        (
            f"{place / BINS:.1f} to {(place + 1) / BINS:.1f}",
            len(held),
            sum(p for p, _ in held) / len(held),
            sum(is_there for _, is_there in held) / len(held),
        )
        for place, held in sorted(bins.items())
    ]


def mean_map(run: Run, cases: list[str], finding: str) -> tuple[NDArray[np.float64], float, int] | None:
    """Where maps of a finding lie on average, over the film, with how focused they are and how many there are."""
    total, focus, count = np.zeros((GRID, GRID)), 0.0, 0
    for case in cases[:MAPS]:
        path = run.heat(case).get(file_name(finding))
        if path is None:
            continue
        try:
            with np.load(path, allow_pickle=False) as held:
                values, about = held["values"].astype(float), json.loads(str(held["about"]))
        except (OSError, ValueError, KeyError):
            continue
        if values.ndim == 3:
            values = values.mean(0)
        if about.get("label") != finding or not values.sum() > 0:
            continue
        spread = np.asarray(
            Pillow.fromarray(values.astype(np.float32)).resize((GRID, GRID), Pillow.Resampling.BILINEAR), float
        )
        total += spread / spread.sum()
        top = np.sort(values.ravel())[::-1]
        focus += float(top[: max(int(len(top) * FOCUS), 1)].sum() / top.sum())
        count += 1
    return (total / count, focus / count, count) if count else None


def show(visit: "Visit") -> None:
    """The page."""
    run = choose_run(visit)
    board = visit.desk.boards[run.key].refresh()
    if visit.settings.blind and not visit.person.is_admin:
        st.info("Readers who decide first see this page when the reading is over. Ask whoever started the app.")
        return
    found = against(run, board)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        st.html(
            heading(
                "AI against its readers",
                "Of the findings that were decided about; most readers count, ties and doubt are "
                "left aside. Not an evaluation: the readers saw what the AI said, unless they read blind.",
            )
        )
        if found:
            columns = (
                "finding",
                "decided#",
                "both#",
                "AI only#",
                "reader only#",
                "neither#",
                "unclear#",
                "confirmed (95 %)#",
            )
            st.html(
                table(
                    columns,
                    [
                        (
                            shown(one.finding),
                            one.decided,
                            one.both,
                            one.ai_only,
                            one.readers_only,
                            one.neither,
                            one.unclear,
                            interval(*wilson(one.both, one.both + one.ai_only)),
                        )
                        for one in found
                    ],
                )
            )
        else:
            st.info("Nothing has been decided yet. Open a case from the worklist and press A, X or U.")
        _evaluation(run)
    with right:
        st.html(heading("Probability against readers", "Of what was decided: what share readers hold for present."))
        rows = [(said, count, f"{mean:.2f}", share(there)) for said, count, mean, there in calibration(run, board)]
        st.html(table(("probability", "findings#", "mean#", "present#"), rows) if rows else heading("", "Nothing yet."))
    _attention(run, board, [one.finding for one in found])


def _evaluation(run: Run) -> None:
    """What was measured when the system was made; it is another population."""
    told = {name: value for name, value in run.about.metrics.items() if "auroc" in name}
    if told:
        st.html(heading("On validation data, when it was trained"))
        st.html(table(("measure", "value#"), [(shown(name), f"{value:.3f}") for name, value in sorted(told.items())]))


def _attention(run: Run, board: Board, findings: list[str]) -> None:
    """Mean maps of accepted and rejected findings side by side."""
    verdicts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for case, _, finding, made in board.everything():
        verdicts[finding][made.verdict].append(case)
    shown_any = False
    for finding in findings:
        maps = {
            verdict: mean_map(run, sorted(set(verdicts[finding][verdict])), finding) for verdict in ("accept", "reject")
        }
        if not any(maps.values()):
            continue
        if not shown_any:
            st.html(
                heading(
                    "Where the AI looked",
                    "Mean of the maps (regions that influenced the score) over the film, one scale a "
                    "finding. Focus: the share of relevance in the highest tenth of a map.",
                )
            )
            columns = st.columns(6)
            shown_any, place = True, 0
        high = max(float(one[0].max()) for one in maps.values() if one)
        for verdict, one in maps.items():
            if one:
                plane, focus, count = one
                said = f"{shown(finding)}, {'accepted' if verdict == 'accept' else 'rejected'}: {count} maps, focus {focus:.0%}"
                columns[place % 6].image(_picture(plane / high), caption=said, width="stretch")
                place += 1


def _picture(plane: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A map in [0, 1] in the colours of the heat maps."""
    steps = np.linspace(0, 1, len(INFERNO))
    coloured = np.stack([np.interp(plane, steps, INFERNO[:, channel]) for channel in range(3)], axis=-1).astype(
        np.uint8
    )
    return np.asarray(Pillow.fromarray(coloured).resize((196, 196), Pillow.Resampling.BICUBIC))
