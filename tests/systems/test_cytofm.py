"""CytoFM: the published backbone, weights of the teacher only, and attention by label."""

from pathlib import Path

import pytest
import torch

from medvit import weights
from medvit.errors import MedvitError
from medvit.nets.mil import ABMIL
from medvit.nets.vit import ViT
from medvit.systems.cytofm import CytoFM, CytoFMPretraining, chances
from medvit.systems.self_vit_mil import SelfViTMILPretraining

TINY = {"tile": 32, "image_size": 32, "patch": 8, "width": 24, "depth": 2, "heads": 3}


def checkpoint(path: Path, *parts: str, prefix: str = "") -> tuple[Path, dict[str, torch.Tensor]]:
    """An iBOT file with some of its networks; what the teacher's backbone holds."""
    torch.manual_seed(0)
    teacher = ViT(32, 8, 24, 2, 3).state_dict()
    student = {key: value + 1 for key, value in teacher.items()} | {"masked_embed": torch.zeros(1, 24)}
    content = {
        name: {f"{prefix}backbone.{key}": value for key, value in state.items()}
        for name, state in (("student", student), ("teacher", teacher))
        if name in parts
    }
    torch.save(content, path)
    return path, teacher


def test_the_backbone_has_the_published_150_tensors() -> None:
    with torch.device("meta"):
        system = CytoFM(["malignant"])
    assert len(system.vit.state_dict()) == 150
    assert system.feature_width == 768


@pytest.mark.parametrize("prefix", ["", "module."])
def test_of_a_checkpoint_the_teacher_is_taken(tmp_path: Path, prefix: str) -> None:
    path, teacher = checkpoint(tmp_path / "ibot.pth", "student", "teacher", prefix=prefix)
    loaded = CytoFM(["malignant"], **TINY, weights=path).vit.state_dict()
    assert all(torch.equal(loaded[key], teacher[key]) for key in teacher)


def test_the_student_alone_is_refused_with_a_hint(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path / "student.pth", "student", prefix="module.")
    with pytest.raises(MedvitError, match=r"iBOT's student.*'teacher'"):
        CytoFM(["malignant"], **TINY, weights=path)
    torch.save(torch.load(path)["student"], path)
    with pytest.raises(MedvitError, match=r"iBOT's student.*'teacher'"):
        CytoFM(["malignant"], **TINY, weights=path)


def test_a_flat_file_and_our_own_pre_training_are_taken(tmp_path: Path) -> None:
    path, teacher = checkpoint(tmp_path / "ibot.pth", "teacher")
    torch.save(teacher, path)
    assert torch.equal(CytoFM(["malignant"], **TINY, weights=path).vit.cls_token, teacher["cls_token"])
    own = CytoFMPretraining(**TINY, prototypes=16, head_width=16, bottleneck=8)
    torch.save({"state_dict": own.state_dict()}, path)
    net = ViT(32, 8, 24, 2, 3)
    weights.load(net, path, weights.ibot_teacher)
    assert torch.equal(net.cls_token, own.encoder.cls_token)


def test_weights_trained_on_otherwise_normalised_colours_are_refused(tmp_path: Path) -> None:
    own = CytoFMPretraining(**TINY, prototypes=16, head_width=16, bottleneck=8, mean=(0.8, 0.8, 0.8))
    card = {"arguments": {"mean": [0.8, 0.8, 0.8], "std": list(own.std)}}
    torch.save({"state_dict": own.state_dict(), "medvit": card}, tmp_path / "own.ckpt")
    with pytest.raises(MedvitError, match=r"system.mean is \[0.485.*trained with \[0.8, 0.8, 0.8\]"):
        CytoFM(["malignant"], **TINY, weights=tmp_path / "own.ckpt")
    CytoFM(["malignant"], **TINY, weights=tmp_path / "own.ckpt", mean=(0.8, 0.8, 0.8))


@pytest.mark.parametrize("kind", [CytoFMPretraining, SelfViTMILPretraining])
def test_pre_training_starts_as_dino_does_or_as_mae_does(kind: type[CytoFMPretraining | SelfViTMILPretraining]) -> None:
    size = {"image_size": 32, "patch": 8, "width": 96, "depth": 2, "heads": 3, "tile": 32, "prototypes": 16}
    for start, spread in (("normal", 0.02), ("xavier", 0.072)):
        system = kind(**size, head_width=16, bottleneck=8, start=start)
        for vit in (system.objective.student.backbone, system.encoder):
            assert vit.blocks[0].attn.qkv.weight.std().item() == pytest.approx(spread, rel=0.1)
            assert (vit.pos_embed.std() > 0.1) == (start == "xavier")


def test_tiles_become_class_tokens() -> None:
    system = CytoFM(["malignant"], **TINY)
    tiles = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    assert torch.allclose(system.describe(tiles), system.vit(system.normalised(tiles.permute(0, 3, 1, 2))))


def test_nothing_is_hidden_of_a_share_of_crops() -> None:
    assert chances(0.3, (0.3, 0.2)) == [(0.0, 0.0)] * 3 + [(0.3, 0.2)] * 7
    with pytest.raises(ValueError, match="a tenth"):
        chances(0.25, (0.3, 0.2))


def test_labels_that_attend_for_themselves_answer_as_networks_of_one_label() -> None:
    torch.manual_seed(0)
    net, bags = ABMIL(16, 3, hidden=8, each=True), torch.randn(2, 7, 16)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    answer = net(bags, mask)
    assert answer.attention.shape == (2, 7, 3) and answer.embedding.shape == (2, 3, 16)
    assert torch.allclose(answer.attention.sum(dim=1), torch.ones(2, 3)) and not answer.attention[1, 4:].any()
    for label in range(3):
        one = ABMIL(16, 1, hidden=8)
        state = net.state_dict()
        own = {key: value[label : label + 1] if key.startswith(("attention_w", "classifier")) else value
               for key, value in state.items()}  # fmt: skip
        one.load_state_dict(own)
        assert torch.allclose(one(bags, mask).logits[:, 0], answer.logits[:, label], atol=1e-6)
