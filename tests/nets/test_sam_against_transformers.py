"""The same weights give the same masks in transformers' `SamModel`, and its files load."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from medvit.nets.sam import Sam
from medvit.nets.sam_decoder import MaskDecoder
from medvit.nets.sam_encoder import SamEncoder
from medvit.nets.sam_prompt import PromptEncoder
from medvit.weights import load
from medvit.weights_sam import sam

transformers = pytest.importorskip("transformers", reason="transformers is not installed; nothing to compare with")

SIDE, CHANNELS = 64, 16
Pair = tuple[Sam, torch.nn.Module]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Ours and theirs, ours with the weights that theirs saved."""
    config = transformers.SamConfig(
        vision_config={"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": SIDE,
                       "patch_size": 8, "window_size": 3, "global_attn_indexes": [1], "output_channels": CHANNELS,
                       "mlp_dim": 96, "num_pos_feats": CHANNELS // 2},
        prompt_encoder_config={"hidden_size": CHANNELS, "image_size": SIDE, "patch_size": 8, "mask_input_channels": 8},
        mask_decoder_config={"hidden_size": CHANNELS, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": CHANNELS},
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.SamModel(config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.normal_(std=0.2).add_("norm" in name and name.endswith("weight"))
        theirs.prompt_encoder.shared_embedding.positional_embedding.copy_(
            theirs.shared_image_embedding.positional_embedding
        )
    path: Path = tmp_path_factory.mktemp("hub") / "model.safetensors"
    save_file({key: value.clone() for key, value in theirs.state_dict().items()}, path)
    encoder = SamEncoder(SIDE, 8, 24, 3, 2, everywhere=(1,), window=3, out=CHANNELS)
    decoder = MaskDecoder(CHANNELS, 2, 2, 32, quality_hidden=CHANNELS)
    for part in decoder.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.eps = 1e-6  # theirs; SAM's own is torch's default
    ours = Sam(encoder, CHANNELS, prompt_encoder=PromptEncoder(CHANNELS, 8), mask_decoder=decoder).eval()
    load(ours, path, sam)
    return ours, theirs


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


BOXES = torch.tensor([[5.0, 6.0, 40.0, 50.0], [10.0, 2.0, 60.0, 30.0]])
POINTS = torch.tensor([[[3.0, 4.0], [50.0, 60.0]], [[20.0, 9.0], [33.0, 11.0]]])
LABELS = torch.tensor([[1, 0], [1, -1]])


@torch.no_grad()
def test_images_are_embedded_as_in_transformers(pair: Pair, image: Tensor) -> None:
    ours, theirs = pair
    torch.testing.assert_close(ours.embed(image), theirs.get_image_embeddings(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("prompt", ["boxes", "points", "boxes and points", "boxes and mask"])
@torch.no_grad()
def test_prompts_are_answered_as_in_transformers(pair: Pair, image: Tensor, prompt: str, several: bool) -> None:
    ours, theirs = pair
    embedding = ours.embed(image)
    boxes = BOXES if "boxes" in prompt else None
    points, labels = (POINTS, LABELS) if "points" in prompt else (None, None)
    if prompt == "boxes and mask":  # theirs takes one mask for one image
        boxes, mask = BOXES[:1], torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    else:
        mask = None
    found = ours.answer(embedding, boxes, points, labels, mask, several)
    wanted = theirs(
        image_embeddings=embedding, input_boxes=None if boxes is None else boxes[None],
        input_points=None if points is None else points[None], input_labels=None if labels is None else labels[None],
        input_masks=mask, multimask_output=several,
    )  # fmt: skip
    torch.testing.assert_close(found.logits, wanted.pred_masks[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.quality, wanted.iou_scores[0], rtol=1e-4, atol=1e-4)
