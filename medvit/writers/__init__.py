"""Results as files. A writer takes a result and its case's folder and returns what it wrote."""

from collections.abc import Callable
from pathlib import Path

from medvit.result import Result

Writer = Callable[[Result, Path], list[Path]]
