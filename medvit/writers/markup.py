"""Pieces of the HTML pages: text that is safe to show, sections, tables."""

import unicodedata
from collections.abc import Iterable, Sequence
from html import escape

from medvit.writers.table import FORMULA

LONGEST = 300  # characters of a text that is shown
UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # Unicode categories that steer the reader instead of being read


def shown(value: object) -> str:
    """A text as HTML that keeps its own direction of writing."""
    return f"<bdi>{plain(value)}</bdi>"


def plain(value: object) -> str:
    """A text escaped, of bounded length, what would steer the reader spelt out, harmless when pasted into a spreadsheet."""
    text = str(value)
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    text = "".join(f"\\u{ord(c):04x}" if unicodedata.category(c) in UNSEEN else c for c in text)
    return escape(f"'{text}" if text.startswith(FORMULA) else text)


def section(name: str, title: str, content: str) -> str:
    """A part of a page under a title."""
    return f'<section id="{name}"><h2>{title}</h2>{content}</section>'


def table(columns: Sequence[str], rows: Iterable[str]) -> str:
    """A table; a column whose name ends in # holds numbers."""
    head = "".join(
        f'<th scope="col"{" class=n" if name.endswith("#") else ""}>{name.removesuffix("#")}</th>' for name in columns
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
