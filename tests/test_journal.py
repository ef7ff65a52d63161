"""The journal of a run survives what cuts it short and never tells an input twice."""

import errno
import json
import os

import pytest

from medvit.errors import Halted
from medvit.journal import Journal


def record(key: str, status: str = "ok", **more: object) -> dict[str, object]:
    return {"key": key, "status": status, **more}


def lines(path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_are_read_back_in_the_order_asked_for(tmp_path) -> None:
    with Journal(tmp_path / "new" / "records.jsonl") as journal:
        journal.add([record("a", source="bad\udcff\nname"), record("b", "failed")])
        journal.add([record("c")])
        assert [one["key"] for one in journal.read("cxab")] == ["c", "a", "b"]
        assert next(journal.read("a"))["source"] == "bad\udcff\nname"
        assert [journal.status(key) for key in "abcx"] == ["ok", "failed", "ok", None]


def test_a_journal_opened_again_knows_what_it_knew(tmp_path) -> None:
    path = tmp_path / "records.jsonl"
    for key in "abc":
        with Journal(path) as journal:
            journal.add([record(key)])
    with Journal(path) as journal:
        assert [one["key"] for one in journal.read("abc")] == list("abc")
    assert len(lines(path)) == 3


@pytest.mark.parametrize("cut", [1, 2, 10, 25])
def test_a_line_that_a_crash_cut_short_is_dropped_and_the_next_begins_at_a_line(tmp_path, cut) -> None:
    path = tmp_path / "records.jsonl"
    with Journal(path) as journal:
        journal.add([record("a"), record("b")])
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(path) as journal:
        assert journal.status("a") == "ok" and journal.status("b") is None
        journal.add([record("b", "failed")])
    assert [one["status"] for one in lines(path)] == ["ok", "failed"]


@pytest.mark.parametrize("damage", [b"\0\0\0\n", b"[1]\n", b'{"key": "a"}\n', b"\xff\xfe\n", b"null\n"])
def test_a_damaged_line_counts_as_not_written(tmp_path, damage) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(damage)
    with Journal(path) as journal:
        assert journal.status("a") is None
        journal.add([record("a")])
        assert next(journal.read("a"))["status"] == "ok"


def test_the_last_record_of_an_input_counts_and_settling_keeps_that_one_alone(tmp_path) -> None:
    path = tmp_path / "records.jsonl"
    with Journal(path) as journal:
        journal.add([record("b", "failed"), record("a"), record("c")])
        journal.add([record("b", "ok")])
        journal.settle("ab")
        assert lines(path) == [record("a"), record("b")]
        assert journal.status("c") is None
        journal.add([record("c")])
        assert [one["key"] for one in journal.read("abc")] == list("abc")


def test_the_order_in_which_records_came_does_not_show_in_a_settled_journal(tmp_path) -> None:
    for name, order in (("one", "abc"), ("two", "cab")):
        with Journal(tmp_path / name) as journal:
            for key in order:
                journal.add([record(key, number=ord(key))])
            journal.settle("abc")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_halts_and_leaves_whole_lines(tmp_path, monkeypatch, number) -> None:
    path = tmp_path / "records.jsonl"
    with Journal(path) as journal:
        journal.add([record("a")])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
            with pytest.raises(Halted, match=r"records\.jsonl cannot be written: .* --resume"):
                journal.add([record("b")])
        assert journal.status("b") is None
        journal.add([record("c")])
    assert [one["key"] for one in lines(path)] == ["a", "c"]


def test_a_journal_that_cannot_be_opened_is_a_sentence(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Halted, match="cannot be written"):
        Journal(tmp_path / "file" / "records.jsonl")
