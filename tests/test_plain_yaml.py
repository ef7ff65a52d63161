"""YAML as plain data: the scalars people mean, and everything else refused with its line."""

import math
import time
from pathlib import Path

import pytest

from medvit.errors import MedvitError
from medvit.plain_yaml import MAX_BYTES, MAX_DEPTH, read_value, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def read(tmp_path: Path, content: str | bytes) -> dict[str, object]:
    path = tmp_path / "file.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_yaml(path)[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1e3", 1000.0), ("1.0e-3", 0.001), (".5", 0.5), ("5.", 5.0), ("-.inf", -math.inf),
        ("010", 10), ("-7", -7), ("+7", 7), ("0", 0), ("0x10", "0x10"), ("1_000", "1_000"), ("12:30", "12:30"),
        ("2024-01-02", "2024-01-02"), ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("y", "y"),
        ("true", True), ("True", True), ("FALSE", False), ("tRUE", "tRUE"), ("null", None), ("~", None), ("", None),
        ("'1'", "1"), ('"true"', "true"), ("bf16-mixed", "bf16-mixed"), ("[a, 1, 2.5]", ["a", 1, 2.5]),
    ],
)  # fmt: skip
def test_scalars_mean_what_they_look_like(tmp_path, text, value):
    read_from_file = read(tmp_path, f"key: {text}\n")["key"]
    assert read_from_file == value
    assert type(read_from_file) is type(value)
    assert read_value(text, "here") == value


def test_not_a_number_is_a_float(tmp_path):
    assert math.isnan(read(tmp_path, "key: .nan")["key"])


def test_an_empty_file_is_an_empty_mapping(tmp_path):
    assert read(tmp_path, "# nothing\n") == {}


def test_every_key_has_its_line(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("# a comment\na:\n  b: 1\n\n  c:\n    - x\n    - y: 2\n")
    _, lines = read_yaml(path)
    expected = {("a",): 2, ("a", "b"): 3, ("a", "c"): 5, ("a", "c", 0): 6, ("a", "c", 1, "y"): 7}
    assert {key: lines[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: &x [1]\nb: *x\n", r"file\.yaml:2: .*aliases"),
        (BOMB, r"file\.yaml:2: .*aliases"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", r"file\.yaml:2: .*tags"),
        ("a: !!int '3'\n", r"file\.yaml:1: .*tags"),
        ("a: !mine {x: 1}\n", r"file\.yaml:1: .*tags"),
        ("a: 1\nb: 2\na: 3\n", r"file\.yaml:3: the key 'a' stands here a second time"),
        ("a:\n  b: 1\n  b: 2\n", r"file\.yaml:3: the key 'b'"),
        ("a: 1\n  b: 2\n", r"file\.yaml:2: not readable as YAML"),
        ("a:\n\t- 1\n", r"file\.yaml:2: not readable as YAML"),
        ("a: [1, 2\n", r"file\.yaml:2: not readable as YAML"),
        ("a: 1\n---\nb: 2\n", r"file\.yaml:\d: not readable as YAML"),
        ("- 1\n- 2\n", r"file\.yaml:1: .*mapping.*list"),
        ("just text", r"file\.yaml:1: .*mapping.*str"),
        ("? [a, b]\n: 1\n", r"file\.yaml:1: a key must be a word"),
        ("a: " + "9" * 5000, r"file\.yaml:1: .*too many digits"),
        ("a: \x07\n", r"file\.yaml: not readable as YAML"),
        ("[" * 5000, r"file\.yaml.* not readable as YAML"),
        ("a: " + "[" * 5000 + "]" * 5000, r"file\.yaml.*(not readable|nested deeper)"),
        ("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), r"file\.yaml:1: nested deeper than 20"),
        ("a: 1\n#" + "é" * MAX_BYTES, r"file\.yaml is larger than 1000000 bytes"),
        (b"a: \xff\xfe\n", r"file\.yaml cannot be read"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", r"file\.yaml cannot be read"),
    ],
)  # fmt: skip
def test_what_is_not_plain_is_refused_with_its_line_and_quickly(tmp_path, content, said):
    started = time.process_time()
    with pytest.raises(MedvitError, match=said):
        read(tmp_path, content)
    assert time.process_time() - started < 2


def test_nesting_up_to_the_limit_is_read(tmp_path):
    assert read(tmp_path, "a: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH)["a"]


def test_a_missing_file_and_a_folder_are_sentences(tmp_path):
    with pytest.raises(MedvitError, match=r"nowhere\.yaml is not there"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(MedvitError, match="cannot be read"):
        read_yaml(tmp_path)


@pytest.mark.parametrize("text", ["[1, 2", "*x", "!!int 3", "a: b: c", "[" * 5000])
def test_a_value_that_is_no_yaml_is_refused_where_it_stands(text):
    with pytest.raises(MedvitError, match="command line, a="):
        read_value(text, "command line, a=")
