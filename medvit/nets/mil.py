"""From the tiles of a bag to its answer: DSMIL in its published forms, and gated attention.

Source: Li et al. 2021, "Dual-stream Multiple Instance Learning Network" (arXiv:2011.08939), in the older form that
Self-ViT-MIL (Gul et al. 2022, arXiv:2210.09021) uses and in the newer ones; Ilse et al. 2018, "Attention-based Deep
Multiple Instance Learning" (arXiv:1802.04712).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

QUERY = 128  # channels of DSMIL's queries


class BagAnswer(NamedTuple):
    """What a network says of B bags of N tiles, for K labels.

    Attributes:
        logits: (B, K) of the bags.
        attention: (B, N, K), or (B, N, 1) where the labels share it; sums to 1 over a bag, 0 where no tile is.
        embedding: (B, K, D), or (B, D) where the labels share it.
        instances: (B, N, K) logits of the tiles, -inf where none is; None where the network scores no tiles.
    """

    logits: Tensor
    attention: Tensor
    embedding: Tensor
    instances: Tensor | None = None


class DSMIL(nn.Module):
    """Two streams over a bag: every tile is scored, and attended to by its likeness to the tile that scores highest.

    Args:
        width: Channels D of a tile.
        labels: Answers K.
        query: ``linear``, or ``mlp`` (``nonlinear`` of the release).
        value: What attention averages: the tile itself (``identity``), a ``linear`` map of it as in Self-ViT-MIL, or that
            after a ReLU (``relu``, ``passing_v`` of the release). Weights of the last two have the same names, so that a
            file cannot tell which it is.
        dropout: Of tiles before they become values, not where those are the tiles themselves.
    """

    def __init__(
        self,
        width: int,
        labels: int = 1,
        *,
        query: Literal["linear", "mlp"] = "linear",
        value: Literal["identity", "linear", "relu"] = "linear",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.i_classifier = nn.ModuleDict({"fc": nn.Sequential(nn.Linear(width, labels))})
        mlp = nn.Sequential(nn.Linear(width, QUERY), nn.ReLU(), nn.Linear(QUERY, QUERY), nn.Tanh())
        steps = [nn.Dropout(dropout), nn.Linear(width, width), nn.ReLU()]
        values = {"identity": nn.Identity(), "linear": nn.Sequential(*steps[:2]), "relu": nn.Sequential(*steps)}
        self.b_classifier = nn.ModuleDict({
            "q": mlp if query == "mlp" else nn.Linear(width, QUERY),
            "v": values[value],
            "fcc": nn.Conv1d(labels, labels, kernel_size=width),
        })  # fmt: skip

    def forward(self, bags: Tensor, mask: Tensor | None = None) -> BagAnswer:
        """Answer bags.

        Args:
            bags: (B, N, D).
            mask: (B, N), True where a tile is; bags of one batch may so differ in size.
        """
        scores: Tensor = self.i_classifier["fc"](bags)  # (B, N, K)
        instances = hide(scores, mask)
        queries = self.b_classifier["q"](bags)  # (B, N, 128)
        critical = instances.argmax(dim=1)  # (B, K)
        asked = queries.gather(1, critical[..., None].expand(-1, -1, QUERY))  # (B, K, 128)
        likeness = queries @ asked.transpose(1, 2) * QUERY**-0.5  # (B, N, K)
        attention = hide(likeness.float(), mask).softmax(dim=1)
        values = self.b_classifier["v"](bags)  # (B, N, D)
        embedding = attention.to(values.dtype).transpose(1, 2) @ values  # (B, K, D)
        return BagAnswer(self.b_classifier["fcc"](embedding).squeeze(-1), attention, embedding, instances)


class ABMIL(nn.Module):
    """Attention over the tiles of a bag, gated or plain, and a linear classifier of what it averages.

    Args:
        width: Channels D of a tile.
        labels: Answers K.
        hidden: Channels that attention is computed in.
        gated: Whether a sigmoid gates the tanh (equation 9 of the paper) or not (equation 8).
        each: Whether every label attends for itself, as in CLAM's multi-branch form, instead of all together.
        dropout: Of the hidden channels.
    """

    def __init__(
        self,
        width: int,
        labels: int = 1,
        *,
        hidden: int = 256,
        gated: bool = True,
        each: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention_V = nn.Sequential(nn.Linear(width, hidden), nn.Tanh())
        self.attention_U = nn.Sequential(nn.Linear(width, hidden), nn.Sigmoid()) if gated else None
        self.dropout = nn.Dropout(dropout)
        self.attention_w = nn.Linear(hidden, labels if each else 1)
        self.each = each
        self.classifier = nn.Linear(width, labels)

    def forward(self, bags: Tensor, mask: Tensor | None = None) -> BagAnswer:
        """Answer bags; arguments as for `DSMIL`."""
        hidden = self.attention_V(bags)  # (B, N, hidden)
        if self.attention_U is not None:
            hidden = hidden * self.attention_U(bags)
        scores: Tensor = self.attention_w(self.dropout(hidden))  # (B, N, 1), or (B, N, K)
        attention = hide(scores.float(), mask).softmax(dim=1)
        embedding = attention.to(bags.dtype).transpose(1, 2) @ bags  # (B, 1, D), or (B, K, D)
        if self.each:
            logits = (embedding * self.classifier.weight).sum(dim=-1) + self.classifier.bias  # (B, K)
            return BagAnswer(logits, attention, embedding)
        return BagAnswer(self.classifier(embedding[:, 0]), attention, embedding[:, 0])


def bag_loss(answer: BagAnswer, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The loss of the bags' logits; with a stream of tiles, half of it and half of the loss of the highest tiles.

    Args:
        answer: For B bags.
        loss: Of logits (B, K), such as a binary cross-entropy with the bags' labels.
    """
    if answer.instances is None:
        return loss(answer.logits)
    return (loss(answer.logits) + loss(answer.instances.amax(dim=1))) / 2


def hide(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Scores (B, N, K) with -inf where the mask (B, N) says that no tile is."""
    if not scores.shape[1] or (mask is not None and not mask.any(dim=1).all()):
        raise ValueError("a bag without a tile has no answer")
    return scores if mask is None else scores.masked_fill(~mask[..., None], -torch.inf)
