"""DBSAM: what is trained, how pixels are scaled, what is asked, and that it learns a handful of slices."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_volumes
import torch

from medvit.case import Box, Case
from medvit.data.batch import Batch
from medvit.data.mask_tables import read_masked
from medvit.data.prompts import Point, Prompts, proposed, read_prompts
from medvit.data.scans import Masks, counted, fit_of, model_mask, model_pixels, random_choice, steady_choice
from medvit.errors import MedvitError, Rejected, Skipped
from medvit.image import Image
from medvit.nets.dual_branch import trained_and_frozen
from medvit.systems.db_sam import DBSAM
from medvit.tasks.segmentation import cleaned, cleaning

REAL = Path(__file__).parents[3] / "shared" / "data" / "seg3d" / "open" / "awkward"
NET = {**tiny_volumes.NET, "everywhere": (0, 1), "patch": 4, "window": 4}


def system(**changes) -> DBSAM:
    torch.manual_seed(0)
    return DBSAM(**{**NET, **changes})


def image_of(seed: int = 0) -> Image:
    volume, mask = tiny_volumes.block(seed)
    return Image(volume[None].astype(np.float32) / 255, (4.0, 1.5, 2.0), mask=mask)


def samples(one: DBSAM, count: int = 4) -> Batch:
    steady = steady_choice(jitter=0.02, min_pixels=4)
    return Batch([one.sample(image_of(n), Case(str(n), "", ()), steady) for n in range(count)])


def test_adapters_neck_and_decoder_are_trained_and_the_rest_is_frozen() -> None:
    counts = {}
    for name, changes in {
        "adapters": {},
        "decoder": {"variant": "none", "trained": "decoder"},
        "everything": {"variant": "none", "trained": "everything"},
    }.items():
        one = system(**changes)
        counts[name] = trained_and_frozen(one.net)
        names = {key.split(".")[0] for key, p in one.net.named_parameters() if p.requires_grad}
        assert "mask_decoder" in names
        assert ("prompt_encoder" in names) == (name == "everything")
    assert counts["everything"][1] == 0
    assert counts["decoder"][0] < counts["adapters"][0]
    assert sum(counts["decoder"]) == sum(counts["everything"])
    with pytest.raises(MedvitError, match="has no adapters"):
        system(variant="none")


def test_a_step_changes_what_is_trained_and_nothing_else() -> None:
    one = system(drop=0.0).train()
    before = {name: p.detach().clone() for name, p in one.net.named_parameters()}
    _, _, losses = one.judge(samples(one, 2))
    sum(losses.values()).backward()
    torch.optim.SGD([p for p in one.net.parameters() if p.requires_grad], lr=0.1).step()
    for name, p in one.net.named_parameters():
        if not p.requires_grad:
            assert torch.equal(p, before[name]), name
    changed = {name for name, p in one.net.named_parameters() if not torch.equal(p, before[name])}
    assert any(name.startswith("image_encoder.adapter.") for name in changed)
    assert any(name.startswith("mask_decoder.") for name in changed)


def test_it_learns_a_handful_of_slices() -> None:
    one = system(variant="none", trained="everything", lr=3e-3).train()
    batch = samples(one, 2)
    optimizer = torch.optim.AdamW(one.net.parameters(), lr=3e-3)
    first = None
    for _ in range(120):
        answer, truth, losses = one.judge(batch)
        loss = sum(losses.values())
        first = first or float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = answer.logits > 0
    overlap = 2 * (found & (truth > 0)).sum() / (found.sum() + (truth > 0).sum())
    assert float(loss.detach()) < 0.5 * first and overlap > 0.7


def test_adapters_that_start_as_sam_give_sams_answers_and_those_of_the_release_do_not(tmp_path) -> None:
    plain = system(variant="none", trained="everything").eval()
    weights = tmp_path / "plain.pt"
    torch.save(plain.net.state_dict(), weights)
    batch = samples(plain, 1)
    with torch.no_grad():
        wanted = plain.judge(batch)[0].logits
        as_sam = system(start="sam", weights=weights, pixels="medsam").eval().judge(batch)[0].logits
        release = system(start="release", weights=weights, pixels="medsam").eval().judge(batch)[0].logits
    assert torch.allclose(as_sam, wanted, atol=1e-5)
    assert not torch.allclose(release, wanted, atol=1e-2)


def test_how_pixels_are_scaled_goes_with_the_weights(tmp_path) -> None:
    plain = system(variant="none", trained="everything")
    torch.save({"model": plain.net.state_dict(), "optimizer": {}, "epoch": 1}, tmp_path / "mine.pth")
    assert system(weights=tmp_path / "mine.pth").hparams["pixels"] == "medsam"
    torch.save(plain.net.state_dict(), tmp_path / "sam_vit_b_tiny.pth")
    assert system(weights=tmp_path / "sam_vit_b_tiny.pth").pixels == "sam"
    torch.save(plain.net.state_dict(), tmp_path / "unknown.pth")
    with pytest.raises(MedvitError, match="Say pixels"):
        system(weights=tmp_path / "unknown.pth")
    assert system().pixels == "medsam"


def test_sam_pads_and_medsam_stretches() -> None:
    plane = np.linspace(0.2, 1, 200, dtype=np.float32).reshape(1, 10, 20)
    padded, stretched = (fit_of((10, 20), 32, pixels) for pixels in ("sam", "medsam"))
    x = model_pixels(plane, padded, "sam")
    assert x.shape == (3, 32, 32) and (x[:, 16:] == 0).all() and x[:, :16].abs().min() > 0
    y = model_pixels(plane, stretched, "medsam")
    assert (float(y.min()), float(y.max())) == (0.0, 1.0) and y[:, -1].mean() > 0.8
    mask = np.zeros((10, 20), bool)
    mask[2:5, 4:9] = True
    for fit in (padded, stretched):
        back = fit.to_source(model_mask(mask, fit).numpy()) > 0.5
        assert (back & mask).sum() / (back | mask).sum() > 0.7
    box = padded.to_model(np.array([[4, 2, 9, 5.0]]))[0]
    np.testing.assert_allclose(box, np.array([4, 2, 9, 5]) * 1.6)


def test_a_training_view_is_one_structure_of_one_slice_in_a_box_around_it() -> None:
    _, mask = tiny_volumes.block()
    seen = set()
    for seed in range(30):
        chosen = random_choice(np.random.default_rng(seed), jitter=0.1, min_pixels=4, flip=0.5)(mask)
        assert (mask[chosen.slice] == chosen.labels[0]).sum() >= 4
        seen.add((chosen.slice, chosen.labels[0], chosen.mirrored))
        again = random_choice(np.random.default_rng(seed), jitter=0.1, min_pixels=4, flip=0.5)(mask)
        assert again.slice == chosen.slice and np.array_equal(again.margins, chosen.margins)
    assert len(seen) > 10
    several = random_choice(np.random.default_rng(0), jitter=0.1, min_pixels=4, flip=0.5, structures=5)(mask)
    assert sorted(several.labels) == [1, 2] and several.margins.shape == (2, 4)
    one = system()
    for seed in range(8):
        choice = random_choice(np.random.default_rng(seed), jitter=0.1, min_pixels=4, flip=0.5)
        asked = one.sample(image_of(), Case("a", "", ()), choice).asked
        assert asked is not None and asked.masks.any()
        rows, columns = np.nonzero(asked.masks[0].numpy())
        x0, y0, x1, y1 = asked.boxes[0].tolist()
        assert x0 - 1 <= columns.min() and columns.max() <= x1 + 1 and y0 - 1 <= rows.min() and rows.max() <= y1 + 1
        assert x0 >= 0 and y0 >= 0 and x1 <= 32 and y1 <= 32


def test_a_structure_without_enough_pixels_is_nothing_to_learn_from() -> None:
    mask = np.zeros((3, 8, 8), np.uint8)
    mask[1, 2, 2:5] = 1
    assert counted(mask, 3).tolist() == [[0, 0], [0, 3], [0, 0]]
    with pytest.raises(Rejected, match="nothing is learned from it"):
        counted(mask, 4)
    with pytest.raises(Rejected, match="without a mask"):
        system().sample(Image(image_of().pixels), Case("a", "", ()), steady_choice(jitter=0, min_pixels=1))


def test_boxes_and_points_are_asked_about_together_and_one_embedding_serves_all() -> None:
    one = system(variant="none", trained="everything", min_score=0.0).eval()
    embedded = []
    one.net.image_encoder.register_forward_hook(lambda *_: embedded.append(1))
    case = Case("u", "", (Path("a.png"),))
    file = str(Path("a.png").resolve())
    one.prompts = Prompts(
        {file: [Box("a", 2, 2, 12, 12), Box("b", 4, 4, 20, 20), Box("b", 1, 1, 9, 9)]},
        {file: [Point("a", 5, 5, True), Point("a", 11, 11, False), Point("c", 8, 8, True)]},
    )
    flat = Image(image_of().pixels[:, :1])
    with torch.no_grad():
        (result,) = one.predict_step(Batch([one.sample(flat, case)]))
    assert [region.label.name for region in result.regions] == ["a", "b", "b 2", "c"]
    assert [region.told["prompt"] for region in result.regions] == ["box and points", "box", "box", "points"]
    assert all(region.mask.shape == (24, 28) and 0 <= region.score <= 1 for region in result.regions)
    assert len(embedded) == 1


def test_a_volume_embeds_each_slice_at_most_once_a_way_whatever_is_asked() -> None:
    one = system(variant="none", trained="everything", min_score=0.0, most_change=1e9).eval()
    embedded = []
    one.net.image_encoder.register_forward_hook(lambda *_: embedded.append(1))
    case = Case("u", "NIFTI", (Path("a.nii"),))
    file = str(Path("a.nii").resolve())
    one.prompts = Prompts({file: [Box(name, 2, 2, 20, 20, 2) for name in "abcdef"]}, {})
    with torch.no_grad():
        one.predict_step(Batch([one.sample(image_of(), case)]))
    assert 1 <= len(embedded) <= 5


def test_the_rule_proposes_boxes_around_bright_or_dark_parts_and_never_the_whole_image() -> None:
    plane = np.full((60, 80), 0.2, np.float32)
    plane[10:25, 10:30] = 0.9
    plane[35:50, 40:70] = 0.8
    one, two = proposed(plane, 3, 3)
    assert (one.prompts[0].slice, one.told) == (3, "proposed: bright part 1 of 2 on slice 3")
    np.testing.assert_allclose(one.prompts[0].box, (40, 35, 70, 50), atol=2)
    np.testing.assert_allclose(two.prompts[0].box, (10, 10, 30, 25), atol=2)
    assert proposed(1 - plane, 0, 1)[0].told == "proposed: dark part 1 of 1 on slice 0"
    with pytest.raises(Rejected, match="the rule proposes none"):
        proposed(np.pad(np.ones((54, 54), np.float32), 3), 0, 3)  # it would cover more than 60 % of the image
    ring = np.zeros((60, 80), np.float32)
    ring[3:57, 3:77] = 1
    ring[8:52, 8:72] = 0
    with pytest.raises(Rejected, match="the rule proposes none"):
        proposed(ring, 0, 3)  # little of the image, in a box that is nearly all of it
    with pytest.raises(Rejected, match="proposes none"):
        system(proposals=0).asked(torch.zeros(1, 1, 8, 8), Case("a", "", (Path("a.png"),)))


def test_points_are_read_and_refused_in_sentences(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    table = tmp_path / "points.csv"
    table.write_text("path,label,x,y,inside\na.png,x,1,2,1\na.png,x,3,4,0\n")
    prompts = read_prompts(None, table)
    case = Case("u", "", (tmp_path / "a.png",))
    assert prompts.of(case, (1, 9, 9))[0].prompts[0].points == ((1.0, 2.0, True), (3.0, 4.0, False))
    with pytest.raises(Rejected, match="A point for x lies outside the image of 3 x 3"):
        prompts.of(case, (1, 3, 3))
    for row in ("a.png,x,1,2,yes", "a.png,x,far,2,1"):
        table.write_text(f"path,label,x,y,inside\n{row}\n")
        with pytest.raises(MedvitError, match="inside 1 or 0"):
            read_prompts(None, table)


def test_masks_are_rid_of_small_parts_only_when_asked() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:4, 2:4] = mask[8:16, 8:16] = mask[18, 18] = True
    assert cleaned(mask, False, 4).sum() == 68
    assert cleaned(mask, True, 0).sum() == 64
    assert cleaned(mask, True, 100).sum() == 0
    assert not cleaned(np.zeros((3, 3), bool), True, 5).any()
    assert cleaning("largest, 50") == (True, 50) and cleaning("7") == (False, 7)
    for text in ("small", "5,6", "largest,-1"):
        with pytest.raises(MedvitError, match="--clean is"):
            cleaning(text)


def test_what_is_ct_but_no_image_is_skipped_and_enhanced_objects_are_not() -> None:
    one = system()
    one.refuse(Case("u", "MR", (Path("a.dcm"),), header={"sop_class": "1.2.840.10008.5.1.4.1.1.4.1"}))
    with pytest.raises(Skipped, match="no image of CT or MR"):
        one.refuse(Case("u", "CT", (Path("a.dcm"),), header={"sop_class": "1.2.840.10008.5.1.4.1.1.88.67"}))
    with pytest.raises(Skipped, match="modality is US"):
        system().refuse(Case("u", "US", (Path("a.dcm"),)))


def test_tables_and_folders_of_masks(tmp_path) -> None:
    table = tiny_volumes.write_set(tmp_path / "set")
    splits = read_masked("medvit", table)
    assert {split: len(cases) for split, cases in splits.items()} == {"train": 4, "val": 2}
    assert all(case.mask and case.modality == "NIFTI" for cases in splits.values() for case in cases)
    for folder in ("images", "labels"):
        (tmp_path / "pairs" / folder).mkdir(parents=True)
        for n in range(10):
            (tmp_path / "pairs" / folder / f"P{n // 2}_{n}.{'png' if folder == 'images' else 'nii.gz'}").touch()
    splits = read_masked("folders", tmp_path / "pairs", r"(P\d)_")
    homes = {case.patient: split for split, cases in splits.items() for case in cases}
    assert sum(map(len, splits.values())) == 10 and len(homes) == 5 and set(homes.values()) == {"train", "val", "test"}
    (tmp_path / "pairs" / "images" / "alone.png").touch()
    with pytest.raises(MedvitError, match=r"alone\.png has no mask of the same name"):
        read_masked("folders", tmp_path / "pairs")
    for folder in ("imgs", "gts"):
        (tmp_path / "npy" / folder).mkdir(parents=True)
        for n in range(12):
            (tmp_path / "npy" / folder / f"CT_a_{n // 3}-{n:03}.npy").touch()
    splits = read_masked("medsam", tmp_path / "npy")
    assert len({case.patient for cases in splits.values() for case in cases}) == 4


def test_wrong_tables_of_masks_are_refused_in_sentences(tmp_path) -> None:
    table = tiny_volumes.write_set(tmp_path)
    good = table.read_text()
    for change, words in (
        (("masks/0.nii.gz", ""), "has no mask"),
        (("masks/0.nii.gz", "masks/9.nii.gz"), "is not there"),
        (("P5,val", "P0,val"), "more than one split"),
        (("P5,val", "P5,holdout"), "must be one of"),
    ):
        table.write_text(good.replace(*change))
        with pytest.raises(MedvitError, match=words):
            read_masked("medvit", table)
    with pytest.raises(MedvitError, match="neither npz files"):
        read_masked("medsam", tmp_path / "masks")
    with pytest.raises(MedvitError, match="no folders images"):
        read_masked("folders", tmp_path)
    with pytest.raises(MedvitError, match=r"data\.jitter"):
        Masks(table, jitter=2.0)


@pytest.mark.real
def test_real_files_without_their_partner_are_named(tmp_path) -> None:
    if not REAL.is_dir():
        pytest.skip("../shared/data/seg3d is not at hand")
    for folder, kind in (("images", "image_without_label"), ("labels", "label_without_image")):
        (tmp_path / folder).mkdir()
        for file in REAL.glob(f"{kind}_*"):
            (tmp_path / folder / file.name.removeprefix(f"{kind}_")).symlink_to(file)
    with pytest.raises(MedvitError, match=r"hippocampus_118\.nii\.gz has no mask of the same name"):
        read_masked("folders", tmp_path)


def test_the_checkpoint_holds_plain_arguments() -> None:
    one = system()
    arguments = {name: value for name, value in one.hparams.items() if name != "weights"}
    plain = json.loads(json.dumps(arguments, default=list))
    assert plain == {**arguments, "everywhere": [0, 1]} and plain["pixels"] == "medsam"


def test_how_much_is_trained_is_said_when_training_begins(caplog) -> None:
    one = system()
    trained, frozen = trained_and_frozen(one.net)
    with caplog.at_level("INFO"):
        one.on_fit_start()
    assert f"{trained} numbers are trained, {frozen} stay frozen" in caplog.text
    assert trained + frozen == sum(parameter.numel() for parameter in one.net.parameters())


@pytest.mark.parametrize("variant", ["attention", "unfused"])
def test_steps_of_the_ablation_answer_and_learn(variant: str) -> None:
    one = system(variant=variant, start="sam").train()
    _, _, losses = one.judge(samples(one, 2))
    sum(losses.values()).backward()
    assert all(p.grad is not None for name, p in one.net.named_parameters() if ".adapter." in name)
