"""What a class accepts, read from its source without importing it.

A workflow's keys are the arguments of constructors. Reading them from the syntax tree answers a mistyped key in a
fraction of a second, before torch is loaded, and runs no code of the package that is named.
"""

import ast
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NUMBER = (int, float)


@dataclass(frozen=True, slots=True)
class Argument:
    """One constructor argument: its annotation and default as source (None: it has none), and its line of the docstring."""

    name: str
    annotation: ast.expr | None
    default: ast.expr | None
    text: str
    default_text: str | None = None

    @property
    def type_text(self) -> str:
        """The annotation as a person reads it."""
        return ast.unparse(self.annotation) if self.annotation else "anything"

    @property
    def is_path(self) -> bool:
        """Whether the value names a file or folder that must exist."""
        return bool(self.annotation) and "Path" in re.findall(r"\w+", self.type_text)


@dataclass(frozen=True, slots=True)
class Signature:
    """A class's dotted name and its constructor's arguments; ``open`` when it takes any keyword."""

    class_path: str
    arguments: dict[str, Argument]
    open: bool

    def nearest(self, name: str) -> str | None:
        """The argument that a mistyped name probably meant."""
        return nearest(name, list(self.arguments))


def nearest(name: str, known: list[str]) -> str | None:
    """The known name that a mistyped one probably meant."""
    close = get_close_matches(name, known, 1, cutoff=0.6)
    return close[0] if close else None


@cache
def package_folder(package: str) -> Path | None:
    """The folder of a dotted package, found without importing more than its installed top level."""
    top, *rest = package.split(".")
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)), *rest)
    return folder if folder.is_dir() else None


@cache
def classes_in(package: str) -> dict[str, Path]:
    """Public class names in the files directly under a package, and the file of each."""
    folder = package_folder(package)
    found: dict[str, Path] = {}
    for file in sorted(folder.glob("*.py")) if folder else []:
        for name in re.findall(r"^class ([A-Za-z]\w*)", file.read_text(encoding="utf-8"), re.MULTILINE):
            found.setdefault(name, file)
    return found


def resolve(name: str, packages: tuple[str, ...]) -> tuple[str, Path] | None:
    """The dotted path and file of a short class name in one of the packages, or of a dotted path; None if unknown."""
    if "." not in name:
        for package in packages:
            file = classes_in(package).get(name)
            if file:
                return f"{package}.{file.stem}.{name}", file
        return None
    module, _, short = name.rpartition(".")
    parent, _, stem = module.rpartition(".")
    folder = package_folder(parent) if parent else None
    if folder and (folder / f"{stem}.py").is_file():
        return name, folder / f"{stem}.py"
    file = classes_in(module).get(short)  # re-exported by its package
    return (name, file) if file else None


def signature(class_path: str, file: Path) -> Signature | None:
    """The constructor of a class in a source file, its own or inherited within that file; None where it is not there."""
    tree = _tree(file)
    short = class_path.rpartition(".")[2]
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    while short in classes:
        node = classes[short]
        for part in node.body:
            if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                docs = f"{ast.get_docstring(node) or ''}\n{ast.get_docstring(part) or ''}"
                return Signature(class_path, _arguments(part.args, docs, _constants(tree)), part.args.kwarg is not None)
        short = next((base.id for base in node.bases if isinstance(base, ast.Name)), "")
    return None


def inherits(name: str, base: str, package: str) -> bool:
    """Whether a class of a package has a base of that name, itself or through classes of the same package."""
    file = classes_in(package).get(name)
    nodes = [node for node in _tree(file).body if isinstance(node, ast.ClassDef) and node.name == name] if file else []
    bases = [one.id for node in nodes for one in node.bases if isinstance(one, ast.Name)]
    return base in bases or any(inherits(one, base, package) for one in bases)


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _arguments(args: ast.arguments, docs: str, constants: dict[str, ast.expr]) -> dict[str, Argument]:
    positional = [*args.posonlyargs, *args.args][1:]  # without self
    defaults = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    pairs = [*zip(positional, defaults, strict=True), *zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    return {
        arg.arg: Argument(arg.arg, arg.annotation, default, _described(arg.arg, docs), _said(default, constants))
        for arg, default in pairs
    }


def _said(default: ast.expr | None, constants: dict[str, ast.expr]) -> str | None:
    """A default as a person reads it: named constants of the file by their value."""
    if default is None:
        return None
    known = isinstance(default, ast.Name) and default.id in constants
    return ast.unparse(constants[default.id] if known else default)  # type: ignore[attr-defined]


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """The constants that a file assigns at its top, singly or in pairs."""
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Name):
                found[target.id] = value
            elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = zip(target.elts, value.elts, strict=True)
                found |= {name.id: one for name, one in pairs if isinstance(name, ast.Name)}
    return found


def _described(name: str, docs: str) -> str:
    """The text of an argument in a Google-style docstring, on one line."""
    match = re.search(rf"^\s*{name}(?: \(.*?\))?: (.+(?:\n {{8,}}\S.*)*)", docs, re.MULTILINE)
    return " ".join(match[1].split()) if match else ""


def accepts(annotation: ast.expr | None, value: Any) -> bool:
    """Whether a YAML value fits an annotation; annotations beyond plain types are believed to fit."""
    match annotation:
        case None:
            return True
        case ast.Constant(value=None):
            return value is None
        case ast.Constant(value=str(text)):
            return accepts(ast.parse(text, mode="eval").body, value)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return accepts(left, value) or accepts(right, value)
        case ast.Name(id=name):
            return _accepts_name(name, value)
        case ast.Subscript(value=ast.Name(id=name), slice=inner):
            return _accepts_generic(name, inner, value)
    return True


def _accepts_name(name: str, value: Any) -> bool:
    match name:
        case "bool":
            return isinstance(value, bool)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float":
            return isinstance(value, NUMBER) and not isinstance(value, bool)
        case "str" | "Path" | "_PATH":
            return isinstance(value, str)
    return True


def _accepts_generic(name: str, inner: ast.expr, value: Any) -> bool:
    options = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    match name:
        case "Literal":
            return value in [option.value for option in options if isinstance(option, ast.Constant)]
        case "Union":
            return any(accepts(option, value) for option in options)
        case "Optional":
            return value is None or accepts(inner, value)
        case "list" | "Sequence" | "List":
            return isinstance(value, list) and all(accepts(inner, item) for item in value)
    return True
