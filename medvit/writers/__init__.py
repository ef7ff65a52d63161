"""Results as files. A writer takes a result, its case's folder and who answers, and returns what it wrote."""

from collections.abc import Callable
from pathlib import Path

from medvit.result import Result, Run

Writer = Callable[[Result, Path, Run], list[Path]]
