"""Another film of the patient beside the one that is read: which there are, and which the reader wants to see."""

from typing import TYPE_CHECKING, Any

import streamlit as st

from apps.review.captions import side
from apps.review.kin import Beside
from apps.review.runs import Row, Run

if TYPE_CHECKING:
    from apps.review.shell import Visit

NOTHING = "nothing"
WISH = "beside_wish"  # in the session: the kind of film that the reader wants to see, from case to case


def choose(visit: "Visit", run: Run, row: Row) -> Beside | None:
    """The film to be seen beside this one, as the reader chooses; the next case shows the same kind where it has one."""
    found, done = visit.desk.kin[run.key].of(row)
    found = [one for one in found if run.kind(run.rows[one.case]) == "film"]
    if not found:
        st.selectbox(
            "Beside it",
            ["no other film" if done else "looking for others"],
            key=f"beside_none_{done}",
            disabled=True,
            help="Other views of the study and other studies of the patient, where they are in this run.",
        )
        return None
    names: dict[str, Beside | None] = {NOTHING: None}
    for one in found:
        said = one.said if one.said not in names else f"{one.said} ({sum(one.said in name for name in names) + 1})"
        names[said] = one
    wish = st.session_state.get(WISH, "")
    index = next((place for place, one in enumerate(names.values()) if one and one.kind == wish), 0)
    key = f"beside_{run.key}_{row.case}"

    def keep() -> None:
        chosen = names.get(str(st.session_state.get(key)))
        st.session_state[WISH] = chosen.kind if chosen else ""

    return names[str(st.selectbox("Beside it", list(names), index, key=key, on_change=keep))]


def shown(visit: "Visit", run: Run, other: Beside) -> dict[str, Any]:
    """What the viewer of the other film is told."""
    there = f"{run.key}/{other.case}"
    which = side(run.rows[other.case], visit.desk.facts(run.key, other.case)).partition(",")[0]
    return {
        "case": other.case,
        "film": f"/review/film/{there}",
        "heat": f"/review/heat/{there}",
        "side": f"beside it: {other.said} · {which}",
        "about": "not the case you decide about",
    }
