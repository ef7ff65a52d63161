"""What the AI has missed: a reader draws it from nothing, on a finding without a mask or on a structure of no name."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from apps.review.runs import OWN, Row, Run

MOST = 99  # structures of no name in a case


def begun(run: Run, row: Row, kept: Sequence[str]) -> list[str]:
    """The structure that this session is about to draw, until its first stroke is kept."""
    waiting: dict[str, str] = st.session_state.setdefault("begun", {})
    name = waiting.get(_here(run, row), "")
    if name in kept:
        del waiting[_here(run, row)]
    return [name] if name and name not in kept else []


def is_drawn_on(run: Run, row: Row) -> bool:
    """Whether a film is shown to be drawn on."""
    return bool(st.session_state.get("drawing") == _here(run, row))


def button(run: Run, row: Row, own: Sequence[str], place: Any) -> None:
    """The button for what the AI has missed: a film is shown to be drawn on, a volume gets one more structure."""
    kind = run.kind(row)
    if kind == "film":
        said = "Back to the film" if is_drawn_on(run, row) else "Draw"
        place.button(said, key="draw", shortcut="D", on_click=_turn, args=(run, row), width="stretch",
                     help="draw the finding that is chosen; then E")  # fmt: skip
    elif kind == "volume":
        place.button("Draw new", key="draw", shortcut="D", on_click=_begin, args=(run, row, own), width="stretch",
                     help="something that is not in the list; then E")  # fmt: skip


def _turn(run: Run, row: Row) -> None:
    st.session_state["drawing"] = "" if is_drawn_on(run, row) else _here(run, row)


def _begin(run: Run, row: Row, own: Sequence[str]) -> None:
    waiting = st.session_state["begun"]
    free = (name for number in range(1, MOST + 1) if (name := f"{OWN}{number}") not in own)
    name = waiting.setdefault(_here(run, row), next(free, f"{OWN}{MOST}"))
    st.session_state["chosen"] = name


def _here(run: Run, row: Row) -> str:
    return f"{run.key} {row.case}"
