"""What the run found against what readers decided."""

from typing import TYPE_CHECKING

import streamlit as st

if TYPE_CHECKING:
    from apps.review.shell import Visit


def show(visit: "Visit") -> None:
    """The page."""
    st.write("…")
