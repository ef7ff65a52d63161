"""The evaluation report against what the run's readers decided, and where the AI looked."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from PIL import Image as Pillow

from apps.review.agreement_page import choose_run
from apps.review.comparison import Against, against, apart, calibration, readings
from apps.review.decide import shown
from apps.review.evaluated import Heads, Report, report_of
from apps.review.readings import Board
from apps.review.runs import Run
from apps.review.tables import heading, interval, share, table
from medvit.codes import file_name
from medvit.writers import charts
from medvit.writers.heat import INFERNO

if TYPE_CHECKING:
    from apps.review.shell import Visit

MAPS = 200  # of a finding that a mean map is made of
GRID = 28  # rows and columns of a mean map
FOCUS = 0.1  # of the map: the share of relevance that its highest tenth holds
# The looks of the drawings on a dark page; they are shown as pictures, which know no colours of the page.
LOOKS = """<style>path.frame { fill: none; stroke: #39424a; } rect.cell, circle.dot { fill: #56b4e9; }
text { font: 9px sans-serif; fill: #96a1a9; }</style>"""


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
    told = readings(run, board)
    found = against(run, told)
    report, missing = report_of(run, [Path(file) for file in visit.settings.evaluations])
    left, right = st.columns([3, 1], gap="medium")
    with left:
        _readers(found)
    with right:
        st.html(heading("Probability against readers", "What share of each range readers hold for present."))
        rows = [(said, count, f"{mean:.2f}", share(there)) for said, count, mean, there in calibration(run, told)]
        st.html(table(("probability", "findings#", "mean#", "present#"), rows) if rows else heading("", "Nothing yet."))
    _evaluation(run, found, report, missing)
    _attention(run, board, [one.finding for one in found])
    if report and report.heads:
        _heads(report.heads)


def _readers(found: Sequence[Against]) -> None:
    """How often AI and readers say each finding, and how far they agree."""
    decided, blind = sum(one.decided for one in found), sum(one.blind for one in found)
    st.html(
        heading(
            "AI against its readers",
            f"{decided} findings decided, {blind} of them before the reader saw the AI's answer. Most readers count; ties "
            "and doubt are unclear. Whoever saw the answer leans towards it: kappa is too high where little was read blind.",
        )
    )
    if not found:
        st.info("Nothing has been decided yet. Open a case from the worklist and press A, X or U.")
        return
    columns = ("finding", "decided#", "blind#", "both#", "AI only#", "reader only#", "neither#", "unclear#",
               "AI confirmed (95 %)#", "kappa AI and readers (95 %)#")  # fmt: skip
    rows = [
        (shown(one.finding), one.decided, one.blind, one.both, one.ai_only, one.readers_only, one.neither, one.unclear,
         interval(*one.confirmed), interval(one.kappa.value, one.kappa.low, one.kappa.high))
        for one in found
    ]  # fmt: skip
    st.html(table(columns, rows))


def _evaluation(run: Run, found: Sequence[Against], report: Report | None, missing: str) -> None:
    """What was measured on labelled cases beside what readers say of these; without a report what training said."""
    if report is None:
        st.html(heading("Against an evaluation", missing))
        told = {name: value for name, value in run.about.metrics.items() if "auroc" in name}
        if told:
            st.html(heading("On validation data, when it was trained"))
            rows = [(_measure(name), f"{value:.3f}") for name, value in sorted(told.items())]
            st.columns([2, 5])[0].html(table(("measure", "value#"), rows))
        return
    st.html(
        heading(
            "Evaluation against readers",
            f"Measured on {report.cases} labelled cases of {report.patients} patients (split {report.split} of {report.table}, "
            f"{report.evaluated[:10]}), at the thresholds of this run, beside the readers of this run: other cases, so they "
            "are not one number. Readers who were asked about positive findings alone cannot tell what was missed: their "
            "sensitivity is then too high. Intervals of shares are Wilson's, which take cases as independent.",
        )
    )
    decided = {one.finding: one for one in found}
    table_rows = []
    for label in run.about.labels or tuple(report.labels):
        threshold = next((said.threshold for row in run.rows.values() if (said := row.finding(label))), float("nan"))
        measured, one = report.measured(label, threshold), decided.get(label)
        if measured is None:
            continue
        many = f"{measured.positives} of {measured.cases}"
        theirs = [
            _beside(one and one.sensitivity, measured.sensitivity),
            _beside(one and one.specificity, measured.specificity),
        ]
        ours = [interval(*each) for each in (measured.auroc, measured.sensitivity, measured.specificity)]
        table_rows.append((shown(label), many, ours[0], ours[1], theirs[0], ours[2], theirs[1]))
    columns = ("finding", "positive#", "AUROC (95 %)#", "sensitivity, evaluation#", "sensitivity, readers#",
               "specificity, evaluation#", "specificity, readers#")  # fmt: skip
    st.html(
        table(columns, table_rows) if table_rows else heading("", "The report measures none of this run's findings.")
    )


def _measure(name: str) -> str:
    """A measure of the checkpoint's card for people: ``val/auroc/Mass`` is AUROC, Mass."""
    return shown(name.removeprefix("val/").replace("auroc", "AUROC").replace("/", ", "))


def _beside(one: tuple[float, float, float] | None, measured: tuple[float, float, float]) -> str:
    """A share by readers, and whether its interval lies apart from that of the evaluation."""
    if one is None:
        return "–"
    where = apart(one, measured)
    return interval(*one) + (f" {where}" if where else "")


def _heads(heads: Heads) -> None:
    """What the heads of the network do, as the evaluation drew them."""
    many = len(heads.distance[0]) if heads.distance else 0
    distances = [
        (f"head {place}", [(float(layer), row[place]) for layer, row in enumerate(heads.distance)])
        for place in range(many)
    ]
    figures = (
        ("Rise of the loss without a head", charts.matrix(heads.importance, "Importance of heads", ("head", "layer"))),
        ("Distance that a head attends over, as a share of the image",
         charts.lines(distances, "Attention distance", ("layer", "distance"))),
        *((f"Pattern of {count} heads, the patch itself at the centre", charts.matrix(plane, "Pattern", ("columns", "rows")))
          for count, plane in heads.patterns),
    )  # fmt: skip
    st.html(heading("What attention does", f"From the evaluation, on {heads.cases} of its cases."))
    columns = st.columns(6)
    for place, (title, drawing) in enumerate(figures):
        picture = drawing.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f">{LOOKS}", 1)
        columns[place % 6].image(picture, caption=title, width="stretch")


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
