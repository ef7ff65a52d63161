from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvit.nets.dino import DINO, Head, LocalCrops, initialise_normal, move_centre, padded, soften, view_loss, watch
from medvit.nets.ibot import IBOT
from medvit.nets.objective import cosine, ramp
from medvit.nets.vit import STRETCH, ViT, resample_positions
from medvit.optim import clip_each, decay_groups, warmup_cosine


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as these run fastest on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def tiny(**settings: object) -> DINO:
    torch.manual_seed(0)
    backbone = ViT(32, 8, 16, 2, 2, drop_path=0.1)
    return DINO(backbone, Head(16, 12, hidden=16, bottleneck=8), **settings)  # type: ignore[arg-type]


def views(batch: int = 3) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, batch, 3, 32, 32), torch.randn(4, batch, 3, 16, 16)]


@pytest.mark.parametrize(("width", "heads", "backbone", "head"),
                         [(384, 6, 21_665_664, 22_352_128), (768, 12, 85_798_656, 23_138_560)])  # fmt: skip
def test_backbone_and_head_have_the_published_number_of_parameters_and_keys(
    width: int, heads: int, backbone: int, head: int
) -> None:
    with torch.device("meta"):
        vit = ViT(width=width, heads=heads)
        assert len(vit.state_dict()) == 150
        assert parameters(vit) == backbone
        assert parameters(Head(width)) == head


def test_the_head_is_an_mlp_a_direction_and_a_weight_normalised_layer() -> None:
    torch.manual_seed(0)
    head, x = Head(16, 12, hidden=10, bottleneck=8), torch.randn(5, 16)
    head.last_layer.weight_g.data.uniform_(0.5, 2)
    with pytest.warns(FutureWarning, match="weight_norm"):
        last = nn.utils.weight_norm(nn.Linear(8, 12, bias=False))
    last.load_state_dict(head.last_layer.state_dict())
    hidden = F.gelu(F.linear(x, head.mlp[0].weight, head.mlp[0].bias))  # type: ignore[index]
    hidden = F.gelu(F.linear(hidden, head.mlp[2].weight, head.mlp[2].bias))  # type: ignore[index]
    hidden = F.linear(hidden, head.mlp[4].weight, head.mlp[4].bias)  # type: ignore[index]
    torch.testing.assert_close(head(x), last(hidden / hidden.norm(dim=1, keepdim=True)))


@pytest.mark.parametrize("fixed", [True, False])
def test_prototypes_keep_their_length_where_that_is_asked_for(fixed: bool) -> None:
    head = Head(16, 12, hidden=16, bottleneck=8, fixed_length=fixed)
    head(torch.randn(4, 16)).square().sum().backward()
    assert (head.last_layer.weight_g.grad is None) is fixed
    assert head.last_layer.weight_g.unique().tolist() == [1.0]


@pytest.mark.parametrize("large", [1, 2, 3])
def test_the_loss_is_the_mean_over_pairs_of_different_views(large: int) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 4, 7), torch.randn(large, 4, 7).softmax(-1)
    pairs = [
        -(targets[q] * (logits[v] / 0.3).log_softmax(-1)).sum(-1).mean()
        for q in range(large) for v in range(5) if v != q
    ]  # fmt: skip
    torch.testing.assert_close(view_loss(logits, targets, 0.3), torch.stack(pairs).mean())


def test_the_gradient_of_the_loss_is_that_of_the_pairs() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 3, 6, requires_grad=True), torch.randn(2, 3, 6).softmax(-1)
    (ours,) = torch.autograd.grad(view_loss(logits, targets, 0.1), logits)
    pairs = [F.cross_entropy(logits[v] / 0.1, targets[q]) for q in range(2) for v in range(4) if v != q]
    (plain,) = torch.autograd.grad(torch.stack(pairs).mean(), logits)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)


def test_the_centre_is_a_running_mean_of_the_teachers_logits_and_targets_are_centred_and_sharpened() -> None:
    logits, centre = torch.randn(6, 5), torch.randn(1, 5)
    moved = centre.clone()
    move_centre(moved, logits.mean(0), 0.9)
    torch.testing.assert_close(moved, 0.9 * centre + 0.1 * logits.mean(0, keepdim=True))
    torch.testing.assert_close(soften(logits, centre, 0.04), ((logits - centre) / 0.04).softmax(-1))


def test_only_training_moves_the_centre() -> None:
    net = tiny()
    net.eval()(views())
    assert not net.centre.any()
    net.train()(views())
    assert net.centre.any()


def test_the_loss_compares_the_students_answers_for_every_crop_with_the_teachers_for_large_ones() -> None:
    net = tiny(teacher_temperature=0.07, first_teacher_temperature=0.07).eval()
    net.centre.normal_()
    large, small = views()
    answers = [net.student.head(net.student.backbone(crop)) for crop in (*large, *small)]
    given = torch.stack([net.teacher.head(net.teacher.backbone(crop)) for crop in large])
    wanted = view_loss(torch.stack(answers), soften(given, net.centre, 0.07), 0.1)
    torch.testing.assert_close(net([large, small])["loss"], wanted)


def test_large_crops_alone_are_enough() -> None:
    assert tiny()(views()[:1])["loss"].isfinite()


def test_padded_crops_lie_in_the_middle_of_the_mean_colour() -> None:
    canvas = padded(torch.ones(1, 3, 96, 96), 224, 224)
    assert canvas.shape == (1, 3, 224, 224)
    assert canvas[..., 64:160, 64:160].all()
    assert canvas.sum() == 3 * 96 * 96
    assert padded(torch.ones(1, 1, 3, 2), 6, 4)[0, 0].nonzero()[0].tolist() == [1, 1]  # an odd row goes below


@pytest.mark.parametrize("how", ["native96", "pad224"])
def test_small_crops_are_small_images_or_padded_to_large_ones(how: LocalCrops, monkeypatch) -> None:
    net, seen = tiny(local_crops=how), []
    tokens = net.student.backbone.tokens
    monkeypatch.setattr(net.student.backbone, "tokens", lambda x, *a, **k: (seen.append(x), tokens(x, *a, **k))[1])
    large, small = views()
    net([large, small])
    assert torch.equal(seen[0], large.flatten(0, 1))
    wanted = small.flatten(0, 1) if how == "native96" else padded(small.flatten(0, 1), 32, 32)
    assert torch.equal(seen[1], wanted)


def test_images_of_another_size_take_positions_as_dino_resamples_them() -> None:
    net = tiny().encoder
    net.pos_embed.data.normal_()
    placed = net.place(torch.zeros(1, 30, 16), (6, 5))
    dinos, maes = (resample_positions(net.pos_embed, (4, 4), (6, 5), stretch) for stretch in (STRETCH, 0.0))
    assert torch.equal(placed[:, 1:], dinos[:, 1:])
    assert (dinos - maes).abs().max() > 1e-3


def test_a_tile_is_described_by_its_last_class_tokens_and_its_mean_patch() -> None:
    net, x = ViT(32, 8, 16, 5, 2), torch.randn(2, 3, 32, 32)
    blocks = net.tokens(x, last=4)
    described = net.embedding(x)
    assert described.shape == (2, 5 * 16)
    torch.testing.assert_close(described[:, 48:64], net(x))
    torch.testing.assert_close(described[:, :16], blocks[0][:, 0])
    torch.testing.assert_close(described[:, 64:], blocks[-1][:, 1:].mean(1))
    assert net.embedding(x, last=1).shape == (2, 32)


@pytest.mark.parametrize("wrong", [{"pool": "mean"}, {"classes": 3}])
def test_a_backbone_that_gives_no_class_token_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="class token"):
        DINO(ViT(32, 8, 16, 1, 2, **wrong), Head(16, 12))  # type: ignore[arg-type]


def test_only_the_student_learns_and_only_the_student_drops_paths() -> None:
    net = tiny().train()
    assert net.student.backbone.blocks[1].training and not net.teacher.backbone.blocks[1].training
    net(views())["loss"].backward()
    assert all(p.grad is None for p in net.teacher.parameters())
    without = {name for name, p in net.student.named_parameters() if p.grad is None}
    assert without == {"head.last_layer.weight_g"}
    assert net.encoder is net.teacher.backbone


def test_the_teacher_follows_the_student_at_the_momentum_of_the_schedule() -> None:
    net = tiny(momentum=0.9)
    for parameter in net.student.parameters():
        parameter.data.normal_()
    expected = deepcopy(net.teacher.state_dict())
    for step in range(4):
        m = 1 + (0.9 - 1) * (1 + torch.tensor(torch.pi * step / 4).cos().item()) / 2
        expected = {key: m * value + (1 - m) * net.student.state_dict()[key] for key, value in expected.items()}
        net.after_step((step + 1) / 4)
    for key, value in net.teacher.state_dict().items():
        torch.testing.assert_close(value, expected[key])
    assert net.progress == 1


def test_prototypes_rest_at_first_and_learn_then() -> None:
    net = tiny(rest=0.5)
    for progress, resting in ((0.0, True), (0.49, True), (0.5, False)):
        net.progress = progress
        net.zero_grad()
        net(views())["loss"].backward()
        net.before_step()
        assert (net.student.head.last_layer.weight_v.grad is None) is resting
        assert net.student.head.mlp[0].weight.grad is not None  # type: ignore[index, union-attr]


def test_the_teachers_temperature_warms_up_in_a_straight_line() -> None:
    net = tiny(first_teacher_temperature=0.04, teacher_temperature=0.07, warmup=0.3)
    told = []
    for net.progress in (0.0, 0.15, 0.3, 1.0):
        told.append(net.temperature)
    assert told == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert ramp(1.0, 2.0, 0.0, 0.0) == 2.0


def test_a_cosine_runs_from_start_to_end_and_stays() -> None:
    assert [cosine(0.04, 0.4, p) for p in (0.0, 0.5, 1.0, 1.5)] == pytest.approx([0.04, 0.22, 0.4, 0.4])


def test_each_kind_of_collapse_is_seen() -> None:
    torch.manual_seed(0)
    features, centre = torch.randn(64, 16), torch.zeros(1, 8)
    sharp = F.one_hot(torch.arange(64) % 8, 8).float()
    healthy = watch(features, sharp, centre)
    assert healthy["teacher_entropy"] < 0.01 < 0.99 < healthy["batch_entropy"]
    assert healthy["feature_std"] > 0.9
    assert watch(features, torch.full((64, 8), 1 / 8), centre)["teacher_entropy"] > 0.99
    assert watch(features, sharp[:1].expand(64, 8), centre)["batch_entropy"] < 0.01
    assert watch(torch.ones(64, 16) + 1e-3 * features, sharp, centre)["feature_std"] < 0.01


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ({"teacher_entropy": 0.99, "batch_entropy": 0.99, "feature_std": 0.2}, "flat answer"),
        ({"teacher_entropy": 0.01, "batch_entropy": 0.01, "feature_std": 0.2}, "One prototype"),
        ({"teacher_entropy": 0.5, "batch_entropy": 0.9, "feature_std": 0.01}, "nearly alike"),
    ],
)
def test_each_kind_of_collapse_is_told_with_what_helps(measured: dict[str, float], said: str) -> None:
    net = tiny()
    net.progress = 0.5
    assert said in net.trouble(measured)
    assert net.trouble({"teacher_entropy": 0.8, "batch_entropy": 0.9, "feature_std": 0.4}) == ""
    assert net.trouble({}) == ""


def test_every_training_may_be_flat_at_its_beginning() -> None:
    net = tiny()
    flat = {"teacher_entropy": 0.99, "batch_entropy": 0.99, "feature_std": 0.2}
    assert net.trouble(flat) == ""
    net.progress = 0.3
    assert net.trouble(flat)


def test_a_fresh_network_starts_as_in_the_release() -> None:
    torch.manual_seed(0)
    net = ViT(64, 8, 64, 2, 2)
    initialise_normal(net)
    for tensor in (net.cls_token, net.pos_embed, net.blocks[0].attn.qkv.weight):
        assert tensor.std().item() == pytest.approx(0.02, rel=0.25)
    assert not net.blocks[0].attn.qkv.bias.any()
    bound = (3 * 8 * 8) ** -0.5
    assert 0.9 * bound < net.patch_embed.proj.weight.abs().max() <= bound


@pytest.mark.parametrize("kind", [DINO, IBOT])
def test_half_precision_changes_the_loss_little_and_every_gradient_is_finite(kind: type[DINO]) -> None:
    torch.manual_seed(0)
    net = kind(ViT(32, 8, 16, 2, 2), Head(16, 12, hidden=16, bottleneck=8), rest=0.0).eval()

    def loss() -> Tensor:
        torch.manual_seed(2)
        found: Tensor = net(views())["loss"]
        return found

    exact = loss().item()
    with torch.autocast("cpu", torch.bfloat16):
        half = loss()
    half.backward()
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(exact, rel=0.03)
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def stripes(count: int, size: int = 24) -> tuple[Tensor, Tensor]:
    """Images (count, 1, size, size) of horizontal and of vertical stripes that begin anywhere, under noise."""
    kind, places = torch.arange(count) % 2, torch.arange(float(size))
    wave = torch.sin(1.1 * places + 6.3 * torch.rand(count, 1))  # (count, size)
    images = torch.where((kind == 0)[:, None, None], wave[:, :, None], wave[:, None, :])
    return images[:, None] + 0.3 * torch.randn(count, 1, size, size), kind


def crops(images: Tensor, size: int, number: int) -> Tensor:
    """(number, B, 1, size, size) of other places, contrast, brightness and noise."""
    found = []
    for _ in range(number):
        top, left = torch.randint(images.shape[-1] - size + 1, (2,)).tolist()
        crop = images[..., top : top + size, left : left + size] * (0.5 + torch.rand(len(images), 1, 1, 1))
        found.append(crop + 0.1 * torch.randn(len(images), 1, 1, 1) + 0.2 * torch.randn_like(crop))
    return torch.stack(found)


@torch.no_grad()
def separation(net: ViT, images: Tensor, kind: Tensor) -> float:
    """Mean likeness of features within kinds over that between them, around their mean: 2 where kinds are opposites."""
    features = F.normalize(net(images), dim=-1)
    features = F.normalize(features - features.mean(0), dim=-1)
    likeness, same = features @ features.T, kind[:, None] == kind
    return float(likeness[same].mean() - likeness[~same].mean())


@torch.no_grad()
def neighbours_agree(net: ViT, known: tuple[Tensor, Tensor], asked: tuple[Tensor, Tensor]) -> float:
    """Accuracy of the five nearest neighbours."""
    a, b = (F.normalize(net(images), dim=-1) for images, _ in (known, asked))
    votes = known[1][(b @ a.T).topk(5).indices].float().mean(1)
    return float(((votes > 0.5) == asked[1].bool()).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DINO, IBOT])
def test_two_textures_are_told_apart_without_labels_and_nothing_collapses(kind: type[DINO]) -> None:
    torch.manual_seed(0)
    (images, _), known, asked = stripes(64), stripes(64), stripes(64)
    known, asked = ((crops(x, 16, 1)[0], y) for x, y in (known, asked))  # type: ignore[assignment]
    net = kind(ViT(16, 4, 32, 2, 4, channels=1), Head(32, 16, hidden=64, bottleneck=8), momentum=0.97,
               centre_momentum=0.5, teacher_temperature=0.01, first_teacher_temperature=0.01)  # fmt: skip
    before = separation(net.encoder, *asked)
    steps = 120
    optimizer = torch.optim.AdamW(decay_groups(net, 0.04), 3e-3)
    schedule = warmup_cosine(optimizer, steps, 20)
    for step in range(steps):
        batch = images[torch.randperm(64)[:32]]
        out = net([crops(batch, 16, 2), crops(batch, 8, 4)])
        optimizer.zero_grad()
        out["loss"].backward()
        clip_each(net.parameters(), 3.0)
        net.before_step()
        optimizer.step()
        schedule.step()
        net.after_step((step + 1) / steps)
    assert neighbours_agree(net.encoder, known, asked) >= 0.95
    assert separation(net.encoder, *asked) > before + 0.5
    assert out["teacher_entropy"] + 0.1 < out["batch_entropy"]
    assert out["feature_std"] > 0.3
