"""What comes over the wire is never trusted: an archive that errs, dawdles, lies or attacks."""

import gzip
import itertools
import json
import shutil
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pydicom
import pytest
import tiny

from medvit import budgets
from medvit.archive import BREAKER, TRIES, Archive, Away, Place, checked_url
from medvit.cli import DONE, NOTHING, PARTLY, WRONG, main
from medvit.errors import MedvitError, Rejected, Unanswered
from medvit.pull import INBOX_LOCK, Query, pull
from medvit.wire import write_part

ASKED = Place("1.2.3", "1.2.3.4", "1.2.3.4.5")
QUERY = Query(study=ASKED.study)
BOUNDARY = b"boundary-of-parts"
MULTIPART = f'multipart/related; type="application/dicom"; boundary={BOUNDARY.decode()}'


class Stub:
    """An archive on the loopback that holds one object; ``objects`` answers requests for it, ``queries`` queries."""

    def __init__(self, film: bytes) -> None:
        self.film, self.seen, self.headers = film, [], []
        self.objects = lambda to: send(to, parts(film), MULTIPART)
        self.queries = self.honest
        handler = type("Handler", (Handler,), {"stub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/dicom-web"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def honest(self, to) -> None:
        found = [] if "offset=0" not in to.path else [match(ASKED)]
        send(to, json.dumps(found).encode(), "application/dicom+json")

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: Stub

    def do_GET(self) -> None:
        self.stub.seen.append(self.path)
        self.stub.headers.append(dict(self.headers))
        try:
            (self.stub.objects if self.path.partition("?")[0].endswith(ASKED.sop) else self.stub.queries)(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, *_) -> None:
        pass


def send(to, body, kind, status=200, length=None, **headers):
    to.send_response(status)
    to.send_header("Content-Type", kind)
    to.send_header("Content-Length", str(len(body) if length is None else length))
    for name, text in headers.items():
        to.send_header(name.replace("_", "-"), text)
    to.end_headers()
    to.wfile.write(body)
    if length is not None:
        to.close_connection = True


def parts(*objects, end=b"--\r\n"):
    head = b"\r\n--" + BOUNDARY + b"\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + one for one in objects) + b"\r\n--" + BOUNDARY + end


def match(place, **more):
    values = {"0020000D": place.study, "0020000E": place.series, "00080018": place.sop, "00080060": "DX", **more}
    return {tag.removeprefix("t"): {"vr": "UI", "Value": [text]} for tag, text in values.items()}


@pytest.fixture
def film(tmp_path, make_film):
    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    path = make_film(tmp_path / "held.dcm", tiny.draw(1, True, False), **dict(zip(names, ASKED, strict=True)))
    return path.read_bytes()


@pytest.fixture
def stub(film, monkeypatch):
    for name in ("USER", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MEDVIT_DICOMWEB_{name}", raising=False)
    monkeypatch.setattr("medvit.archive.FIRST_PAUSE_S", 0.001)
    running = Stub(film)
    yield running
    running.close()


def refused(stub, tmp_path, caplog, reason):
    """Pull the one object, which must be refused for that reason and leave nothing behind."""
    folder = tmp_path / "in"
    assert pull(Archive(stub.url), folder, QUERY) == {"fetched": 0, "kept": 0, "refused": 1, "broken_off": 0}
    assert f": {reason}: " in caplog.text
    assert sorted(path.name for path in folder.iterdir()) == [INBOX_LOCK, "pull.jsonl"]
    assert (folder / "pull.jsonl").read_bytes() == b""


def test_an_honest_archive_gives_its_object(stub, tmp_path, film):
    assert pull(Archive(stub.url), tmp_path / "in", QUERY)["fetched"] == 1
    (path,) = (tmp_path / "in").glob("*.dcm")
    assert path.read_bytes() == film


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_an_object_with_other_uids_than_asked_for_is_refused(stub, tmp_path, caplog, make_film, keyword):
    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    uids = {**dict(zip(names, ASKED, strict=True)), keyword: "1.2.3.999"}
    other = make_film(tmp_path / "other.dcm", tiny.draw(2, True, False), **uids).read_bytes()
    stub.objects = lambda to: send(to, parts(other), MULTIPART)
    refused(stub, tmp_path, caplog, "other_object")


def test_an_object_of_another_patient_than_asked_for_is_refused(stub, tmp_path, caplog):
    stub.queries = lambda to: send(
        to, json.dumps([match(ASKED, t00100020="TEST-0002")] * ("offset=0" in to.path)).encode(), "application/json"
    )
    counts = pull(Archive(stub.url), tmp_path / "in", Query(patient="TEST-0002"))
    assert counts["refused"] == 1 and "other_patient" in caplog.text
    assert "TEST-000" not in caplog.text


def test_an_endless_object_is_cut_off(stub, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(budgets, "FILE_BYTES", 4 * budgets.MIB)

    def endless(to):
        to.send_response(200)
        to.send_header("Content-Type", MULTIPART)
        to.send_header("Transfer-Encoding", "chunked")
        to.end_headers()
        to.wfile.write(b"%x\r\n%s\r\n" % (len(first := parts(b"DICM")[:-8]), first))
        for sent in itertools.count():
            to.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")
            assert sent < 2000, "nobody cut it off"

    stub.objects = endless
    refused(stub, tmp_path, caplog, "answer_budget")
    assert len([path for path in stub.seen if path.endswith(ASKED.sop)]) == 1  # it would be as long again


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nX-A: ", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nContent-Type: "]
)
def test_an_object_that_trickles_is_given_up(stub, tmp_path, caplog, monkeypatch, head):
    monkeypatch.setattr(budgets, "ANSWER_S", 0.3)
    monkeypatch.setattr("medvit.archive.TRIES", 2)
    head += MULTIPART.encode() + b"\r\n" + b"\r\n" * (b"Length" in head)

    def trickle(to):
        to.wfile.write(head)
        for _ in range(3000):
            to.wfile.write(b"a")
            time.sleep(0.01)

    stub.objects = trickle
    started = time.monotonic()
    refused(stub, tmp_path, caplog, "broken_off")
    assert time.monotonic() - started < 15


def test_an_archive_that_falls_silent_is_given_up(stub, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("medvit.archive.TIMEOUT_S", (1, 0.2))
    monkeypatch.setattr("medvit.archive.TRIES", 2)
    stub.objects = lambda to: time.sleep(2)
    refused(stub, tmp_path, caplog, "broken_off")


def test_what_may_pass_is_tried_again_after_growing_pauses(stub, tmp_path, film):
    answers = [500, 503, 429, 408]

    def flaky(to):
        if answers:
            send(to, b"", "text/plain", answers.pop(0))
        else:
            send(to, parts(film), MULTIPART)

    stub.objects, pauses = flaky, []
    archive = Archive(stub.url, pause=pauses.append, chance=iter((0.0, 0.5, 0.999, 0.5)).__next__)
    archive.fetch(ASKED, tmp_path / "film.dcm")
    assert (tmp_path / "film.dcm").read_bytes() == film
    assert pauses == pytest.approx([0.0005, 0.002, 0.004 * 1.499, 0.008])


@pytest.mark.parametrize("status", [400, 404, 406, 410])
def test_what_will_not_pass_is_not_tried_again(stub, tmp_path, status):
    stub.objects = lambda to: send(to, b"", "text/plain", status)
    with pytest.raises(Unanswered) as caught:
        Archive(stub.url).fetch(ASKED, tmp_path / "film.dcm")
    assert caught.value.reason == f"http_{status}" and len(stub.seen) == 1


def test_what_never_passes_ends(stub, tmp_path):
    stub.objects = lambda to: send(to, b"", "text/plain", 500)
    archive = Archive(stub.url)
    for _ in range(BREAKER - 1):
        with pytest.raises(Unanswered):
            archive.fetch(ASKED, tmp_path / "film.dcm")
    with pytest.raises(Away, match="What is left waits"):
        archive.fetch(ASKED, tmp_path / "film.dcm")
    assert len(stub.seen) == BREAKER * TRIES


@pytest.mark.parametrize("cut", ["length", "boundary", "chunk"])
def test_an_object_that_breaks_off_is_asked_for_again(stub, tmp_path, film, cut):
    def torn(to):
        if len(stub.seen) > 1:
            send(to, parts(film), MULTIPART)
        elif cut == "length":
            send(to, parts(film)[:500], MULTIPART, length=len(parts(film)))
        elif cut == "boundary":
            send(to, parts(film, end=b""), MULTIPART)
        else:
            to.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: " + MULTIPART.encode())
            to.wfile.write(b"\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n" + parts(film)[:500])
            to.close_connection = True

    stub.objects = torn
    Archive(stub.url).fetch(ASKED, tmp_path / "film.dcm")
    assert (tmp_path / "film.dcm").read_bytes() == film and len(stub.seen) == 2


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10**6])
def test_boundaries_are_found_wherever_chunks_end(tmp_path, size):
    body = b"DICM\r\n--boundary-of-part\r\n--\r\n\r\nmore\r"
    for message in (parts(body), parts(body)[2:], b"preamble" + parts(body)):
        with (tmp_path / "part").open("wb") as file:
            write_part(MULTIPART, (message[i : i + size] for i in range(0, len(message), size)), file)
        assert (tmp_path / "part").read_bytes() == body


@pytest.mark.parametrize(
    "body, kind",
    [
        (parts(b"one", b"two"), MULTIPART),
        (b"<html>", "text/html"),
        (b"x" * 500_000, MULTIPART),
        (parts(b"one"), "multipart/related"),
    ],
)
def test_an_answer_of_another_shape_is_refused(stub, tmp_path, body, kind):
    stub.objects = lambda to: send(to, body, kind)
    with pytest.raises(Rejected) as caught:
        Archive(stub.url, pause=lambda _: None).fetch(ASKED, tmp_path / "film.dcm")
    assert caught.value.reason == "bad_answer"


def test_an_object_that_comes_without_parts_is_taken(stub, tmp_path, film):
    stub.objects = lambda to: send(to, film, "application/dicom")
    Archive(stub.url).fetch(ASKED, tmp_path / "film.dcm")
    assert (tmp_path / "film.dcm").read_bytes() == film


def test_an_answer_that_unpacks_to_more_is_refused(stub, tmp_path, caplog):
    bomb = gzip.compress(bytes(10_000_000))
    stub.objects = lambda to: send(to, bomb, MULTIPART, Content_Encoding="gzip")
    refused(stub, tmp_path, caplog, "bad_answer")


def test_an_object_that_is_a_bomb_is_refused(stub, tmp_path, caplog, film):
    sequence = pydicom.Sequence()
    for _ in range(budgets.NESTING + 2):
        item = pydicom.Dataset()
        item.ReferencedImageSequence = sequence
        sequence = pydicom.Sequence([item])
    path = tmp_path / "deep.dcm"
    path.write_bytes(film)
    deep = pydicom.dcmread(path)
    deep.ReferencedImageSequence = sequence
    deep.save_as(path)
    stub.objects = lambda to: send(to, parts(path.read_bytes()), MULTIPART)
    refused(stub, tmp_path, caplog, "nesting")


@pytest.mark.parametrize("junk", [b"not DICOM", b"", bytes(128) + b"DICM"])
def test_an_object_that_is_none_is_refused(stub, tmp_path, caplog, junk):
    stub.objects = lambda to: send(to, parts(junk), MULTIPART)
    folder = tmp_path / "in"
    assert pull(Archive(stub.url), folder, QUERY)["refused"] == 1
    assert not list(folder.glob("*.dcm"))


def test_a_truncated_object_is_refused(stub, tmp_path, caplog, film):
    stub.objects = lambda to: send(to, parts(film[:-200]), MULTIPART)
    refused(stub, tmp_path, caplog, "truncated")


def test_no_redirect_is_followed(stub, tmp_path, film, monkeypatch):
    monkeypatch.setenv("MEDVIT_DICOMWEB_TOKEN", "secret-token")
    other = Stub(film)
    stub.objects = stub.queries = lambda to: send(to, b"", "text/plain", 302, Location=other.url + to.path)
    with pytest.raises(Away, match="sends on to another place"):
        Archive(stub.url).fetch(ASKED, tmp_path / "film.dcm")
    with pytest.raises(Away, match="sends on to another place"):
        next(Archive(stub.url).studies({}))
    assert other.seen == []
    other.close()


def test_neither_netrc_nor_proxy_variables_are_used(stub, tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login netrc-user password netrc-password\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    Archive(stub.url).fetch(ASKED, tmp_path / "film.dcm")
    assert "Authorization" not in stub.headers[0]


@pytest.mark.parametrize(
    "variables, sent", [({"TOKEN": "abc"}, "Bearer abc"), ({"USER": "u", "PASSWORD": "é"}, "Basic dTrDqQ==")]
)
def test_credentials_come_from_the_environment(stub, tmp_path, monkeypatch, variables, sent):
    for name, text in variables.items():
        monkeypatch.setenv(f"MEDVIT_DICOMWEB_{name}", text)
    archive = Archive(stub.url)
    archive.fetch(ASKED, tmp_path / "film.dcm")
    assert [*archive.studies({})]
    assert {headers["Authorization"] for headers in stub.headers} == {sent}


def test_half_of_the_credentials_are_refused(monkeypatch):
    monkeypatch.setenv("MEDVIT_DICOMWEB_USER", "somebody")
    with pytest.raises(MedvitError, match="both"):
        Archive("http://localhost:9")


@pytest.mark.parametrize("url", ["http://somebody:hush@localhost/dicom-web", "https://hush@pacs", "https://pacs/@hush"])
def test_a_password_in_the_url_is_refused_without_repeating_it(url):
    with pytest.raises(MedvitError, match="carries a user or password") as caught:
        checked_url(url, True)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("host", ["pacs", "10.0.0.1", "127.0.0.1.evil.org", "localhost.evil.org"])
def test_clear_text_to_another_machine_is_refused_unless_allowed(host):
    with pytest.raises(MedvitError, match="clear text"):
        checked_url(f"http://{host}/dicom-web", False)
    assert checked_url(f"http://{host}/dicom-web/", True) == f"http://{host}/dicom-web"
    assert checked_url(f"https://{host}/dicom-web", False)


@pytest.mark.parametrize(
    "url", ["http://localhost:8042", "http://127.0.0.1/x", "http://127.1.2.3", "http://[::1]:80/x"]
)
def test_clear_text_within_this_machine_is_allowed(url):
    assert checked_url(url, False) == url


@pytest.mark.parametrize(
    "url", ["pacs/dicom-web", "ftp://pacs", "https://", "https://pacs?x=1", "https://pacs:port/", "https://a b"]
)
def test_what_is_no_url_is_refused(url, tmp_path, capsys):
    assert main(["pull", url, "-o", str(tmp_path), "--limit", "1"]) == WRONG
    assert "https://pacs/dicom-web" in capsys.readouterr().err


def test_an_archive_that_repeats_itself_is_asked_no_end_of_questions(stub, tmp_path):
    stub.queries = lambda to: send(to, json.dumps([match(ASKED)] * 3).encode(), "application/dicom+json")
    assert pull(Archive(stub.url), tmp_path / "in", QUERY)["fetched"] == 1
    assert len(stub.seen) == 3 * 2 + 1


def test_an_archive_that_invents_matches_is_cut_off(stub, monkeypatch):
    monkeypatch.setattr(budgets, "MATCHES", 1000)
    count = itertools.count()
    stub.queries = lambda to: send(
        to,
        json.dumps([match(ASKED._replace(study=f"1.2.{next(count)}")) for _ in range(100)]).encode(),
        "application/dicom+json",
    )
    with pytest.raises(Away, match="more than 1000 matches"):
        list(Archive(stub.url).studies({}))


def test_what_was_not_asked_for_is_left_out(stub, tmp_path, caplog):
    others = [ASKED._replace(study=uid) for uid in ("1.2.4", "../../etc/passwd", "1.2.3/x", "", "1." * 40)]
    found = json.dumps([*map(match, others), 7, {"0020000D": 3}, {"0020000D": {"Value": [{}]}}, match(ASKED)])
    stub.queries = lambda to: send(to, found.encode(), "application/dicom+json")
    assert pull(Archive(stub.url), tmp_path / "in", QUERY)["fetched"] == 1
    assert {path.partition("?")[0] for path in stub.seen if "passwd" in path or "1.2.4" in path} == set()


@pytest.mark.parametrize(
    "query, more",
    [
        (Query(date="20260101-20260131"), {"t00080020": "20251231"}),
        (Query(date="20260101"), {"t00080020": "20260102"}),
        (Query(date="20260101-"), {}),
        (Query(patient="A"), {"t00100020": "B"}),
        (Query(modality=("CR",)), {}),
    ],
)
def test_a_filter_that_the_archive_passes_over_filters_all_the_same(stub, tmp_path, query, more):
    stub.queries = lambda to: send(to, json.dumps([match(ASKED, **more)]).encode(), "application/dicom+json")
    assert pull(Archive(stub.url), tmp_path / "in", query)["fetched"] == 0


@pytest.mark.parametrize(
    "body, kind",
    [
        (b"<html>Welcome</html>", "text/html"),
        (b"[" * 200_000, "application/dicom+json"),
        (b"[" + b"9" * 100_000 + b"]", "application/dicom+json"),
        (b"\xff\xfe{", "application/dicom+json"),
        (b"5", "application/dicom+json"),
    ],
)
def test_an_answer_to_a_query_that_is_none_is_a_sentence(stub, tmp_path, capsys, body, kind):
    stub.queries = lambda to: send(to, body, kind)
    assert main(["pull", stub.url, "-o", str(tmp_path / "in"), "--study", ASKED.study]) == NOTHING
    assert "does not answer a query as DICOMweb says" in capsys.readouterr().err


def test_an_answer_to_a_query_has_a_limit(stub, monkeypatch):
    monkeypatch.setattr(budgets, "ANSWER_BYTES", 10_000)
    stub.queries = lambda to: send(to, b"[" + b" " * 100_000 + b"]", "application/dicom+json")
    with pytest.raises(Away, match="sends more than 10000 bytes"):
        list(Archive(stub.url).studies({}))


def test_a_patients_identifier_is_told_to_the_archive_alone(stub, tmp_path, capsys, caplog, monkeypatch):
    caplog.set_level("DEBUG")
    monkeypatch.setattr("sys.stdin", (tmp_path / "id").open("w+"))
    for words in ([], ["--modality", "DX"]):
        (tmp_path / "id").write_text(f"{tiny.SECRET}\n")
        monkeypatch.setattr("sys.stdin", (tmp_path / "id").open())
        stub.queries = lambda to: send(to, b"", "text/plain", 500, Warning=f"299 {tiny.SECRET}")
        assert main(["pull", stub.url, "-o", str(tmp_path / "in"), "--patient-id", "-", *words]) == NOTHING
    assert any(tiny.SECRET in path for path in stub.seen)
    said = capsys.readouterr()
    assert tiny.SECRET not in caplog.text + said.out + said.err
    assert all(tiny.SECRET.encode() not in path.read_bytes() for path in (tmp_path / "in").iterdir())


def test_some_good_and_some_bad_is_told_by_the_exit_code(stub, tmp_path, make_film, film):
    bad = ASKED._replace(sop="1.2.3.4.6")
    stub.queries = lambda to: send(to, json.dumps([match(bad), match(ASKED)]).encode(), "application/dicom+json")
    words = ["pull", stub.url, "-o", str(tmp_path / "in"), "--study", ASKED.study]
    assert main(words) == PARTLY
    assert main([*words, "--modality", "MG"]) == DONE


def test_a_uid_in_two_series_is_told_and_the_first_object_stays(stub, tmp_path, film, caplog):
    twin = ASKED._replace(series="1.2.3.5")
    stub.queries = lambda to: send(
        to,
        json.dumps([match(ASKED), match(twin)] if "/instances" not in to.path else [match(ASKED)]).encode(),
        "application/dicom+json",
    )
    assert pull(Archive(stub.url), tmp_path / "in", QUERY) == {"fetched": 1, "kept": 0, "refused": 1, "broken_off": 0}
    assert "uid_conflict" in caplog.text
    (path,) = (tmp_path / "in").glob("*.dcm")
    assert path.read_bytes() == film


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of this machine that nobody knows."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_only_a_trusted_certificate_is_talked_to(stub, tmp_path, film, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    stub.server.socket = context.wrap_socket(stub.server.socket, server_side=True)
    url = stub.url.replace("http://", "https://")
    with pytest.raises(Away, match="its certificate is not trusted"):
        Archive(url).fetch(ASKED, tmp_path / "film.dcm")
    assert stub.seen == []
    Archive(url, ca=certificate / "cert.pem").fetch(ASKED, tmp_path / "film.dcm")
    assert (tmp_path / "film.dcm").read_bytes() == film
    with pytest.raises(MedvitError, match="is not there"):
        Archive(url, ca=certificate / "none.pem")


def test_a_large_object_is_written_while_it_comes(stub, tmp_path):
    large = bytes(np.random.default_rng(0).bytes(30 * budgets.MIB))
    stub.objects = lambda to: send(to, parts(large), MULTIPART)
    Archive(stub.url).fetch(ASKED, tmp_path / "large")
    assert (tmp_path / "large").read_bytes() == large
