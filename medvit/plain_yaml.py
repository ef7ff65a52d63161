"""YAML as plain data with line numbers: no aliases, no tags, no duplicate keys, the scalars of YAML 1.2."""

import re
from pathlib import Path
from typing import Any

import yaml

from medvit.errors import MedvitError

MAX_BYTES = 1_000_000
MAX_DEPTH = 20

Key = tuple[str | int, ...]
Lines = dict[Key, int]

_WORDS = {"": None, "~": None} | {
    form: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for form in (word, word.capitalize(), word.upper())
}
_INT = re.compile(r"[-+]?\d+")
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\.inf|\.nan")


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """The mapping in a YAML file, and the line of every key in it.

    Raises:
        MedvitError: When the file is missing, too large, no YAML of this plain kind, or no mapping.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise MedvitError(f"The file {path} is larger than {MAX_BYTES} bytes; a workflow is a page of text.")
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        what = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        raise MedvitError(f"The file {path} {what}.") from None
    lines: Lines = {}
    try:
        node = _Composer(text).get_single_node()
        value = {} if node is None else _plain(node, (), lines, str(path))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise MedvitError(f"{path}:{line}: not readable as YAML: {error.problem}.") from None
    except (yaml.YAMLError, RecursionError):
        raise MedvitError(f"{path}: not readable as YAML.") from None
    if not isinstance(value, dict):
        raise MedvitError(f"{path}:1: a workflow is a mapping of keys to values, not a {type(value).__name__}.")
    return value, lines


def read_value(text: str, where: str) -> Any:
    """One value as it would stand in a file, such as ``0.6`` or ``[a, b]``; ``where`` names it in errors."""
    try:
        node = _Composer(text).get_single_node()
        return None if node is None else _plain(node, (), {}, where)
    except (yaml.YAMLError, RecursionError):
        raise MedvitError(f"{where}: {text!r} is not readable as a YAML value.") from None


class _Composer(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            problem = "aliases (*name) are not allowed; write the value out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        if event.tag:
            problem = f"tags ({event.tag}) are not allowed; write plain values"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        return super().compose_node(parent, index)


def _plain(node: Any, key: Key, lines: Lines, source: str) -> Any:
    lines[key] = node.start_mark.line + 1
    if len(key) > MAX_DEPTH:
        raise MedvitError(f"{source}:{lines[key]}: nested deeper than {MAX_DEPTH} levels.")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*key, index), lines, source) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        try:
            return node.value if node.style else _scalar(node.value)
        except ValueError:
            raise MedvitError(f"{source}:{lines[key]}: the number has too many digits.") from None
    mapping: dict[str, Any] = {}
    for name_node, value_node in node.value:
        name, line = name_node.value, name_node.start_mark.line + 1
        if not isinstance(name, str):
            raise MedvitError(f"{source}:{line}: a key must be a word, not a list or mapping.")
        if name in mapping:
            raise MedvitError(f"{source}:{line}: the key {name!r} stands here a second time.")
        mapping[name] = _plain(value_node, (*key, name), lines, source)
        lines[(*key, name)] = line
    return mapping


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text.replace(".inf", "inf").replace(".nan", "nan")) if _FLOAT.fullmatch(text) else text
