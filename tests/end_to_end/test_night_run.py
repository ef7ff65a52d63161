"""The whole corpus of bad inputs through the real command: every one is accounted for, with an outcome that is right."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
import tiny

BEFORE_READING = {"uid_conflict"}  # some of the corpus share an identity, since it lies where it cannot be changed


@pytest.mark.slow
def test_every_bad_input_is_accounted_for_and_the_run_ends_with_3(trained, corpus, tmp_path) -> None:
    expected = {bad.path.name: bad for bad in corpus}
    done = tiny.medvit("predict", trained.checkpoint, corpus[0].path.parent, "-o", tmp_path / "out", cwd=tmp_path)
    assert done.code == 3, done.err
    assert "Traceback" not in done.out + done.err
    with (tmp_path / "out/inputs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(expected)
    wrong = []
    for row in rows:
        bad, reason = expected[Path(row["source"]).name], row["reason"] or row["status"]
        if reason not in bad.expected | BEFORE_READING:
            wrong.append((bad.name, row["status"], reason, row["message"]))
    assert wrong == []
    assert sum(row["status"] == "rejected" for row in rows) >= 0.7 * len(rows)
    assert not any(row["status"] == "failed" for row in rows)
    counts = json.loads((tmp_path / "out/run.json").read_text())["counts"]
    print(done.err[-500:], Counter(row["reason"] or row["status"] for row in rows), counts)
    told = Counter(row["status"] for row in rows)
    assert {name: counts[name] for name in told} == dict(told)
