"""How well probabilities separate cases; unknown labels (NaN) never count."""

import math

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_roc


def auroc(probability: Tensor, y: Tensor) -> Tensor:
    """Area under the ROC curve of every label.

    Args:
        probability: (n, K).
        y: (n, K) with 1, 0 and NaN for unknown.

    Returns:
        (K,); NaN for a label without both classes.
    """
    return torch.tensor([_of_known(probability[:, k], y[:, k]) for k in range(y.shape[1])])


def _of_known(probability: Tensor, y: Tensor) -> float:
    known = ~y.isnan()
    p, truth = probability[known].float(), y[known].long()
    if not _both(truth):
        return math.nan
    return float(binary_auroc(p, truth))


def _both(truth: Tensor) -> bool:
    return bool((truth == 0).any() and (truth == 1).any())


def nanmean(values: Tensor) -> Tensor:
    """Mean over what is defined; NaN where nothing is."""
    return values[~values.isnan()].mean()


def youden_thresholds(probability: Tensor, y: Tensor, default: float = 0.5) -> Tensor:
    """The threshold of every label with the largest sensitivity + specificity.

    It lies half way between the probabilities on both sides of the cut, so that a new case is not decided by rounding.

    Args:
        probability: (n, K).
        y: (n, K) with 1, 0 and NaN for unknown.
        default: For labels without both classes.

    Returns:
        (K,).
    """
    thresholds = []
    for k in range(y.shape[1]):
        known = ~y[:, k].isnan()
        p, truth = probability[known, k].float(), y[known, k].long()
        if not _both(truth):
            thresholds.append(default)
            continue
        false_rate, true_rate, cuts = binary_roc(p, truth)
        best = float(cuts[(true_rate - false_rate).argmax()])
        below = p[p < best]
        thresholds.append((best + float(below.max())) / 2 if len(below) else best)
    return torch.tensor(thresholds)
