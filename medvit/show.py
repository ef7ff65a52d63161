"""What a workflow or a checkpoint says, for people and for scripts."""

from pathlib import Path
from typing import Any

from medvit.workflow import Workflow, open_workflow


def workflow(path: Path) -> dict[str, Any]:
    """Every key of a workflow's system and data: its value, where it comes from, its type and meaning; no torch."""
    opened = open_workflow(path)
    parts = {name: _keys(opened, name) for name in ("system", "data")}
    return {
        "workflow": str(path),
        "run": str(opened.run),
        "requires": [str(required.path) for required in opened.requires],
        "seed": opened.seed,
        "system": {"class": opened.system["class"], "keys": parts["system"]},
        "data": {"class": opened.data["class"], "keys": parts["data"]},
        "trainer": dict(opened.trainer),
    }


def _keys(opened: Workflow, name: str) -> list[dict[str, Any]]:
    given = {"system": opened.system, "data": opened.data}[name]
    sign = opened.signatures.get(name)
    return [
        {
            "key": f"{name}.{argument.name}",
            "value": given.get(argument.name, argument.default_text),
            "from": "workflow" if argument.name in given else "default",
            "type": argument.type_text,
            "meaning": argument.text,
        }
        for argument in (sign.arguments.values() if sign else ())
    ]


def checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, its SHA-256 and its size."""
    from medvit.weights import file_digest, read_own

    card, state = read_own(path)
    numbers = sum(tensor.numel() for name, tensor in state.items() if not name.startswith(("thresholds", "trust.")))
    return {"checkpoint": str(path), "sha256": file_digest(path), "parameters": numbers, **card}


def text(told: Any, indent: str = "") -> str:
    """Plain data as lines for a person."""
    if not isinstance(told, dict):
        return f"{indent}{told}"
    lines = []
    for name, value in told.items():
        if name == "keys":
            lines += [
                f"{indent}{one['key']} = {one['value']}  ({one['from']}; {one['type']})  {one['meaning']}"
                for one in value
            ]
        elif isinstance(value, dict) and value:
            lines += [f"{indent}{name}:", text(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return "\n".join(lines)
