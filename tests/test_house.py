"""Rules of the house: what may be imported from where, and what the package never does."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "medvit").rglob("*.py"))
# Installed with an extra, for development or never: the package must import without them.
EXTRAS = (
    "transformers", "sklearn", "pylibjpeg", "openjpeg", "libjpeg", "jpeg_ls", "_CharLS", "imagecodecs", "hypothesis",
    "pytest", "matplotlib", "torchvision", "timm", "data_store", "torchstain",
    "pandas", "scikit-learn", "pylibjpeg-openjpeg", "pyjpegls", "pydicom-data", "playwright",
)  # fmt: skip
IMPORT_ALL = """
import importlib, importlib.machinery, pkgutil, sys

class Core(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in sys.argv[1:] else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, context):  # libraries also ask what is installed
        hidden = str(context.name).lower().replace("_", "-") in sys.argv[1:]
        return iter(()) if hidden else super().find_distributions(context)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Core
import medvit
for module in pkgutil.walk_packages(medvit.__path__, "medvit."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
        print(module.name)
"""
LIGHT = """
import sys
import medvit.case, medvit.codes, medvit.image, medvit.result, medvit.readers.radiograph
import medvit.writers.heat, medvit.writers.table, medvit.atomic, medvit.cli
print(*sorted({"torch", "lightning", "torchmetrics"} & set(sys.modules)))
"""


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_module_imports_with_the_core_dependencies_alone() -> None:
    imported = python(IMPORT_ALL, *EXTRAS).split()
    wanted = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in FILES}
    assert set(imported) == wanted - {"medvit", "medvit.__main__"}


def test_the_edges_load_no_torch() -> None:
    assert python(LIGHT).split() == []


def test_imports_point_down() -> None:
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or shutil.which("lint-imports")
    if command is None:
        pytest.skip("import-linter is not installed")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "words", ["weights_only=False", "pickle.load", "yaml.load(", "allow_pickle=True", "force=True"]
)
def test_no_file_of_the_package_opens_what_could_run_code(words) -> None:
    assert [file.name for file in FILES if words in file.read_text(encoding="utf-8")] == []


def test_no_file_of_the_package_evaluates_text() -> None:
    called = re.compile(r"(?<![\w.])(eval|exec)\(")  # `network.eval()` is something else
    assert [file.name for file in FILES if called.search(file.read_text(encoding="utf-8"))] == []


def test_every_torch_load_says_that_it_loads_weights_only() -> None:
    for file in FILES:
        for call in re.findall(r"torch\.load\([^)]*\)", file.read_text(encoding="utf-8")):
            assert "weights_only=True" in call, file


def test_no_data_set_is_printed_or_walked() -> None:
    """Nested sequences of a small file would fill the memory when they are."""
    walked = re.compile(r"\.walk\(|remove_private_tags\(|print\(dataset|\{dataset[}!:]|str\(dataset\)|repr\(dataset\)")
    assert [file.name for file in FILES if walked.search(file.read_text(encoding="utf-8"))] == []
