"""ThoraxMAE: which films it reads, what it takes over from pre-training, and that it learns."""

import numpy as np
import pytest
import tiny
import torch
from lightning import Trainer

from medvit.case import Case
from medvit.data.cases import Cases
from medvit.discover import read_case
from medvit.errors import MedvitError, Skipped
from medvit.evaluate.metrics import auroc
from medvit.systems.thorax_mae import CHANNELS, ThoraxMAE, ThoraxMAEPretraining, colour
from medvit.weights import read_state

NET = tiny.NET
LABELS = list(tiny.LABELS)


def case(modality="DX", **header):
    return Case("1.2.3", modality, (), header=header)


@pytest.fixture(scope="module")
def system():
    return ThoraxMAE(LABELS, **NET)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (case("MR"), "modality"), (case("SR"), "modality"), (case("US"), "modality"),
        (case(body_part="HAND"), "body_part"), (case(body_part="SKULL"), "body_part"),
        (case(view="LL"), "view"), (case(view="rl"), "view"), (case(body_part="CHEST", view="LATERAL"), "view"),
    ],
)  # fmt: skip
def test_what_is_no_frontal_chest_film_is_skipped_with_its_reason(system, one, reason):
    with pytest.raises(Skipped, match="ThoraxMAE reads") as refusal:
        system.refuse(one)
    assert refusal.value.reason == reason


@pytest.mark.parametrize(
    "one",
    [
        case(),
        case("CR", view="AP"),
        case(""),
        case(body_part="CHEST", view="PA"),
        case(body_part="Thorax"),
        case(body_part="LUNG"),
    ],
)
def test_frontal_chest_films_and_pictures_are_not_refused(system, one):
    system.refuse(one)


def test_a_film_becomes_a_normalised_square_with_the_way_back(system, make_film, tmp_path):
    film = read_case(make_film(tmp_path / "film.dcm", tiny.draw(1, True, False), bits=8))
    sample = system.preprocess(film)
    assert sample.x.shape == (1, 32, 32) and sample.y.isnan().all()
    grey = sample.x * system.std + system.mean
    assert grey.min() >= -1e-6 and grey.max() <= 1 + 1e-6
    assert sample.fit.source == (tiny.SIDE, tiny.SIDE)


def test_targets_are_in_the_order_of_the_labels_and_unknown_where_not_named(system, make_film, tmp_path):
    film = read_case(make_film(tmp_path / "film.dcm", tiny.draw(1, True, False), bits=8))
    labelled = Case(film.uid, film.modality, film.files, labels={"Effusion": 1.0})
    y = system.sample(system.read(labelled), labelled).y
    assert y[0].isnan() and y[1] == 1


def test_grey_becomes_three_channels_without_a_copy():
    x = torch.randn(2, 1, 8, 8)
    assert colour(x).shape == (2, CHANNELS, 8, 8)
    assert colour(x).untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


@pytest.mark.parametrize("name", ["best.ckpt", "model.safetensors"])
def test_the_encoder_starts_from_the_pretrained_tensors(trained, name):
    path = trained.folder / "runs/pre" / name
    pretrained = read_state(path)
    net = ThoraxMAE(LABELS, **NET, weights=path).net.state_dict()
    fresh = {"head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"}
    for key in net.keys() - fresh:
        assert torch.equal(net[key], pretrained[f"objective.encoder.{key}"]), key
    assert torch.equal(net["fc_norm.weight"], torch.ones(24))
    assert net["head.weight"].abs().max() < 1e-3
    assert not torch.equal(net["blocks.0.attn.qkv.weight"], ThoraxMAE(LABELS, **NET).net.blocks[0].attn.qkv.weight)


def test_the_class_token_head_takes_over_the_encoders_norm(trained):
    path = trained.folder / "runs/pre/best.ckpt"
    net = ThoraxMAE(LABELS, **NET, pool="class", weights=path).net.state_dict()
    assert torch.equal(net["norm.weight"], read_state(path)["objective.encoder.norm.weight"])


def test_another_image_size_takes_over_resampled_positions(trained):
    larger = {**NET, "image_size": 48}
    path = trained.folder / "runs/pre/best.ckpt"
    net = ThoraxMAE(LABELS, **larger, weights=path).net
    assert net.pos_embed.shape == (1, 37, 24)
    assert torch.equal(net.blocks[0].attn.qkv.weight, read_state(path)["objective.encoder.blocks.0.attn.qkv.weight"])


def test_pretraining_goes_on_from_its_own_weights(trained):
    path = trained.folder / "runs/pre/best.ckpt"
    arguments = {k: v for k, v in tiny.PRETRAIN["system"].items() if k != "class"}
    objective = ThoraxMAEPretraining(**arguments, weights=path).objective.state_dict()
    assert all(torch.equal(value, objective[key.removeprefix("objective.")]) for key, value in read_state(path).items())


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"depth": 3}, "missing: blocks.2.attn"),
        ({"depth": 1}, "unexpected: blocks.1.attn"),
        ({"width": 48}, r"of another shape: .*blocks.0.attn.qkv.weight \(72, 24\) for \(144, 48\)"),
    ],
)
def test_weights_of_another_size_are_refused_key_by_key(trained, changes, keys):
    with pytest.raises(MedvitError, match=f"do not fit ViT.*{keys}"):
        ThoraxMAE(LABELS, **{**NET, **changes}, weights=trained.folder / "runs/pre/best.ckpt")


@pytest.mark.parametrize("labels", ["nih15", [], ["Mass", "Mass"]])
def test_labels_that_cannot_be_meant_are_refused(labels):
    with pytest.raises(MedvitError):
        ThoraxMAE(labels, **NET)


def test_label_sets_are_known_by_name():
    assert [label.name for label in ThoraxMAE("chexpert5", **NET).labels][:2] == ["Cardiomegaly", "Edema"]
    assert ThoraxMAE(**NET).net.head.out_features == 14


def test_a_handful_of_films_is_learned_in_seconds(make_film, tmp_path):
    rows = []
    for index in range(12):
        mass, effusion = index % 2, index // 2 % 2
        make_film(tmp_path / f"{index}.dcm", tiny.draw(index, bool(mass), bool(effusion)), bits=8)
        rows += [(f"{index}.dcm", f"p{index}", "train" if index < 8 else "val", mass, effusion)]
    table = tiny.write_table(tmp_path / "cases.csv", rows)
    torch.manual_seed(0)
    system = ThoraxMAE(LABELS, **NET, base_lr=0.2, layer_decay=1.0, drop_path=0.0, warmup_epochs=2, weight_decay=0.0)
    data = Cases(table, batch_size=8, cache=True, crop_min=1.0, flip=0.0)
    trainer = Trainer(
        max_epochs=60, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, check_val_every_n_epoch=60,
    )  # fmt: skip
    trainer.fit(system, datamodule=data)
    assert float(trainer.callback_metrics["train/loss"]) < 0.3  # from ln 2
    system.eval()
    samples = [system.preprocess(one) for one in data.splits["train"]]
    with torch.no_grad():
        probability = system(colour(torch.stack([sample.x for sample in samples]))).sigmoid()
    y = torch.tensor([[one.labels[name] for name in LABELS] for one in data.splits["train"]])
    assert np.all(auroc(probability, y).numpy() > 0.95)


def test_pretraining_lowers_its_loss(trained):
    import csv

    with (trained.folder / "runs/pre/logs/version_0/metrics.csv").open(newline="") as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]
    assert losses[-1] < losses[0]
