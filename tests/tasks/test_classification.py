"""The classification task: known labels only, thresholds from validation, heat for what is positive."""

import math

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F

from medvit.case import Case
from medvit.data.batch import Batch, Sample
from medvit.image import Fit
from medvit.systems.thorax_mae import ThoraxMAE
from medvit.tasks.classification import EXPLAIN_CHUNK
from medvit.tasks.findings import known_bce

NET = {key: value for key, value in tiny.NET.items() if key != "centre_share"}


def system(**changes):
    torch.manual_seed(0)
    return ThoraxMAE(list(tiny.LABELS), **NET, **changes)


def batch(count, y=None):
    rng = torch.Generator().manual_seed(1)
    fit = Fit((tiny.SIDE, tiny.SIDE), (0.0, 0.0, float(tiny.SIDE), float(tiny.SIDE)), (32, 32))
    y = torch.full((count, 2), math.nan) if y is None else y
    xs = torch.randn(count, 1, 32, 32, generator=rng)
    return Batch(
        [Sample(x, row, Case(str(n), "DX", ()), fit, {}) for n, (x, row) in enumerate(zip(xs, y, strict=True))]
    )


def test_the_loss_is_the_mean_over_known_labels():
    logits = torch.tensor([[0.5, -1.0], [2.0, 0.0]])
    y = torch.tensor([[1.0, math.nan], [0.0, 1.0]])
    known = torch.tensor([0.5, 2.0, 0.0]), torch.tensor([1.0, 0.0, 1.0])
    assert known_bce(logits, y).item() == pytest.approx(F.binary_cross_entropy_with_logits(*known).item())


def test_an_unknown_label_gives_no_gradient_and_no_label_at_all_a_loss_of_zero():
    logits = torch.zeros(2, 2, requires_grad=True)
    known_bce(logits, torch.tensor([[1.0, math.nan], [math.nan, 0.0]])).backward()
    assert (logits.grad != 0).tolist() == [[True, False], [False, True]]
    loss = known_bce(logits, torch.full((2, 2), math.nan))
    assert loss.item() == 0 and loss.requires_grad


def validated(model, probability, y, monkeypatch):
    logged = {}
    monkeypatch.setattr(model, "log", lambda name, value, **_: logged.update({name: float(value)}))
    half = len(y) // 2
    model._validated = [(probability[:half], y[:half]), (probability[half:], y[half:])]
    model.on_validation_epoch_end()
    return logged


def test_thresholds_and_areas_come_from_the_whole_validation_split(monkeypatch):
    model = system()
    probability = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.3], [0.2, 0.6], [0.1, 0.7], [0.05, 0.8]])
    y = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0], [0.0, 1.0], [math.nan, 1.0]])
    logged = validated(model, probability, y, monkeypatch)
    assert logged["val/auroc/Mass"] == 1.0
    assert logged["val/auroc/Effusion"] == pytest.approx(7 / 8)
    assert logged["val/auroc"] == pytest.approx(15 / 16)
    assert model.thresholds.tolist() == pytest.approx([0.55, 0.45])
    assert not model._validated


def test_a_label_with_one_class_only_is_left_out_of_the_mean_and_keeps_one_half(monkeypatch):
    model = system()
    probability = torch.tensor([[0.9, 0.1], [0.2, 0.2], [0.1, 0.3], [0.8, 0.4]])
    y = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, math.nan]])
    logged = validated(model, probability, y, monkeypatch)
    assert logged["val/auroc"] == 1.0 and math.isnan(logged["val/auroc/Effusion"])
    assert model.thresholds.tolist() == pytest.approx([0.5, 0.5])


def test_heat_maps_are_made_for_positive_findings_only_and_in_any_number():
    model = system().eval()
    cases = batch(EXPLAIN_CHUNK + 3)
    with torch.no_grad():
        probability = model(model.inputs(cases)).sigmoid()
    model.thresholds.copy_(torch.tensor([0.0, 2.0]))  # every Mass, no Effusion
    with torch.no_grad():
        results = model.predict_step(cases)
    assert [result.case for result in results] == cases.cases
    for result, row in zip(results, probability.tolist(), strict=True):
        assert [finding.probability for finding in result.findings] == pytest.approx(row, abs=1e-6)
        assert [finding.positive for finding in result.findings] == [True, False]
        assert [heat.label.name for heat in result.heatmaps] == ["Mass"]
        assert result.heatmaps[0].values.shape == (4, 4)
        assert np.isfinite(result.heatmaps[0].values).all() and result.heatmaps[0].values.min() >= 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_heat_map_is_that_of_its_own_case():
    model = system().eval()
    torch.nn.init.normal_(model.net.head.weight)  # a fresh head is nearly zero
    model.thresholds.zero_()
    cases = batch(EXPLAIN_CHUNK + 3)
    with torch.no_grad():
        together = model.predict_step(cases)
        for index in (0, EXPLAIN_CHUNK, EXPLAIN_CHUNK + 2):
            alone = batch(EXPLAIN_CHUNK + 3)
            alone.x, alone.cases = alone.x[index : index + 1], alone.cases[index : index + 1]
            alone.fits, alone.origins = alone.fits[:1], alone.origins[:1]
            (answer,) = model.predict_step(alone)
            for one, other in zip(answer.heatmaps, together[index].heatmaps, strict=True):
                assert one.label == other.label
                np.testing.assert_allclose(one.values, other.values, atol=1e-6)


def test_half_precision_gives_logits_in_full():
    model = system().eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(model.inputs(batch(2))).dtype == torch.float32


def test_a_handful_of_cases_is_learned():
    model = system(drop_path=0.0)
    y = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, math.nan]])
    cases = batch(4, y)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = None
    for _ in range(80):
        loss = known_bce(model(model.inputs(cases)), cases.y)
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * first
