"""What every page has: who is here, what answered, where one can go, and that it is for research."""

import time
import uuid
from collections.abc import Sequence
from typing import NamedTuple

import streamlit as st

from apps.review import agreement_page, analysis_page, case_view, worklist
from apps.review.desk import Desk, Settings, desk
from apps.review.door import ROLES, Person
from apps.review.runs import Run
from apps.review.tables import plain
from medvit.errors import MedvitError

STYLE = """<style>
[data-testid="stHeader"], [data-testid="stToolbar"], #MainMenu, footer { display: none; }
[data-testid="stMain"]::before { display: none; }
[data-testid="stMainBlockContainer"] { padding: 10px 18px 34px; max-width: none; }
[data-testid="stVerticalBlock"] { gap: 8px; } [data-testid="stHorizontalBlock"] { gap: 12px; }
[data-testid="stHtml"] { font-size: 13px; }
.medvit-bar { position: fixed; left: 0; right: 0; bottom: 0; z-index: 999; padding: 4px 18px; background: #171b1f;
  border-top: 1px solid #2a3036; color: #aab4bb; font-size: 12px; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
.medvit-bar b { color: #e69f00; font-weight: 600; }
.medvit-line { color: #d4dade; font-size: 13px; line-height: 1.5; } .medvit-line .soft { color: #96a1a9; }
.medvit-top { display: flex; gap: 14px; align-items: baseline; font-size: 13px; color: #96a1a9; padding-top: 6px; }
.medvit-top b { color: #d4dade; } .medvit-top .warn { color: #e69f00; }
div[data-testid="stButton"] button { min-height: 30px; padding: 2px 10px; }
</style>"""
VIEWS = {"worklist": "Worklist", "agreement": "Agreement", "analysis": "Analysis"}


class Visit(NamedTuple):
    """One session: who it is, and what all sessions share."""

    person: Person
    desk: Desk

    @property
    def settings(self) -> Settings:
        """How the app was started."""
        return self.desk.settings


def show() -> None:
    """The page that the address asks for."""
    st.set_page_config("medvit review", layout="wide", initial_sidebar_state="collapsed")
    st.html(STYLE)
    person = _person()
    if person is None:
        return
    try:
        visit = Visit(person, desk(Settings.of(st.secrets["review"])))
    except MedvitError as error:
        st.error(str(error))
        return
    _entered(visit)
    view = st.query_params.get("view", "worklist")
    run = visit.desk.runs.get(st.query_params.get("run", "")) if view == "case" else None
    _top(visit, view)
    pages = {"case": case_view.show, "agreement": agreement_page.show, "analysis": analysis_page.show}
    try:
        pages.get(view, worklist.show)(visit)
    except MedvitError as error:
        st.error(str(error))
        st.button("Back to the worklist", on_click=go, kwargs={"view": "worklist"})
    bar([run] if run else list(visit.desk.runs.values()))


def go(view: str, **where: str) -> None:
    """Go to a page: the address says which, so that reloading stays there."""
    st.query_params.from_dict({"view": view, **where})


def bar(runs: Sequence[Run]) -> None:
    """Who answered, and what the answers are: at the foot of every page; of pages about several runs all of them."""
    told = " | ".join(
        f"{one.system} {one.version}, weights {one.weights[:8]}, predicted {one.started[:16].replace('T', ' ')} UTC"
        for one in (run.about for run in runs)
    )
    st.html(
        f'<div class="medvit-bar" data-testid="identity" title="{plain(told)}">'
        "<b>AI output, unverified · research use only</b> · "
        f"thresholds from validation · {plain(told)}</div>"
    )


def _person() -> Person | None:
    """Who is here, as the door found out; with a login, whoever has logged in, or the way to do so."""
    told = st.user.to_dict()
    name, role = str(told.get("reviewer") or ""), str(told.get("role") or "")
    if name and role in ROLES:
        return Person(name, role)
    if "auth" in st.secrets and not told.get("is_logged_in"):
        st.title("medvit review")
        st.write("Log in to read. Research use only; not a medical device.")
        st.button("Log in", on_click=st.login, type="primary")
    else:
        st.error("You may not read here. Ask whoever runs this app for a link or a role.")
    return None


def _entered(visit: Visit) -> None:
    """Note once a session that somebody came."""
    if "visit" not in st.session_state:
        st.session_state["visit"] = uuid.uuid4().hex[:12]
        for store in visit.desk.stores.values():
            store.append(
                visit.person.name, "entered", body={"visit": st.session_state["visit"], "role": visit.person.role}
            )
    st.session_state.setdefault("clock", time.monotonic())


def _top(visit: Visit, view: str) -> None:
    columns = st.columns([1, 1, 1, 5], vertical_alignment="center")
    for column, (name, title) in zip(columns, VIEWS.items(), strict=False):
        here = view == name or (name == "worklist" and view not in (*VIEWS, "case"))
        column.button(title, key=f"to_{name}", on_click=go, kwargs={"view": name}, width="stretch", disabled=here)
    blind = " · blind first" if visit.settings.blind else ""
    readers = f" · {visit.settings.readers} readers a case" if visit.settings.readers > 1 else ""
    columns[3].html(
        f'<div class="medvit-top"><span>reviewer <b data-testid="reviewer">{plain(visit.person.name)}</b>'
        f"{blind}{readers}</span>"
        "<span>every click is kept at once and can be undone</span></div>"
    )
