"""Measures, their intervals, operating points and comparisons, against scikit-learn and plain counting."""

import math

import numpy as np
import pytest

from medvit.evaluate.bootstrap import absolute_sum, draws, interval, numbered
from medvit.evaluate.delong import delong
from medvit.evaluate.measures import BINS, Label, difference, with_intervals
from medvit.evaluate.points import points

sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed: pip install medvit[bench]")
NAN = math.nan


def random_cases(seed: int, n: int = 120, ties: bool = False, unknown: float = 0.0):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(float)
    p = 1 / (1 + np.exp(-(rng.normal(size=n) + y - 0.5)))
    y[rng.random(n) < unknown] = NAN
    return (p.round(1) if ties else p), y


def by_sklearn(p, y, w, threshold):
    """The measures of cases with whole-number weights, each case repeated."""
    known = ~np.isnan(y)
    p, y = np.repeat(p[known], w[known]), np.repeat(y[known], w[known]).astype(int)
    said = (p >= threshold).astype(int)
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    gaps = [abs(p[bins == b].mean() - y[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    return {
        "auroc": sklearn.roc_auc_score(y, p), "auprc": sklearn.average_precision_score(y, p),
        "brier": sklearn.brier_score_loss(y, p), "ece": sum(gaps),
        "sensitivity@here": sklearn.recall_score(y, said), "specificity@here": sklearn.recall_score(1 - y, 1 - said),
        "balanced_accuracy@here": sklearn.balanced_accuracy_score(y, said),
        "ppv@here": sklearn.precision_score(y, said), "npv@here": sklearn.precision_score(1 - y, 1 - said),
    }  # fmt: skip


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("unknown", [0.0, 0.3])
def test_every_measure_of_every_draw_is_that_of_scikit_learn(ties, unknown) -> None:
    for seed in range(4):
        p, y = random_cases(seed, ties=ties, unknown=unknown)
        label = Label(p, y, {"here": 0.5})
        (weights,) = draws(numbered([f"p{i // 2}" for i in range(len(p))]), 5, seed)
        weights = np.concatenate([np.ones((len(p), 1), np.float32), weights], axis=1)
        ours = label.measures(weights)
        for b in range(6):
            theirs = by_sklearn(p, y, weights[:, b].astype(int), 0.5)
            assert {name: values[b] for name, values in ours.items()} == pytest.approx(theirs, abs=1e-6)


def test_what_a_class_that_is_absent_leaves_undefined_is_nan_and_the_rest_is_not() -> None:
    p = np.array([0.2, 0.7, 0.9])
    told = Label(p, np.zeros(3), {"here": 0.5}).measures(np.ones((3, 1), np.float32))
    undefined = {name for name, values in told.items() if math.isnan(values[0])}
    assert undefined == {"auroc", "auprc", "sensitivity@here", "balanced_accuracy@here"}
    assert told["specificity@here"][0] == pytest.approx(1 / 3) and told["ppv@here"][0] == 0


def test_unknown_truth_and_cases_without_an_answer_do_not_count() -> None:
    p, y = random_cases(1)
    more_p, more_y = np.append(p, [0.9, NAN]), np.append(y, [NAN, 1.0])
    alone, among = (Label(*one).measures(np.ones((len(one[0]), 1), np.float32)) for one in ((p, y), (more_p, more_y)))
    assert {name: value[0] for name, value in among.items()} == {name: value[0] for name, value in alone.items()}


def test_a_label_that_is_known_nowhere_has_no_measure() -> None:
    told = with_intervals(np.full((3, 1), 0.5), np.full((3, 1), NAN), ["a"], {"a": {"here": 0.5}}, ["", "", ""], 10)
    assert all(math.isnan(one.value) and math.isnan(one.low) for one in told["a"].values())
    assert math.isnan(told["mean"]["auroc"].value)


def test_the_mean_leaves_out_labels_that_are_not_defined() -> None:
    p, y = random_cases(2)
    two = np.stack([p, p], axis=1), np.stack([y, np.zeros_like(y)], axis=1)
    told = with_intervals(*two, ["a", "b"], {}, [""] * len(p), 50)
    assert told["mean"]["auroc"] == told["a"]["auroc"]


def test_draws_are_of_patients_and_repeat_with_their_seed() -> None:
    patients = numbered(["a", "b", "a", "", "", "b"])
    assert len(set(patients)) == 4 and patients[0] == patients[2] and patients[3] != patients[4]
    (first,), (again,) = draws(patients, 30, 3), draws(patients, 30, 3)
    assert (first == again).all() and (first[0] == first[2]).all() and (first[1] == first[5]).all()
    drawn_patients = first[[0, 1, 3, 4]].sum(axis=0)
    assert (drawn_patients == 4).all()


def test_patients_with_many_alike_cases_widen_the_interval() -> None:
    p, y = random_cases(5, n=40)
    one = with_intervals(p[:, None], y[:, None], ["a"], {}, [f"p{i}" for i in range(40)])["a"]["auroc"]
    often, truth, who = np.repeat(p, 9), np.repeat(y, 9), [f"p{i}" for i in range(40) for _ in range(9)]
    grouped = with_intervals(often[:, None], truth[:, None], ["a"], {}, who)["a"]["auroc"]
    naive = with_intervals(often[:, None], truth[:, None], ["a"], {}, [""] * 360)["a"]["auroc"]
    assert grouped.value == pytest.approx(one.value) and naive.value == pytest.approx(one.value)
    assert grouped.high - grouped.low == pytest.approx(one.high - one.low, rel=0.15)
    assert naive.high - naive.low < 0.5 * (one.high - one.low)


def test_an_interval_leaves_draws_out_in_which_nothing_is_defined() -> None:
    told = interval(0.5, np.array([NAN, *np.linspace(0, 1, 1001)]))
    assert told == pytest.approx((0.5, 0.025, 0.975))
    assert all(map(math.isnan, interval(NAN, np.ones(3))))


def test_the_interval_of_the_calibration_error_holds_no_error_where_there_is_none() -> None:
    held, plain = 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        p = rng.beta(1, 3, 200)
        y = (rng.random(200) < p).astype(float)
        told = with_intervals(p[:, None], y[:, None], ["a"], {}, [""] * 200, 200)
        label = Label(p, y)
        drawn = np.concatenate([label.measures(w)["ece"] for w in draws(numbered([""] * 200), 200)])
        held += told["a"]["ece"].low == 0
        plain += np.quantile(drawn, 0.025) <= 0
        assert told["mean"]["ece"] == told["a"]["ece"]
    assert held >= 36 and plain == 0


def test_the_interval_of_a_sum_of_absolute_values_holds_a_truth_far_from_nought_like_a_plain_one() -> None:
    rng = np.random.default_rng(0)
    parts = np.array([0.3, -0.2])
    chance = rng.normal(0, 0.01, (2, 4000))
    told = absolute_sum(parts, parts[:, None] + chance, 0.95)
    assert told.value == 0.5
    assert (told.low, told.high) == pytest.approx((0.5 - 1.96 * 0.01414, 0.5 + 1.96 * 0.01414), abs=2e-3)
    near = absolute_sum(np.array([0.005, -0.003]), np.array([[0.005], [-0.003]]) + chance)
    assert near.low == 0 and near.high < 0.04
    assert all(map(math.isnan, absolute_sum(parts, np.full((2, 5), NAN))[1:]))


def test_the_difference_of_two_answers_is_drawn_together() -> None:
    p, y = random_cases(7, n=200)
    worse = np.where(np.arange(200) % 3, p, 1 - p)
    told = difference(p, worse, y, [""] * 200)
    area = sklearn.roc_auc_score
    assert told.value == pytest.approx(area(y, p) - area(y, worse)) and 0 < told.low < told.value < told.high
    assert difference(p, p, y, [""] * 200) == (0, 0, 0)


def test_delong_agrees_with_its_definition_by_pairs() -> None:
    p, y = random_cases(3, n=60, ties=True, unknown=0.1)
    q, _ = random_cases(4, n=60, ties=True)
    known = ~np.isnan(y)
    parts = []
    for each in (p[known], q[known]):
        high, low = each[y[known] == 1], each[y[known] == 0]
        parts.append((high[:, None] > low) + 0.5 * (high[:, None] == low))
    wins, losses = ([part.mean(axis=axis) for part in parts] for axis in (1, 0))
    cov = np.cov(wins) / len(wins[0]) + np.cov(losses) / len(losses[0])
    deviation = math.sqrt(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])
    told = delong(p, q, y)
    assert told.first == pytest.approx(sklearn.roc_auc_score(y[known], p[known]))
    gap = told.first - told.second
    assert (told.high - gap) / 1.959964 == pytest.approx(deviation, rel=1e-5)
    assert told.p == pytest.approx(math.erfc(abs(gap) / deviation / math.sqrt(2)))


def test_delong_of_degenerate_answers() -> None:
    p, y = random_cases(1)
    assert delong(p, p, y)[2:] == (0, 0, 1)
    assert all(map(math.isnan, delong(p, p, np.zeros_like(y))))


@pytest.mark.parametrize("seed", range(6))
def test_operating_points_keep_what_they_promise_on_the_cases_they_were_chosen_on(seed) -> None:
    p, y = random_cases(seed, ties=seed % 2 == 0)
    chosen = points(p, y)
    false, true, _ = sklearn.roc_curve(y, p, drop_intermediate=False)
    told = {name: ((p[y == 1] >= t).mean(), (p[y == 0] < t).mean()) for name, t in chosen.items()}
    assert sum(told["youden"]) == pytest.approx(1 + (true - false).max())
    assert told["sensitivity 0.9"][0] >= 0.9
    assert told["sensitivity 0.9"][1] == pytest.approx(1 - false[true >= 0.9].min())
    assert told["specificity 0.9"][1] >= 0.9
    assert told["specificity 0.9"][0] == pytest.approx(true[false <= 0.1 + 1e-9].max())
    assert np.abs(p[:, None] - list(chosen.values())).min() > 1e-6 or p.min() in chosen.values()


def test_without_both_classes_every_point_is_the_default() -> None:
    assert set(points(np.array([0.1, 0.8, 0.4]), np.array([1.0, 1.0, NAN])).values()) == {0.5}


def test_answers_without_worth_make_nothing_positive_at_youdens_point() -> None:
    chosen = points(np.array([0.9, 0.8, 0.2, 0.1]), np.array([0.0, 0.0, 1.0, 1.0]))
    assert chosen["youden"] > 0.9 and chosen["sensitivity 0.9"] == pytest.approx(0.1)
