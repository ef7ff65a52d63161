import csv
import logging
from pathlib import Path

import numpy as np
import pytest
import tiny_clips
import torch
from PIL import Image as Pillow
from tiny import medvit, read_rows

from medvit.case import Case
from medvit.data.batch import Batch
from medvit.data.clip_tables import CLASSES, DETACHMENT, MACULA, OLDER_CLASSES, TASKS, VITREOUS, read_clips
from medvit.data.clips import clip_sample, random_look, resampled, shrunk, square
from medvit.errors import MedvitError
from medvit.explain.subjects import subject_of
from medvit.image import Image
from medvit.result import Finding
from medvit.systems.erdes import ERDES, ERDESCascade, VideoMAEPretraining
from medvit.writers.clip_heat import at_frame, importance

TINY = {"frames": 16, "side": 32, "slim": 16, "lr": 1e-2}
VIT = {"net": "video_vit", "frames": 8, "side": 32, "patch": 8, "width": 32, "depth": 2, "heads": 2, "lr": 3e-3}


def image_of(frames: np.ndarray) -> Image:
    return Image(frames[None].astype(np.float32))


def test_a_clip_is_padded_to_a_square_and_resampled_as_by_erdes() -> None:
    frames = np.random.default_rng(0).random((20, 30, 50)).astype(np.float32)
    sample = clip_sample(image_of(frames), Case("a", "US", ()), None, size=(96, 128, 128), smooth=False, labels=())
    padded = torch.nn.functional.pad(torch.from_numpy(frames), (0, 0, 10, 10))
    wanted = torch.nn.functional.interpolate(padded[None, None], (96, 128, 128), mode="trilinear", align_corners=False)
    assert sample.x.shape == (1, 96, 128, 128)
    assert torch.equal(sample.x, wanted[0])
    assert sample.x.min() >= 0 and sample.x.max() <= 1
    assert sample.fit.box == (-10, 0, 40, 50)


def test_an_odd_padding_leaves_the_larger_half_below() -> None:
    assert square(np.ones((2, 5, 8), np.float32)) == (-1, 0, 7, 8)


def test_only_what_is_scanned_fills_the_view() -> None:
    frames = np.zeros((4, 40, 60), np.float32)
    frames[:, 10:30, 20:40] = 0.5
    sample = clip_sample(image_of(frames), Case("a", "US", ()), None, size=(4, 16, 16), smooth=False, labels=())
    assert torch.allclose(sample.x, torch.full_like(sample.x, 0.5))
    assert sample.fit.box == (10, 20, 30, 40)


def test_large_frames_are_averaged_down_once() -> None:
    frames = np.random.default_rng(0).random((4, 70, 90)).astype(np.float32)
    small = shrunk(image_of(frames), 20)
    assert small.pixels.shape == (1, 4, 17, 22)
    assert np.allclose(small.pixels[0, 0, 0, 0], frames[0, :4, :4].mean())
    assert shrunk(small, 20) is small
    smooth = clip_sample(image_of(frames), Case("a", "US", ()), None, size=(4, 20, 20), smooth=True, labels=())
    assert smooth.fit.source == (70, 90)
    assert smooth.fit.box[3] - smooth.fit.box[1] == pytest.approx(88)


def test_random_looks_stay_inside_and_repeat_with_their_seed() -> None:
    for seed in range(50):
        look = random_look(np.random.default_rng(seed), crop_min=0.5, flip=0.5, time_min=0.5)
        seen = look((0, 0, 40, 40), 30, 16)
        assert seen.box[0] >= 0 and seen.box[2] <= 40 and seen.box[1] >= 0 and seen.box[3] <= 40
        assert (seen.box[2] - seen.box[0]) ** 2 >= 0.5 * 1600 - 1e-6
        assert 0 <= seen.start < seen.stop <= 30 and seen.stop - seen.start >= 15
        again = random_look(np.random.default_rng(seed), crop_min=0.5, flip=0.5, time_min=0.5)
        assert again((0, 0, 40, 40), 30, 16) == seen


@pytest.mark.parametrize(("frames", "step", "length"), [(100, 4, 64), (64, 4, 64), (40, 1, 16), (10, 1, 10)])
def test_strides_take_single_frames_as_videomae_does(frames: int, step: int, length: int) -> None:
    seen = random_look(np.random.default_rng(0), stride=4)((0, 0, 8, 8), frames, 16)
    assert (seen.step, seen.stop - seen.start) == (step, length)
    content = np.arange(frames, dtype=np.float32)[:, None, None].repeat(8, 1).repeat(8, 2)
    x = resampled(content[seen.start : seen.stop : seen.step], seen.box, (16, 8, 8))
    if frames >= 16:
        assert x[:, 0, 0].tolist() == list(range(seen.start, seen.stop, seen.step))


@pytest.mark.parametrize("task", TASKS)
def test_what_1_means_is_in_the_name_and_the_code_of_the_label(task: str) -> None:
    system = ERDES(task=task, **TINY)  # type: ignore[arg-type]
    (label,) = system.labels
    assert label.name == TASKS[task]
    assert "(0: " in label.code.meaning
    assert label.name == "Macula_Intact_vs_Detached" or task != "macula_detached_vs_intact"


def test_networks_and_systems_refuse_what_they_cannot_be() -> None:
    with pytest.raises(MedvitError, match="a video_vit has neither"):
        ERDES(**VIT, top=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be made thinner"):
        ERDES(net="vnet", slim=4)


@pytest.mark.parametrize("net", ["unet3d", "video_vit"])
def test_positive_findings_have_maps_in_space_and_time(net: str) -> None:
    torch.manual_seed(0)
    system = ERDES(**(VIT if net == "video_vit" else TINY)).eval()  # type: ignore[arg-type]
    system.thresholds.zero_()
    frames = tiny_clips.scan(12).astype(np.float32) / 255
    sample = system.sample(image_of(frames), Case("a", "US", ()))
    with torch.inference_mode():
        (result,) = system.predict_step(Batch([sample]))
    (heat,) = result.heatmaps
    assert heat.values.ndim == 3 and heat.values.min() >= 0
    assert heat.values.shape == ((4, 4, 4) if net == "video_vit" else (4, 6, 6))
    assert heat.method == ("gradient x attention" if net == "video_vit" else "gradient x input")
    expected = subject_of(system.net).methods[heat.method](sample.x[None], 0)  # what `explain --score` measures
    np.testing.assert_allclose(heat.values, expected.numpy(), rtol=1e-3, atol=1e-6)
    system.explains = False
    with torch.inference_mode():
        assert system.predict_step(Batch([sample]))[0].heatmaps == ()


def test_the_cascade_says_nothing_of_the_macula_where_nothing_is_detached() -> None:
    system = ERDESCascade(**TINY)  # type: ignore[arg-type]
    findings = tuple(Finding(label, p) for label, p in zip(system.answered(), (0.4, 0.9), strict=True))
    assert [finding.label.name for finding in system.said(findings)] == [DETACHMENT]
    detached = tuple(Finding(label, p) for label, p in zip(system.answered(), (0.6, 0.9), strict=True))
    assert [(one.label.name, one.probability) for one in system.said(detached)] == [(DETACHMENT, 0.6), (MACULA, 0.9)]


def test_each_stage_of_the_cascade_learns_from_its_own_labels_only() -> None:
    system = ERDESCascade(**TINY)  # type: ignore[arg-type]
    samples = [
        clip_sample(image_of(np.random.default_rng(i).random((16, 32, 32))), Case(str(i), "US", (), {DETACHMENT: i % 2}),
                    None, size=(16, 32, 32), smooth=False, labels=system.labels)
        for i in range(2)
    ]  # fmt: skip
    _, loss = system.judge(Batch(samples))
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad for name, parameter in system.net.named_parameters()}
    assert all(g is None or not g.any() for name, g in gradients.items() if name.startswith("macula"))
    assert any(g is not None and g.any() for name, g in gradients.items() if name.startswith("detachment"))


@pytest.mark.parametrize("net", ["unet3d", "video_vit"])
def test_it_learns_a_handful_of_clips(net: str) -> None:
    torch.manual_seed(0)
    system = ERDES(**(VIT if net == "video_vit" else TINY)).train()  # type: ignore[arg-type]
    samples = []
    for i in range(8):
        frames = tiny_clips.scan(12, seed=i).astype(np.float32) / 255
        if i % 2:
            frames[:, 40:44, 50:80] = 1.0
        case = Case(str(i), "US", (), {DETACHMENT: float(i % 2)})
        samples.append(system.sample(image_of(frames), case))
    batch = Batch(samples)
    optimizer = torch.optim.AdamW(system.parameters(), system.lr)
    for _ in range(40):
        logits, loss = system.judge(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    assert (logits[1::2].min() > logits[::2].max()).item()
    assert loss < 0.3


def test_pre_training_gives_its_encoder_to_the_video_vit(tmp_path: Path) -> None:
    shape = {key: VIT[key] for key in ("frames", "side", "patch", "width", "depth", "heads")}
    system = VideoMAEPretraining(**shape, decoder_width=24, decoder_depth=1, decoder_heads=2, mask_ratio=0.75)  # type: ignore[arg-type]
    torch.save({"state_dict": system.state_dict()}, tmp_path / "pre.ckpt")
    fine = ERDES(**VIT, weights=tmp_path / "pre.ckpt")  # type: ignore[arg-type]
    assert torch.equal(fine.net.blocks[1].attn.qkv.weight, system.objective.encoder.blocks[1].attn.qkv.weight)  # type: ignore[union-attr, index]


def write_folder(folder: Path, each: int = 10, leak: bool = True) -> Path:
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            prefix = 164267 + number if leak else 164267
            (folder / name / f"{prefix}_{number}{index:04d}.mp4").write_bytes(b"")
    return folder


def test_erdes_folders_are_split_once_for_all_tasks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_folder(tmp_path / "clips")
    caplog.set_level(logging.WARNING)
    detachment, macula = (read_clips("erdes", folder, [label]) for label in (DETACHMENT, MACULA))
    assert {split: len(cases) for split, cases in detachment.items()} == {"train": 42, "val": 6, "test": 12}
    home = {case.uid: split for split, cases in detachment.items() for case in cases}
    assert all(home[case.uid] == split for split, cases in macula.items() for case in cases if case.labels)
    assert sum(case.labels.get(MACULA) == 1 for case in macula["test"]) == 4
    assert "the names of the files tell their labels" in caplog.text


def test_the_folders_of_an_older_copy_mean_the_same(tmp_path: Path) -> None:
    for name in OLDER_CLASSES:
        (tmp_path / name).mkdir()
        for index in range(4):
            (tmp_path / name / f"{name[:2]}{index}x.mp4").write_bytes(b"")
    cases = [case for several in read_clips("erdes", tmp_path, list(TASKS.values())).values() for case in several]
    told = {case.files[0].parent.name: case.labels for case in cases}
    assert len(cases) == 16
    assert told["Macula_Intact"][MACULA] == 1 and told["Macula_Detached"][MACULA] == 0
    assert told["PVD"][VITREOUS] == 1 and told["Non_RD"][VITREOUS] == 0
    assert [told[name][DETACHMENT] for name in ("Macula_Intact", "Macula_Detached", "PVD", "Non_RD")] == [1, 1, 0, 0]


def test_names_that_tell_nothing_are_not_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_clips("erdes", write_folder(tmp_path / "clips", leak=False), [DETACHMENT])
    assert "tell their labels" not in caplog.text


def test_the_published_split_tables_are_read_with_their_polarity(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path / "clips", 2)
    names = [str(path.relative_to(tmp_path)) for path in sorted(folder.rglob("*.mp4")) if "Macula" in str(path)]
    task = tmp_path / "splits" / "macula_detached_vs_intact"
    task.mkdir(parents=True)
    for split in ("train", "val", "test"):
        with (task / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label"), *((name, int("Intact" in name)) for name in names)])
    splits = read_clips("erdes_splits", task, [MACULA], images=folder)
    for case in splits["test"]:
        assert case.labels == {MACULA: float("Intact" in str(case.files[0]))}
    assert "tests on clips that it learned from" in caplog.text


def test_tables_that_are_none_are_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "splits").mkdir()
    with pytest.raises(MedvitError, match="none of ERDES's tasks"):
        read_clips("erdes_splits", tmp_path / "splits", [], images=tmp_path)
    with pytest.raises(MedvitError, match="holds no clips in Retinal_Detachment"):
        read_clips("erdes", tmp_path, [DETACHMENT])
    with pytest.raises(MedvitError, match="folder of the clips"):
        read_clips("erdes_splits", tmp_path, [])
    with pytest.raises(MedvitError, match="ERDES has no label 'Mass'"):
        read_clips("erdes", write_folder(tmp_path / "clips", 3), ["Mass"])


def test_a_frame_is_as_important_as_its_part_of_the_map() -> None:
    values = np.zeros((4, 2, 2), np.float32)
    values[2] = 1.0
    curve = importance(values, 12)
    assert curve.argmax() in (7, 8) or curve[6:9].max() == 1.0
    assert curve.max() == 1.0 and curve[0] == 0.0
    assert at_frame(values, 7, 12).mean() == pytest.approx(1.0, abs=0.2)


def write_table(folder: Path) -> Path:
    rows: list[tuple[object, ...]] = [("path", "patient_id", "split", DETACHMENT, MACULA)]
    for index, split in enumerate(["train"] * 8 + ["val"] * 4):
        frames = tiny_clips.scan(8, seed=index)
        if index % 2:
            frames[:, 40:44, 50:80] = 255
        tiny_clips.write_us(folder / f"clips/{index}.dcm", frames)
        rows.append((f"clips/{index}.dcm", f"P{index}", split, index % 2, index // 2 % 2 if index % 2 else ""))
    with (folder / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "cases.csv"


@pytest.mark.slow
@pytest.mark.parametrize("system", ["ERDES", "ERDESCascade"])
def test_the_commands_train_and_answer_clips_with_film_and_numbers(tmp_path: Path, system: str) -> None:
    work = tmp_path / "work"
    write_table(work)
    (work / "a.yaml").write_text(
        f"system: {{class: {system}, net: unet3d, frames: 16, side: 32, slim: 16, lr: 0.01}}\n"
        "data: {class: Clips, table: cases.csv, batch_size: 4, cache: true}\n"
        "trainer: {max_epochs: 6, accelerator: cpu}\n"
    )
    done = medvit("train", "a.yaml", cwd=work)
    assert done.code == 0, done.err
    tiny_clips.write_video(work / "clips/truncated.avi", tiny_clips.scan(40))
    content = (work / "clips/truncated.avi").read_bytes()
    (work / "clips/truncated.avi").write_bytes(content[: len(content) // 2])
    tiny_clips.write_us(work / "clips/still.dcm", tiny_clips.scan(1))
    tiny_clips.write_video(work / "clips/whole.mp4", tiny_clips.scan(9))
    done = medvit(
        "predict", "runs/a/best.ckpt", "clips", "-o", "out", "--workers", "1", "--write", "heat,sr,sc,pm", cwd=work
    )
    assert done.code == 3, done.err
    inputs = {Path(row["source"]).name: row for row in read_rows(work / "out/inputs.csv")}
    assert [inputs[name]["status"] for name in ("0.dcm", "whole.mp4", "still.dcm", "truncated.avi")] == [
        "ok", "ok", "rejected", "rejected"
    ]  # fmt: skip
    assert inputs["still.dcm"]["message"] == "It holds one frame: a still image, no clip."
    labels = {row["label"] for row in read_rows(work / "out/results.csv")}
    assert labels >= {DETACHMENT}
    films = sorted((work / "out/cases").rglob("*.gif"))
    assert films
    with Pillow.open(films[0]) as film:
        assert getattr(film, "n_frames", 1) in (8, 9)
    with np.load(films[0].with_suffix(".npz")) as numbers:
        assert numbers["values"].ndim == 3
        assert len(numbers["importance"]) in (8, 9) and numbers["importance"].max() <= 1
    assert films[0].with_suffix(".png").is_file()
    objects = sorted((work / "out/cases").rglob("*.dcm"))
    assert {path.name for path in objects} == {"report_sr.dcm"}
    assert inputs["whole.mp4"]["case"] not in {path.parent.name for path in objects}, "a video has nothing to refer to"
