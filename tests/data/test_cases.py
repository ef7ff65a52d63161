"""Labelled cases as batches: the same for any number of workers, and honest about what cannot be learned."""

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from medvit.case import Case
from medvit.codes import labels_of
from medvit.data.batch import Batch, Sample
from medvit.data.cases import Cases, SeededOrder, check_positives, collate
from medvit.data.inputs import centre_view, film_sample, targets
from medvit.errors import MedvitError, Rejected
from medvit.image import Image
from medvit.systems.thorax_mae import ThoraxMAE


@pytest.fixture(scope="module")
def system() -> ThoraxMAE:
    return ThoraxMAE(labels=["Mass", "Nodule"], image_size=32, patch=16, width=16, depth=1, heads=2)


@pytest.fixture
def films(tmp_path) -> Path:
    """A table of ten training and four validation pictures."""
    rng = np.random.default_rng(0)
    lines = ["path,patient_id,split,Mass,Nodule"]
    for number in range(14):
        Pillow.fromarray(rng.integers(0, 256, (40, 50)).astype(np.uint8)).save(tmp_path / f"{number:02}.png")
        unknown = "" if number == 3 else str(number % 3 // 2)
        lines.append(f"{number:02}.png,P{number},{'train' if number < 10 else 'val'},{number % 2},{unknown}")
    (tmp_path / "cases.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "cases.csv"


def attached(system: ThoraxMAE, table: Path, **arguments) -> Cases:
    """The data module as a trainer sees it, set up."""
    data = Cases(table, **{"batch_size": 4, **arguments})
    data.trainer = SimpleNamespace(lightning_module=system)
    data.setup()
    return data


def drawn(data: Cases, epoch: int = 0, seed: int | None = None) -> list[Batch]:
    loader = data.train_dataloader()
    loader.sampler.seed = data.seed if seed is None else seed
    loader.sampler.set_epoch(epoch)
    return list(loader)


def same(first: list[Batch], second: list[Batch]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(a.cases == b.cases and a.x.equal(b.x) and torch.equal(a.y.nan_to_num(-1), b.y.nan_to_num(-1))
               for a, b in pairs)  # fmt: skip


def test_an_order_repeats_within_an_epoch_and_changes_with_epoch_and_seed() -> None:
    order = SeededOrder(50, seed=1, shuffle=True)
    first = list(order)
    assert list(order) == first
    assert sorted(index for index, _ in first) == list(range(50))
    assert [index for index, _ in first] != list(range(50))
    assert len({seed for _, seed in first}) == 50
    order.set_epoch(1)
    other = list(order)
    assert [index for index, _ in other] != [index for index, _ in first]
    assert not {seed for _, seed in other} & {seed for _, seed in first}
    assert list(SeededOrder(50, seed=2, shuffle=True)) != first
    order.set_epoch(0)
    assert list(order) == first  # a resumed run repeats it
    assert len(order) == 50


def test_without_shuffling_the_table_keeps_its_order() -> None:
    assert [index for index, _ in SeededOrder(9, seed=1, shuffle=False)] == list(range(9))


def test_batches_do_not_depend_on_workers_or_the_cache(system, films) -> None:
    options = {"crop_min": 0.3, "randaugment": 6.0}
    alone = drawn(attached(system, films, workers=0, **options))
    assert same(alone, drawn(attached(system, films, workers=2, **options)))
    cached = attached(system, films, cache=True, **options)
    loader = cached.train_dataloader()
    assert same(alone, list(loader))
    assert same(alone, list(loader))  # now from the cache


def test_epochs_and_seeds_give_other_batches_and_repeat(system, films) -> None:
    data = attached(system, films)
    assert same(drawn(data, epoch=1), drawn(data, epoch=1))
    assert not same(drawn(data, epoch=0), drawn(data, epoch=1))
    assert not same(drawn(data, seed=0), drawn(data, seed=1))


def test_training_drops_a_short_last_batch_and_validation_does_not(system, films) -> None:
    data = attached(system, films, batch_size=3)
    assert [len(batch) for batch in data.train_dataloader()] == [3, 3, 3]
    assert [len(batch) for batch in data.val_dataloader()] == [3, 1]
    few = attached(system, films, batch_size=64)
    assert [len(batch) for batch in few.train_dataloader()] == [10]  # else there would be nothing to train on


def test_validation_sees_what_an_answer_would(system, films) -> None:
    data = attached(system, films)
    (batch,) = data.val_dataloader()
    assert batch.cases == data.splits["val"]
    for index, case in enumerate(batch.cases):
        assert batch.x[index].equal(system.preprocess(case).x)
    assert batch.x.shape == (4, 1, 32, 32)
    assert batch.y.dtype == torch.float32


def test_unknown_labels_become_nan(system, films) -> None:
    data = attached(system, films)
    unknown = next(case for case in data.splits["train"] if case.files[0].name == "03.png")
    values = targets(unknown, system.labels)
    assert values[0] == 1
    assert values[1].isnan()
    seen = torch.cat([batch.y for batch in attached(system, films, batch_size=10).train_dataloader()])
    assert seen.isnan().sum() == 1


def test_an_unreadable_film_is_left_out_with_a_warning_and_training_goes_on(system, films, caplog) -> None:
    (films.parent / "05.png").write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING):
        batches = list(attached(system, films, batch_size=5).train_dataloader())
    assert sorted(len(batch) for batch in batches) == [4, 5]
    assert not any("05.png" in str(case.files[0]) for batch in batches for case in batch.cases)
    (record,) = [record for record in caplog.records if "left out" in record.getMessage()]
    assert "05.png" in record.getMessage()
    assert "cannot be decoded" in record.getMessage()


def test_a_batch_of_which_nothing_can_be_read_is_an_error() -> None:
    with pytest.raises(MedvitError, match="None of 2 cases of a batch could be read; the first: It is cut"):
        collate([Rejected("truncated", "It is cut."), Rejected("no_pixels", "It is empty.")])


def test_a_data_module_without_a_trainer_says_so(films) -> None:
    with pytest.raises(MedvitError, match="attach both to a Trainer"):
        Cases(films).setup()


def test_a_table_without_validation_cases_is_refused(system, films) -> None:
    films.write_text("\n".join(line for line in films.read_text().splitlines() if ",val," not in line) + "\n")
    with pytest.raises(MedvitError, match="no cases in split val"):
        attached(system, films)


def cases(*labels: dict[str, float]) -> list[Case]:
    return [Case(str(index), "", (), labels=given) for index, given in enumerate(labels)]


def test_a_finding_without_a_positive_training_case_is_refused() -> None:
    splits = {"train": cases({"A": 1, "B": 0}, {"A": 0}), "val": cases({"A": 1, "B": 1}, {"A": 0, "B": 0})}
    with pytest.raises(MedvitError, match="no positive case of B in split train"):
        check_positives(Path("t.csv"), splits, ["A", "B"])


def test_a_validation_split_that_cannot_select_is_refused() -> None:
    splits = {"train": cases({"A": 1, "B": 1}), "val": cases({"A": 1, "B": 0}, {"A": 1})}
    with pytest.raises(MedvitError, match="no finding with both a positive and a negative case in split val"):
        check_positives(Path("t.csv"), splits, ["A", "B"])


def test_a_finding_with_one_class_in_validation_is_only_named(caplog) -> None:
    splits = {"train": cases({"A": 1, "B": 1}), "val": cases({"A": 1, "B": 0}, {"A": 0})}
    with caplog.at_level(logging.WARNING):
        check_positives(Path("t.csv"), splits, ["A", "B"])
    assert "left out of the validation mean, with one class only in split val: B" in caplog.text
    caplog.clear()
    check_positives(Path("t.csv"), splits, ["A"])
    check_positives(Path("t.csv"), splits, [])  # pre-training has no labels
    assert not caplog.records


def test_a_sample_is_normalised_and_keeps_its_way_back() -> None:
    film = np.linspace(0, 1, 64 * 80, dtype=np.float32).reshape(1, 64, 80)
    image, labels = Image(film, origin={"voi": "x"}), labels_of(["Mass"])
    sample = film_sample(image, Case("u", "DX", ()), centre_view(1.0), size=64, mean=0.5, std=0.25, labels=labels)
    assert isinstance(sample, Sample)
    np.testing.assert_allclose(sample.x.numpy(), (film[:, :, 8:72] - 0.5) / 0.25, atol=1e-6)
    assert sample.fit.box == (0, 8, 64, 72)
    assert sample.origin == {"voi": "x"}


def test_a_batch_moves_its_tensors_and_keeps_the_rest() -> None:
    sample = Sample(torch.zeros(1, 4, 4), torch.tensor([1.0, float("nan")]), Case("u", "", ()), None, {"a": "b"})
    batch = Batch([sample, sample])
    moved = batch.to(torch.float64)
    assert moved is batch
    assert (batch.x.dtype, batch.y.shape, len(batch)) == (torch.float64, (2, 2), 2)
    assert batch.cases[0] is sample.case
    assert batch.origins == [{"a": "b"}] * 2
