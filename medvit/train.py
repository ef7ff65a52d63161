"""From a workflow to a checkpoint: what it requires is trained first, the best epoch is chosen on validation data."""

import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings
from lightning import LightningDataModule, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from medvit import NOTICE, __version__, weights
from medvit.atomic import locked, whole, write_text
from medvit.data.batch import Batch
from medvit.errors import MedvitError
from medvit.memory import keep_memory
from medvit.plain_yaml import read_yaml
from medvit.tasks.findings import Findings
from medvit.tasks.progress import Lines
from medvit.tasks.system import System
from medvit.tasks.trust import MOST_CASES, PREFIX, learn
from medvit.workflow import Workflow, class_of

log = logging.getLogger(__name__)

LAST, RELEASE, RESOLVED = "last.ckpt", "model.safetensors", "workflow.yaml"
# Between which a system's numbers must lie, where it has them: beyond, optimisers and readers fail in words of their own.
BOUNDS = dict.fromkeys(("base_lr", "lr", "min_lr", "weight_decay", "warmup_epochs"), (0, 1e6)) | {
    "centre_share": (0.01, 1),
    "drop_path": (0, 0.99),
    "layer_decay": (0.01, 1),
    "std": (1e-6, 1e6),
}


def train(workflow: Workflow, resume: str | None = None) -> Path:
    """Train a workflow and what it requires.

    The run folder then holds ``best.ckpt`` and ``last.ckpt``, ``model.safetensors`` (the best weights, to hand on), the
    resolved ``workflow.yaml``, ``metrics.json`` and the logs.

    Args:
        workflow: See `medvit.workflow.open_workflow`.
        resume: ``auto`` continues an unfinished run and leaves a finished one alone; a path continues that checkpoint.

    Returns:
        The best checkpoint.

    Raises:
        MedvitError: When the run folder holds another run, or the data or weights do not fit.
    """
    for required in workflow.requires:
        if finished(required):
            refuse_other(required)
            log.info("%s: already trained in %s", required.path.name, required.run)
        else:
            train(required, "auto")
    with locked(workflow.run):
        return _train(workflow, resume)


def rehearse(workflow: Workflow) -> None:
    """Build everything and read the tables, but train nothing and write nothing; required weights may be missing yet.

    Raises:
        MedvitError: As training would.
    """
    for required in workflow.requires:
        rehearse(required)
    trained = [str(required.best.resolve()) for required in workflow.requires if not finished(required)]
    system = {key: value for key, value in workflow.system.items() if value not in trained}
    built, data, trainer = instantiate(replace(workflow, system=system))
    trainer.strategy.connect(built)  # the data asks it which labels count
    data.trainer = trainer
    data.setup("fit")


def finished(workflow: Workflow) -> bool:
    """Whether the run folder holds a run that came to its end."""
    return (workflow.run / RELEASE).is_file()


def refuse_other(workflow: Workflow) -> None:
    """Refuse a run folder that was trained from other settings, naming the difference."""
    saved = workflow.run / RESOLVED
    if not saved.is_file():
        return
    then, now = flat(read_yaml(saved)[0]), flat(json.loads(json.dumps(workflow.resolved())))
    changed = [f"{key} was {then.get(key)!r} and is {now.get(key)!r}" for key in sorted(then.keys() | now.keys())
               if then.get(key) != now.get(key)]  # fmt: skip
    if changed:
        raise MedvitError(
            f"{workflow.run} holds a run of {workflow.path.name} with other settings: {'; '.join(changed)}. "
            "Choose another folder with -o, or delete that one."
        )


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A tree of mappings as dotted keys."""
    if isinstance(tree, Mapping):
        return {key: value for name, part in tree.items() for key, value in flat(part, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): tree}


def _train(workflow: Workflow, resume: str | None) -> Path:
    checkpoint = _checkpoint_to_resume(workflow, resume)
    if finished(workflow) and checkpoint is None:
        log.info("%s: already trained in %s", workflow.path.name, workflow.run)
        return workflow.best
    keep_memory()
    seed_everything(workflow.seed, workers=True, verbose=False)
    system, data, trainer = instantiate(workflow)
    system.seed = workflow.seed
    data.seed = workflow.seed  # type: ignore[attr-defined]  # data modules of medvit have one
    log.info("training %s into %s (seed %d)", workflow.path.name, workflow.run, workflow.seed)
    write_text(workflow.run / RESOLVED, yaml.safe_dump(workflow.resolved(), sort_keys=False, allow_unicode=True))
    try:
        trainer.fit(system, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    if not workflow.best.is_file():
        raise MedvitError(f"{workflow.path}: no epoch was validated, so there is no best checkpoint in {workflow.run}.")
    refuse_diverged(workflow)
    if trainer.is_global_zero and isinstance(system, Findings):
        settle(workflow.best, system, data)
    trainer.strategy.barrier()
    _report(workflow, trainer)
    weights.release(workflow.best, workflow.run / RELEASE)  # written last: it says that the run is finished
    return workflow.best


def refuse_diverged(workflow: Workflow) -> None:
    """Refuse a best checkpoint that holds numbers which are none: it would answer nothing.

    Raises:
        MedvitError: When every epoch that was validated came after the weights had become no numbers.
    """
    state = weights.read_file(workflow.best)["state_dict"]
    if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
        raise MedvitError(
            f"{workflow.path}: the weights became infinite or no numbers before the first validation. Lower the learning "
            f"rate, lengthen the warm-up, or train with trainer.precision=32; then delete {workflow.run}."
        )


def _checkpoint_to_resume(workflow: Workflow, resume: str | None) -> Path | None:
    """The checkpoint to continue; refuses to write over a run that nobody asked to continue."""
    last = workflow.run / LAST
    if resume not in (None, "auto"):
        if not Path(str(resume)).is_file():
            raise MedvitError(f"The checkpoint {resume} is not there. Give a path, or --resume auto.")
        return _of_this(Path(str(resume)), workflow)
    if resume == "auto":
        if last.is_file() or finished(workflow):
            refuse_other(workflow)
        return _of_this(last, workflow) if last.is_file() and not finished(workflow) else None
    if last.is_file() or finished(workflow):
        raise MedvitError(
            f"{workflow.run} already holds a run. Continue it with --resume auto, choose another folder with -o, or delete it."
        )
    return None


def _of_this(checkpoint: Path, workflow: Workflow) -> Path:
    """A checkpoint, once it has proved to be one of the workflow's system."""
    told, wanted = weights.read_own(checkpoint)[0].get("system"), workflow.system["class"].rpartition(".")[2]
    if told != wanted:
        raise MedvitError(
            f"{checkpoint} is of {told}, and {workflow.path} trains {wanted}, which cannot go on from it."
        )
    return checkpoint


def instantiate(workflow: Workflow) -> tuple[System, LightningDataModule, Trainer]:
    """Build the system, the data and the trainer that a workflow names.

    Raises:
        MedvitError: When an argument that the first check let pass does not fit its type, or a constructor refuses.
    """
    _quiet()
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=sorted(workflow.allowed),
        instantiate_subclass_spec_in_any=False,
    )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(System, "system", required=True)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False)
    wanted = {key: value for key, value in workflow.resolved().items() if key != "seed"}
    wanted["trainer"] = trainer_arguments(workflow)
    try:
        built = parser.instantiate_classes(parser.parse_object(class_paths(wanted)))
    except (ArgumentError, ValueError, TypeError, ImportError, RuntimeError, MisconfigurationException) as error:
        raise MedvitError(f"{workflow.path}: {_reason(error)}") from error
    for name, (least, most) in BOUNDS.items():
        value = built.system.hparams.get(name)
        if isinstance(value, int | float) and not least <= value <= most:
            raise MedvitError(f"{workflow.path}: system.{name} is {value}; it must lie between {least} and {most}.")
    return built.system, built.data, built.trainer


def trainer_arguments(workflow: Workflow) -> dict[str, Any]:
    """The workflow's trainer arguments over our defaults: CSV logs in the run folder, reproducible arithmetic, and the
    checkpoint that is best by the system's own validation measure."""
    monitor, mode = class_of(str(workflow.system["class"])).monitor
    checkpoint = {
        "class": f"{ModelCheckpoint.__module__}.ModelCheckpoint",
        "dirpath": str(workflow.run),
        "enable_version_counter": False,
    }
    best = checkpoint | {"filename": workflow.best.stem, "monitor": monitor, "mode": mode}
    last = checkpoint | {
        "filename": Path(LAST).stem,
        "save_on_train_epoch_end": True,
    }  # `save_last` follows the best only
    lines = [] if _terminal() else [{"class": f"{Lines.__module__}.Lines"}]
    given = workflow.trainer.get("callbacks") or []
    defaults = {
        "default_root_dir": str(workflow.run),
        "logger": {"class": f"{CSVLogger.__module__}.CSVLogger", "save_dir": str(workflow.run), "name": "logs"},
        "deterministic": "warn",
        "num_sanity_val_steps": 0,
        "enable_progress_bar": _terminal(),
        "enable_model_summary": False,
    }
    callbacks = [best, last, *lines, *(given if isinstance(given, list) else [given])]
    return defaults | dict(workflow.trainer) | {"callbacks": callbacks}


def class_paths(tree: Any) -> Any:
    """``{class: X, a: 1}`` as the ``class_path`` and ``init_args`` that jsonargparse instantiates, at every depth."""
    if isinstance(tree, Mapping) and isinstance(tree.get("class"), str):
        arguments = {key: class_paths(value) for key, value in tree.items() if key != "class"}
        return {"class_path": tree["class"], "init_args": arguments}
    if isinstance(tree, Mapping):
        return {key: class_paths(value) for key, value in tree.items()}
    return [class_paths(item) for item in tree] if isinstance(tree, list) else tree


def _reason(error: BaseException) -> str:
    """What a constructor said, on one line: the key and the innermost message, without what the parser wraps around it."""
    key = re.search(r'Parser key "([\w.]+)"', str(error))
    while error.__cause__ and not isinstance(error, MedvitError):
        error = error.__cause__
    said = " ".join(str(error).split()).rstrip(".") + "."
    return f"{key[1]}: {said}" if key else said


def settle(path: Path, system: Findings, data: Any) -> None:
    """Learn from validation and training cases what the best checkpoint's answers are worth, and keep it in that file.

    Args:
        path: The checkpoint; what an earlier end of this training left in it counts for nothing.
        system: Takes its weights.
        data: A data module whose ``answering`` gives a split as a system sees it when it answers.
    """
    content = weights.read_file(path)
    state = {name: value for name, value in content["state_dict"].items() if not name.startswith(PREFIX)}
    weights.fit(system, state, str(path))
    system.eval()
    loaders = {split: data.answering(split) for split in ("train", "val")}
    names = tuple(label.name for label in system.labels)
    device = system.thresholds.device

    def look(batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        moved = batch.to(device)
        return *system.logits_and_features(moved), system.statistics(moved)

    learned = learn(look, names, loaders["train"], loaders["val"], MOST_CASES)
    kept = {PREFIX + name: value for name, value in learned.trust.state_dict().items()}
    content["state_dict"] = {**state, "thresholds": learned.thresholds, **kept}
    content["medvit"] = {**content["medvit"], **learned.card}
    with whole(path) as part:
        torch.save(content, part)
    said = learned.card["calibration"]
    log.info(
        "calibrated on %d validation cases: expected calibration error %.4f, before %.4f",
        said["validation_cases"], said["validation_ece_after"], said["validation_ece_before"],
    )  # fmt: skip


def _report(workflow: Workflow, trainer: Trainer) -> None:
    """Write ``metrics.json``: what was measured on validation data at the chosen epoch, and by what."""
    best = trainer.checkpoint_callback
    if not isinstance(best, ModelCheckpoint):
        raise MedvitError(
            f"{workflow.path}: a callback took the place of the checkpoints; remove it from trainer.callbacks."
        )
    content = weights.read_file(workflow.best)
    report = {
        "workflow": workflow.path.name,
        "selected_by": best.monitor,
        "value": None if best.best_model_score is None else float(best.best_model_score),
        "epoch": content["epoch"] + 1,
        "metrics": content["medvit"].get("metrics", {}),
        "calibration": content["medvit"].get("calibration"),
        "medvit": __version__,
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "notice": NOTICE,
    }
    write_text(workflow.run / "metrics.json", json.dumps(report, indent=2) + "\n")
    log.info(
        "best epoch %d: %s %.4f; weights in %s", report["epoch"], best.monitor, report["value"] or 0, workflow.best
    )


def _terminal() -> bool:
    return sys.stderr.isatty()


def _quiet() -> None:
    """Keep library chatter that no user can act on out of the log."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"lightning|torch")
    warnings.filterwarnings(
        "ignore", message=r".*(num_workers|does not have many workers|log_every_n_steps|treespec).*"
    )
    os.environ.setdefault("TQDM_DYNAMIC_NCOLS", "1")
