"""Logging in: roles from claims, nothing without one, and no public address without a login."""

import os
import socket

import pytest
from review_runs import App, leave_films
from test_review_browser import browser, fetched

from apps.review.runs import Run
from apps.review.store import Store
from medvit.cli import WRONG, main
from medvit.errors import MedvitError

pytest.importorskip("streamlit")
pytest.importorskip("authlib")
from tiny_login import Service

from apps.review.login import read_login
from apps.review.serve import is_public

__all__ = ["browser"]  # a fixture of the other file
FORM = """
[auth]
redirect_uri = "http://127.0.0.1:{port}/oauth2callback"
cookie_secret = "{secret}"
client_id = "medvit"
client_secret = "of no use here"
server_metadata_url = "{root}/.well-known/openid-configuration"

[roles]
claim = "groups"
admin = ["leads"]
reviewer = ["readers"]
"""


def written(folder, port=8501, root="http://127.0.0.1:1", secret="s" * 40, form=FORM):
    path = folder / "login.toml"
    path.write_text(form.format(port=port, root=root, secret=secret))
    return path


def test_roles_come_from_claims_and_whoever_has_none_may_see_nothing(tmp_path):
    login = read_login(written(tmp_path))
    assert login.known({"email": "a@x.org", "groups": ["readers", "others"]}).role == "reviewer"
    assert login.known({"email": "a@x.org", "groups": ["readers", "leads"]}).role == "admin"
    assert login.known({"sub": "17", "groups": "readers"}).name == "17"
    assert login.known({"email": "a@x.org", "groups": ["others"]}) is None
    assert login.known({"email": "a@x.org"}) is None and login.known({"groups": ["readers"]}) is None
    assert login.person({"_streamlit_user": "forged", "x-medvit-reviewer": "eve"}) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("client_id", "other_id"), "needs client_id"),
        (("{secret}", "short"), "at least 32"),
        (('reviewer = ["readers"]', 'nurse = ["readers"]'), r"\[roles\] must say"),
        (("[roles]", "[roles"), "cannot be read as TOML"),
    ],
)
def test_a_file_that_would_let_the_wrong_people_in_is_refused(tmp_path, change, told):
    with pytest.raises(MedvitError, match=told):
        read_login(written(tmp_path, form=FORM.replace(*change)))


def test_a_public_address_is_refused_without_a_login(tmp_path, make_film, capsys):
    out = leave_films(tmp_path, make_film, ((0.9, 0.2, 0.6),))
    assert main(["review", str(out), "--address", "0.0.0.0"]) == WRONG
    assert "there is no login" in capsys.readouterr().err
    assert main(["review", str(out), "--address", "everywhere"]) == WRONG
    assert [is_public(address) for address in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "192.168.1.4")] == (
        [False] * 3 + [True] * 3
    )


@pytest.mark.slow
def test_who_logs_in_reads_under_their_own_name_and_others_see_nothing(browser, tmp_path, make_film):
    out = leave_films(tmp_path, make_film, ((0.9, 0.2, 0.6),))
    service = Service({"sub": "1", "email": "anna@x.org", "groups": ["readers"]})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = App(out, "--login", written(tmp_path, port, service.root, os.urandom(20).hex()), inputs=tmp_path, port=port)
    run = Run(out).refresh()
    film = f"{app.root}/review/film/{run.key}/{next(iter(run.rows))}"
    try:
        assert fetched(film)[0] == 401 and fetched(film, "_streamlit_user=forged")[0] == 401
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.set_default_timeout(60_000)
        page.goto(app.root)
        page.get_by_role("button", name="Log in").click()
        page.locator("[role=row][data-case]").click()
        page.wait_for_selector("[data-finding]")
        assert page.locator("[data-testid=reviewer]").inner_text() == "anna@x.org"
        page.keyboard.press("a")
        page.wait_for_selector('[data-finding="Mass"][data-verdict="accepted"]')
        assert {row.reviewer for row in Store(out).since()} == {"anna@x.org"}
        assert page.request.get(film).status == 200
        page.context.close()
        service.claims = {"sub": "2", "email": "eve@x.org", "groups": ["others"]}
        page = browser.new_context().new_page()
        page.set_default_timeout(60_000)
        page.goto(app.root)
        page.get_by_role("button", name="Log in").click()
        page.get_by_text("You may not read here").wait_for()
        assert page.request.get(film).status == 401
        page.context.close()
    finally:
        app.close()
        service.server.shutdown()
