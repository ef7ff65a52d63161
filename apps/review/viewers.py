"""The parts of the page that Streamlit does not have: worklist, findings, film, slide, clip and volume viewers."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import streamlit as st

FILES = Path(__file__).parent / "components"
MORE = {"volume": ("brush.js",)}  # scripts that a component's own one needs
NAMES = ("worklist", "findings", "film", "slide", "clip", "volume")


@lru_cache(maxsize=8)
def _viewer(name: str) -> Any:
    """A component by name; its scripts are ours and hold nothing of anybody's data."""
    scripts = ("shared.js", *MORE.get(name, ()), f"{name}.js")
    script, style = (
        "\n".join((FILES / file).read_text(encoding="utf-8") for file in files) for files in (scripts, ("style.css",))
    )
    return st.components.v2.component(f"medvit_{name}", html="<div data-root></div>", css=style, js=script)


def viewer(name: str, key: str, data: dict[str, Any], **on: Any) -> Any:
    """Show a component; with the same key it stays in place when its data changes."""
    return _viewer(name)(key=key, data=data, **on)
