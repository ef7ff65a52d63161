"""medvit: published medical-imaging systems around self-supervised Vision Transformers. Research use only."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medvit.case import Case
    from medvit.discover import find_cases
    from medvit.errors import MedvitError
    from medvit.result import Finding, Heatmap, Region, Result

__version__ = "0.1.0"
__all__ = ["Case", "Finding", "Heatmap", "MedvitError", "Region", "Result", "find_cases"]

NOTICE = "Research use only. Not a medical device; not for diagnosis."

_HOME = {"Case": "case", "find_cases": "discover", "MedvitError": "errors"}


def __getattr__(name: str) -> Any:
    # Public names are imported on first use, so that `medvit --help` need not load numpy or pydicom.
    if name not in __all__:
        raise AttributeError(f"module 'medvit' has no attribute {name!r}")
    return getattr(import_module(f"medvit.{_HOME.get(name, 'result')}"), name)
