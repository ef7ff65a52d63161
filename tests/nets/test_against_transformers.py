"""The same weights give the same answers in transformers, so that benchmarks against it compare the same arithmetic."""

from typing import Any

import pytest
import torch
from transformers_names import their_names

from medvit.nets.mae import MAE
from medvit.nets.vit import ViT

transformers = pytest.importorskip("transformers", reason="transformers is not installed; nothing to compare with")

SIZES: dict[str, Any] = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 128, "layer_norm_eps": 1e-6, "hidden_dropout_prob": 0.0,
         "attention_probs_dropout_prob": 0.0}  # fmt: skip


def scatter(module: torch.nn.Module) -> None:
    """Make every trained parameter random, biases and norms too."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)


@pytest.mark.parametrize("normalise", [False, True])
def test_an_mae_with_the_same_weights_and_noise_has_the_loss_and_gradients_of_transformers(normalise: bool) -> None:
    ours = MAE(ViT(32, 8, 32, 3, 4, learn_positions=False), 0.75, decoder_width=48, decoder_depth=2, decoder_heads=3,
               normalise_targets=normalise)  # fmt: skip
    scatter(ours)
    theirs = transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(
            **SIZES, decoder_hidden_size=48, decoder_num_hidden_layers=2, decoder_num_attention_heads=3,
            decoder_intermediate_size=192, mask_ratio=0.75, norm_pix_loss=normalise,
        )
    )  # fmt: skip
    theirs.load_state_dict(their_names(ours.state_dict()), strict=True)
    images, noise = torch.randn(3, 3, 32, 32), torch.rand(3, 16)
    out, expected = ours(images, noise), theirs(pixel_values=images, noise=noise)
    torch.testing.assert_close(out["loss"], expected.loss, rtol=1e-5, atol=1e-6)
    painted = ours.reconstruct(images, noise)
    torch.testing.assert_close(painted["prediction"], expected.logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(painted["mask"], expected.mask)
    out["loss"].backward()
    expected.loss.backward()
    gradients = their_names({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    for name, parameter in theirs.named_parameters():
        if name in gradients:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_a_class_token_classifier_with_the_same_weights_has_the_logits_of_transformers() -> None:
    ours = ViT(32, 8, 32, 3, 4, classes=5, pool="class")
    scatter(ours)
    config = transformers.ViTConfig(**SIZES, num_labels=5, problem_type="multi_label_classification")
    theirs = transformers.ViTForImageClassification(config)
    theirs.load_state_dict(their_names(ours.state_dict()), strict=True)
    images, labels = torch.randn(3, 3, 32, 32), torch.randint(0, 2, (3, 5)).float()
    expected = theirs(pixel_values=images, labels=labels)
    logits = ours(images)
    torch.testing.assert_close(logits, expected.logits, rtol=1e-4, atol=1e-5)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=1e-6)
