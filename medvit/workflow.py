"""From a YAML file to what it asks for: every key checked against the constructors it names, before torch is loaded.

A workflow has the keys ``requires`` (workflows trained first), ``seed``, ``system``, ``data`` and ``trainer``. ``system``
and ``data`` name a ``class`` and its arguments; ``trainer`` takes the arguments of Lightning's Trainer. Paths are relative
to the file; a path that names one of the required workflows stands for the weights that it trains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.errors import MedvitError
from medvit.plain_yaml import Key, read_value, read_yaml
from medvit.signatures import Signature, accepts, classes_in, inherits, nearest, resolve, signature

if TYPE_CHECKING:
    from medvit.tasks.system import System
    from medvit.weights import State

ALLOWED = ("medvit", "lightning", "torch", "monai")
KEYS = ("requires", "seed", "system", "data", "trainer")
TRAINER = "lightning.pytorch.trainer.trainer.Trainer"
HOMES = {  # where a short class name is looked for
    "system": ("medvit.systems",),
    "data": ("medvit.data",),
    "trainer": ("lightning.pytorch.callbacks", "lightning.pytorch.loggers", "medvit.tasks"),
}
BEST = "best.ckpt"
MOST_SEED = 2**32 - 1  # numpy's


@dataclass(frozen=True, slots=True)
class Workflow:
    """A checked workflow. ``system`` and ``data`` keep their ``class`` as a dotted path and absolute paths."""

    path: Path
    run: Path
    seed: int
    system: Mapping[str, Any]
    data: Mapping[str, Any]
    trainer: Mapping[str, Any]
    requires: tuple["Workflow", ...] = ()
    allowed: tuple[str, ...] = ALLOWED  # packages whose classes may be named
    signatures: Mapping[str, Signature] = field(default_factory=dict)

    @property
    def best(self) -> Path:
        """The checkpoint that it trains."""
        return self.run / BEST

    def resolved(self) -> dict[str, Any]:
        """The workflow as plain data, as it is saved beside its checkpoint."""
        return {"seed": self.seed, "system": dict(self.system), "data": dict(self.data), "trainer": dict(self.trainer)}


def open_workflow(
    path: Path | str, overrides: Sequence[str] = (), run: Path | None = None, allow: Sequence[str] = ()
) -> Workflow:
    """Read and check a workflow.

    Args:
        path: The YAML file.
        overrides: ``key=value`` with dotted keys, such as ``system.mask_ratio=0.6``; paths are relative to the working
            directory.
        run: The folder it trains into; ``runs/<name of the file>`` without one.
        allow: Packages beside medvit, lightning, torch and monai whose classes may be named.

    Raises:
        MedvitError: With every problem, one a line.
    """
    path = Path(path)
    return _Check(path, run or Path("runs", path.stem), (*ALLOWED, *allow)).workflow(overrides, ())


class _Check:
    """One file being checked; problems are gathered and raised together."""

    def __init__(self, path: Path, run: Path, allowed: Sequence[str]) -> None:
        self.path, self.run, self.allowed = path, run, tuple(allowed)
        self.content, self.lines = read_yaml(path)
        self.overridden: dict[Key, str] = {}
        self.used: set[Path] = set()  # required workflows whose weights are named; the others need no training
        self.refused: set[Path] = set()  # required workflows with problems of their own
        self.problems: list[tuple[int, str]] = []  # line and sentence
        self.signatures: dict[str, Signature] = {}

    def workflow(self, overrides: Sequence[str], above: tuple[Path, ...]) -> Workflow:
        for override in overrides:
            self.override(override)
        for key in self.content:
            if key not in KEYS:
                self.unknown((key,), key, list(KEYS))
        required = self.required(above)
        seed = self.content.get("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool):
            self.problem(("seed",), f"seed is {seed!r}; it must be int")
        elif not 0 <= seed <= MOST_SEED:
            self.problem(("seed",), f"seed is {seed}; it must lie between 0 and {MOST_SEED}")
        parts = {name: self.part(name) for name in ("system", "data")}
        trainer = self.trainer()
        files = {work.path.resolve(): work for work in required}
        for name, part in parts.items():
            self.resolve_paths(name, part, files)
        if self.problems:
            raise MedvitError("\n".join(sentence for _, sentence in sorted(self.problems)))
        needed = tuple(work for work in required if work.path.resolve() in self.used)
        return Workflow(
            self.path, self.run, seed, parts["system"], parts["data"], trainer, needed, self.allowed, self.signatures
        )

    def where(self, key: Key) -> str:
        """File and line of a key, or the command line."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.overridden:
                return f"command line, {self.overridden[key[:length]]}"
            if key[:length] in self.lines:
                return f"{self.path}:{self.lines[key[:length]]}"
        return str(self.path)

    def line(self, key: Key) -> int:
        """Where a problem is listed: by line, the command line first."""
        return next((self.lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self.lines), 0)

    def problem(self, key: Key, message: str) -> None:
        self.problems.append((self.line(key), f"{self.where(key)}: {message}."))

    def unknown(self, key: Key, name: str, known: list[str]) -> None:
        meant = nearest(name, known)
        prefix = "".join(f"{part}." for part in key[:-1])
        hint = f"Did you mean {prefix}{meant}?" if meant else f"Known here: {', '.join(known)}."
        self.problems.append((self.line(key), f"{self.where(key)}: unknown key {prefix}{name}. {hint}"))

    def override(self, text: str) -> None:
        """Put ``a.b=value`` into the content."""
        dotted, equals, value = text.partition("=")
        if not equals or not all(dotted.split(".")):
            self.problems.append((0, f"command line: {text!r} is no key=value, such as trainer.max_epochs=3."))
            return
        *parents, last = dotted.split(".")
        place = self.content
        for parent in parents:
            if place.get(parent) is None:
                place[parent] = {}
            place = place[parent]
            if not isinstance(place, dict):
                self.problems.append((0, f"command line, {text}: {dotted} lies inside a value that is no mapping."))
                return
        place[last] = read_value(value, f"command line, {text}")
        self.overridden[tuple(dotted.split("."))] = text

    def required(self, above: tuple[Path, ...]) -> list[Workflow]:
        """The required workflows, opened; their problems join ours."""
        names = self.content.get("requires", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self.problem(("requires",), "requires must be a list of workflow files")
            return []
        opened = []
        for index, name in enumerate(names):
            path = self.path.parent / name
            if path.resolve() in (*above, self.path.resolve()):
                self.problem(("requires", index), f"{name} requires itself")
            elif not path.is_file():
                self.problem(("requires", index), f"the workflow {name} is not there")
            else:
                try:
                    check = _Check(path, self.run.parent / path.stem, self.allowed)
                    opened.append(check.workflow((), (*above, self.path.resolve())))
                except MedvitError as error:
                    self.refused.add(path.resolve())
                    self.problems.append((0, str(error)))
        return opened

    def part(self, name: str) -> dict[str, Any]:
        """The ``system`` or ``data`` of the workflow with its dotted class."""
        part = self.content.get(name)
        if not isinstance(part, dict) or not isinstance(part.get("class"), str):
            known = ", ".join(_known(HOMES[name]))
            self.problem((name,), f"{name} must be a mapping that names its class ({known}) and its arguments")
            return {}
        return self.instance((name,), part, HOMES[name])

    def trainer(self) -> dict[str, Any]:
        trainer = self.content.get("trainer") or {}
        if not isinstance(trainer, dict):
            self.problem(("trainer",), "trainer must be a mapping of Lightning Trainer arguments")
            return {}
        found = resolve(TRAINER, ())
        sign = signature(*found) if found else None
        if sign:
            self.arguments(("trainer",), trainer, sign)
        return {key: self.nested(("trainer", key), value) for key, value in trainer.items()}

    def nested(self, key: Key, value: Any) -> Any:
        """Classes named inside arguments at any depth, such as callbacks and loggers; only `instance` lets one pass."""
        if isinstance(value, list):
            return [self.nested((*key, index), item) for index, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if "class_path" in value or "init_args" in value:
            self.problem(
                key, "class_path and init_args are not read here; write class: NAME and its arguments beside it"
            )
            return value
        if isinstance(value.get("class"), str):
            return self.instance(key, value, HOMES["trainer"])
        return {name: self.nested((*key, name), item) for name, item in value.items()}

    def instance(self, key: Key, part: dict[str, Any], homes: tuple[str, ...]) -> dict[str, Any]:
        """A mapping with ``class``: the class looked up, its arguments checked."""
        name = part["class"]
        if "." in name and name.split(".")[0] not in self.allowed:
            self.problem(
                (*key, "class"),
                f"{name} lies outside {', '.join(self.allowed)}; allow its package with --allow-import {name.split('.')[0]}",
            )
            return part
        found = resolve(name, homes) if "." in name or name in _known(homes) else None
        if found is None:
            self.unknown_class((*key, "class"), name, homes)
            return part
        sign = signature(*found)
        if sign is not None:
            self.signatures[".".join(map(str, key))] = sign
            self.arguments(key, {k: v for k, v in part.items() if k != "class"}, sign)
        arguments = {name: self.nested((*key, name), value) for name, value in part.items() if name != "class"}
        return {"class": found[0], **arguments}

    def unknown_class(self, key: Key, name: str, homes: tuple[str, ...]) -> None:
        known = _known(homes)
        meant = nearest(name, known)
        hint = f"did you mean {meant}" if meant else f"known here: {', '.join(known)}"
        self.problem(key, f"there is no class {name}; {hint}")

    def arguments(self, key: Key, given: dict[str, Any], sign: Signature) -> None:
        for name, value in given.items():
            argument = sign.arguments.get(name)
            if argument is None and not sign.open:
                self.unknown((*key, name), name, list(sign.arguments))
            elif argument is not None:
                dotted = ".".join(map(str, (*key, name)))
                if "Callable" in argument.type_text and value is not None:
                    self.problem((*key, name), f"{dotted} takes a function; a workflow holds plain values only")
                elif not accepts(argument.annotation, value):
                    self.problem((*key, name), f"{dotted} is {value!r}; it must be {argument.type_text}")
        for argument in sign.arguments.values():
            if argument.default is None and argument.name not in given:
                self.problem(key, f"{'.'.join(map(str, key))} lacks {argument.name} ({argument.type_text})")

    def resolve_paths(self, name: str, part: dict[str, Any], files: Mapping[Path, Workflow]) -> None:
        """Make paths absolute and see that they are there; a required workflow stands for its weights."""
        sign = self.signatures.get(name)
        for argument in sign.arguments.values() if sign else ():
            value = part.get(argument.name)
            if not argument.is_path or not isinstance(value, str):
                continue
            key = (name, argument.name)
            base = Path() if key in self.overridden else self.path.parent
            path = (base / value).resolve()
            if path.suffix in (".yaml", ".yml"):
                if path in self.refused:
                    continue  # its own problems are listed
                if path not in files:
                    self.problem(key, f"{name}.{argument.name} names the workflow {value}, which requires must list")
                    continue
                self.used.add(path)
                path = files[path].best.resolve()
            elif not path.exists():
                self.problem(key, f"{name}.{argument.name}: {path} is not there")
            part[argument.name] = str(path)


def _known(homes: tuple[str, ...]) -> list[str]:
    """The classes that may be named without their module: of ``medvit.data`` those that make loaders."""
    base = "LightningDataModule" if homes == HOMES["data"] else ""
    return sorted(name for home in homes for name in classes_in(home) if not base or inherits(name, base, home))


def class_of(class_path: str) -> Any:
    """Import a class that `open_workflow` let pass."""
    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module), name)


def load_system(path: Path | str) -> "System":
    """The system of a checkpoint (``.ckpt`` or ``.safetensors``), with its weights, ready to answer.

    Raises:
        MedvitError: When the file is no checkpoint of ours or its weights do not fit.
    """
    from medvit.weights import read_own

    return build_system(*read_own(Path(path)), path)


def build_system(card: Mapping[str, Any], state: "State", path: Path | str) -> "System":
    """The system that a checkpoint's card and tensors describe; ``path`` names it in errors. See `load_system`."""
    from medvit.weights import fit

    name = str(card.get("system"))
    found = None if "." in name else resolve(name, HOMES["system"])  # a checkpoint names no package
    if found is None:
        raise MedvitError(f"{path} is a checkpoint of {card.get('system')!r}, a system that this medvit does not have.")
    arguments = {**card["arguments"], "weights": None}  # the weights are in the checkpoint
    try:
        system: System = class_of(found[0])(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise MedvitError(f"{path}: {name} cannot be built from the arguments in it: {error}.") from error
    system.expect(state)
    fit(system, state, str(path))
    return system.eval()
