from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from medvit.nets.mil import ABMIL, DSMIL, BagAnswer, bag_loss

SELF_VIT_MIL: dict[str, Any] = {"query": "linear", "value": "linear"}
FORMS = [SELF_VIT_MIL, {"query": "mlp", "value": "identity"}, {"query": "linear", "value": "relu"}]
WIDTH = 16


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as these run fastest on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def networks(labels: int = 2, width: int = WIDTH) -> list[nn.Module]:
    torch.manual_seed(0)
    forms: list[nn.Module] = [DSMIL(width, labels, **form) for form in FORMS]
    return [*forms, ABMIL(width, labels, hidden=8), ABMIL(width, labels, hidden=8, gated=False)]


@pytest.mark.parametrize(("width", "count"), [(3840, 15_248_770), (1920, 3_938_050), (512, 329_346), (384, 197_890)])
def test_dsmil_of_self_vit_mil_has_the_published_number_of_parameters(width: int, count: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in DSMIL(width, 1, **SELF_VIT_MIL).parameters()) == count


def test_every_form_has_the_keys_of_the_releases() -> None:
    own, newer, passing = ({key.rsplit(".", 1)[0] for key in net.state_dict()} for net in networks()[:3])
    both = {"i_classifier.fc.0", "b_classifier.fcc"}
    assert own == passing == both | {"b_classifier.q", "b_classifier.v.1"}
    assert newer == both | {"b_classifier.q.0", "b_classifier.q.2"}


def test_dsmil_is_the_formula() -> None:
    net, bag = networks()[0], torch.randn(9, WIDTH)
    weight = net.state_dict()
    scores = bag @ weight["i_classifier.fc.0.weight"].T + weight["i_classifier.fc.0.bias"]
    query = bag @ weight["b_classifier.q.weight"].T + weight["b_classifier.q.bias"]
    value = bag @ weight["b_classifier.v.1.weight"].T + weight["b_classifier.v.1.bias"]
    answer = net(bag[None])
    for label in range(2):
        critical = scores[:, label].argmax()
        attention = (query @ query[critical] / 128**0.5).softmax(0)
        torch.testing.assert_close(answer.attention[0, :, label], attention)
        torch.testing.assert_close(answer.embedding[0, label], attention @ value)
    mixed = torch.einsum("ckd,kd->c", weight["b_classifier.fcc.weight"], answer.embedding[0])  # over classes, too
    torch.testing.assert_close(answer.logits[0], mixed + weight["b_classifier.fcc.bias"])
    torch.testing.assert_close(answer.instances[0], scores)


@pytest.mark.parametrize("which", range(5))
def test_bags_of_different_sizes_answer_in_one_batch_as_they_do_alone(which: int) -> None:
    net, sizes = networks()[which], (5, 1, 8)
    bags, mask = torch.full((3, 8, WIDTH), 1e3), torch.zeros(3, 8, dtype=torch.bool)
    alone = []
    for index, size in enumerate(sizes):
        bag = torch.randn(size, WIDTH)
        bags[index, :size], mask[index, :size] = bag, True
        alone.append(net(bag[None]))
    together = net(bags, mask)
    for index, (size, one) in enumerate(zip(sizes, alone, strict=True)):
        torch.testing.assert_close(together.logits[index], one.logits[0])
        torch.testing.assert_close(together.embedding[index], one.embedding[0])
        torch.testing.assert_close(together.attention[index, :size], one.attention[0])
        assert not together.attention[index, size:].any()
        if one.instances is not None:
            torch.testing.assert_close(together.instances[index, :size], one.instances[0])
            assert (together.instances[index, size:] == -torch.inf).all()


@pytest.mark.parametrize("which", range(5))
def test_the_order_of_tiles_does_not_matter(which: int) -> None:
    net, bag, order = networks()[which], torch.randn(1, 12, WIDTH), torch.randperm(12)
    straight, shuffled = net(bag), net(bag[:, order])
    torch.testing.assert_close(straight.logits, shuffled.logits)
    torch.testing.assert_close(straight.attention[:, order], shuffled.attention)


@pytest.mark.parametrize("which", range(5))
def test_masked_places_give_no_gradient_and_no_nan(which: int) -> None:
    net = networks()[which]
    bags = torch.randn(2, 6, WIDTH, requires_grad=True)
    mask = torch.arange(6) < torch.tensor([[2], [6]])
    bag_loss(net(bags, mask), lambda z: z.square().mean()).backward()
    assert bags.grad is not None and bags.grad.isfinite().all()
    assert not bags.grad[0, 2:].any() and bags.grad[0, :2].any()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("which", range(5))
def test_a_bag_without_tiles_is_refused(which: int) -> None:
    net = networks()[which]
    with pytest.raises(ValueError, match="without a tile"):
        net(torch.randn(1, 0, WIDTH))
    with pytest.raises(ValueError, match="without a tile"):
        net(torch.randn(2, 3, WIDTH), torch.tensor([[True] * 3, [False] * 3]))


def test_the_loss_is_half_of_the_bags_and_half_of_the_highest_tiles() -> None:
    y, answer = torch.tensor([[1.0], [0.0]]), networks(labels=1)[0](torch.randn(2, 7, WIDTH))
    loss = partial(binary_cross_entropy_with_logits, target=y)
    assert answer.instances is not None
    highest = answer.instances.max(dim=1).values
    torch.testing.assert_close(bag_loss(answer, loss), 0.5 * loss(answer.logits) + 0.5 * loss(highest))
    torch.testing.assert_close(bag_loss(answer._replace(instances=None), loss), loss(answer.logits))


def test_half_precision_features_are_answered_and_attention_stays_float32() -> None:
    for net in networks():
        answer = net.to(torch.bfloat16)(torch.randn(1, 300, WIDTH, dtype=torch.bfloat16))
        assert answer.attention.dtype == torch.float32
        torch.testing.assert_close(answer.attention.sum(1), torch.ones_like(answer.attention.sum(1)))


def synthetic(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bags (200, 30, D), mask, labels and the four tiles (200, 30) that make every second bag positive."""
    generator = torch.Generator().manual_seed(seed)
    bags = torch.randn(200, 30, WIDTH, generator=generator)
    sizes = torch.randint(15, 31, (200, 1), generator=generator)
    mask, y = torch.arange(30) < sizes, (torch.arange(200) % 2).float()
    ranks = torch.rand(200, 30, generator=generator).masked_fill(~mask, 2).argsort(dim=1).argsort(dim=1)
    positive = (ranks < 4) & (y[:, None] == 1)
    bags[..., :4] += 3 * positive[..., None]
    return bags, mask, y, positive


@pytest.mark.slow
@pytest.mark.parametrize("which", range(5))
def test_positive_tiles_of_unseen_bags_are_found_from_bag_labels_alone(which: int) -> None:
    """By attention; the highest tile of DSMIL may be a negative one, since only that tile learns."""
    net = networks(labels=1)[which]
    bags, mask, y, _ = synthetic(seed=1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, betas=(0.5, 0.9), weight_decay=5e-3)
    for _ in range(20 if isinstance(net, DSMIL) else 80):
        for some in torch.randperm(200).split(20):
            answer: BagAnswer = net(bags[some], mask[some])
            loss = bag_loss(answer, partial(binary_cross_entropy_with_logits, target=y[some, None]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    bags, mask, y, positive = synthetic(seed=2)
    with torch.no_grad():
        answer = net(bags, mask)
    area = (answer.logits[y == 1] > answer.logits[y == 0, 0]).float().mean().item()
    found = positive.gather(1, answer.attention[..., 0].argmax(1, keepdim=True))[y == 1].float().mean().item()
    assert area >= 0.95
    assert found >= 0.85
