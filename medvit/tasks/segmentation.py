"""Masks of what is asked about: a prompt gets a mask and a score, a volume slice by slice."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medvit.case import ENHANCED, SLICES, STACKED, VOLUME, Case
from medvit.codes import Label, code_of
from medvit.data.batch import Batch, Sample
from medvit.data.prompts import RULE, Object, Prompt, Prompts, proposed, read_prompts
from medvit.data.scans import fit_of, model_pixels, training_sample
from medvit.errors import MedvitError, Rejected, Skipped
from medvit.evaluate.segmentation import dice
from medvit.guard import LIMITS, Duty, Limits, Pool, Reply
from medvit.image import Fit, Image
from medvit.nets.sam import Pixels, Sam, mask_loss, quality_loss
from medvit.nets.sam_decoder import MaskAnswer
from medvit.nets.sam_prompt import BACKGROUND, FOREGROUND, NO_POINT
from medvit.readers.masks import read_mask
from medvit.readers.scan import Grey, read_scan
from medvit.result import Region, Result
from medvit.tasks.propagation import Found, Mask, Stop, propagate
from medvit.tasks.system import System
from medvit.weights import file_digest

READ_S = 120  # processor seconds for one volume
INSIDE = 0.5  # probability from which a pixel belongs to a mask
LARGEST = "largest"


class Segmentation(System):
    """Promptable segmentation of slices, films, pictures and volumes by a `Sam`.

    Args:
        net: Embeds an image once and answers prompts about it.
        side: Pixels of the model's square.
        pixels: How the network wants them, see `medvit.nets.sam.normalise`.
        grey: How values of CT, MR and NIfTI become grey.
        stop: When outlines are carried no further in volumes.
        proposals: Boxes at most that the rule proposes where no prompt is given; 0 refuses such cases.
        quality_weight: Of the loss of the network's own score.
        lr: Learning rate.
        min_lr: Where the cosine ends.
        weight_decay: Of all that is trained.
        warmup_epochs: Epochs of linear warm-up.
    """

    modalities: ClassVar[tuple[str, ...]] = (*STACKED, VOLUME, "CR", "DX", "")
    monitor: ClassVar[tuple[str, str]] = ("val/dice", "max")
    at_once: ClassVar[int | None] = 1
    limits: ClassVar[Limits] = LIMITS._replace(cpu_s=READ_S, wall_s=2 * READ_S)

    def __init__(
        self,
        net: Sam,
        *,
        side: int,
        pixels: Pixels,
        grey: Grey,
        stop: Stop,
        proposals: int,
        quality_weight: float,
        lr: float,
        min_lr: float,
        weight_decay: float,
        warmup_epochs: float,
    ) -> None:
        super().__init__()
        self.net, self.side, self.pixels, self.grey, self.stop = net, side, pixels, grey, stop
        self.proposals, self.quality_weight = proposals, quality_weight
        self.lr, self.min_lr, self.weight_decay, self.warmup_epochs = lr, min_lr, weight_decay, warmup_epochs
        self.prompts = Prompts()
        self.largest, self.min_pixels = False, 0

    # What is read.

    def refuse(self, case: Case) -> None:
        """Skip other modalities, and what is CT or MR but no slice."""
        super().refuse(case)
        if case.modality in STACKED and case.header.get("sop_class", "") not in (*SLICES, *ENHANCED):
            raise Skipped("sop_class", "It is no image of CT or MR (a report, a dose, raw data).")

    def told(self, option: str, text: str) -> str:
        """Take ``boxes`` and ``points``, paths of tables, and ``clean``: what masks are rid of."""
        if option == "boxes":
            self.prompts = Prompts(read_prompts(Path(text), None).boxes, self.prompts.points)
        elif option == "points":
            self.prompts = Prompts(self.prompts.boxes, read_prompts(None, Path(text)).points)
        elif option == "clean":
            self.largest, self.min_pixels = cleaning(text)
            return text
        else:
            return super().told(option, text)
        return f"SHA-256 {file_digest(Path(text))}"

    def read(self, case: Case) -> Image:
        """Grey or coloured pixels (C, D, H, W) in [0, 1], with the mask where the case has one to learn from."""
        image = read_scan(case.files, case.modality, self.grey)
        if case.mask is None:
            return image
        return Image(image.pixels, image.spacing, image.origin, read_mask(case.mask, image), image.place)

    def sample(self, image: Image, case: Case, look: Any = None) -> Sample:
        """The pixels of a case.

        Args:
            image: See `read`.
            case: Where it comes from.
            look: For training, what of it is learned from: a `medvit.data.scans.Choice`. Without one it is to be answered.

        Returns:
            ``x`` (C, D, H, W) of 0 to 255 in source pixels for answers; else a slice (3, side, side) as the network sees it.
        """
        if look:
            return training_sample(image, case, look, side=self.side, pixels=self.pixels)
        x = torch.from_numpy((image.pixels * np.float32(255) + np.float32(0.5)).astype(np.uint8))
        H, W = x.shape[2:]
        fit = fit_of((H, W), self.side, self.pixels)
        return Sample(x, torch.empty(0), case, fit, image.origin, spacing=image.spacing)

    def duties(self) -> Mapping[str, Duty]:
        """Adds ``truth``: the mask of a case, pixel by pixel as its image."""

        def truth(case: Case) -> Reply:
            mask = self.read(case).mask
            if mask is None:
                raise Rejected("no_mask", "It comes without a mask, so nothing can be measured on it.")
            return Reply(None, (mask,))

        return {**super().duties(), "truth": truth}

    def collect(self, case: Case, reply: Reply, pool: Pool) -> tuple[Sample, float]:
        """The sample of a case, once its prompts were seen to fit it."""
        sample, seconds = super().collect(case, reply, pool)
        self.asked(sample.x, case)
        return sample, seconds

    def asked(self, x: Tensor, case: Case) -> list[Object]:
        """What is asked about a case (C, D, H, W): the user's prompts, or boxes that `RULE` proposes.

        Raises:
            Rejected: When a prompt does not fit, or there is none and none may be proposed.
        """
        objects = self.prompts.of(case, tuple(x.shape[1:]))
        if objects:
            return objects
        if not self.proposals:
            raise Rejected("no_prompt", "No box or point is given for it, and this system proposes none. Give --boxes.")
        middle = x.shape[1] // 2
        plane = (x[:, middle].float().mean(dim=0) / 255).cpu().numpy()
        return proposed(plane, middle, self.proposals)

    # What is learned.

    def judge(self, batch: Batch) -> tuple[MaskAnswer, Tensor, dict[str, Tensor]]:
        """Answers to every prompt of a batch, the true masks (P, 1, h, w) at their resolution, and the losses."""
        asked = [one for one in batch.asked if one is not None]
        counts = torch.tensor([len(one.boxes) for one in asked], device=batch.x.device)
        embedding = self.net.embed(batch.x).repeat_interleave(counts, dim=0)
        answer = self.net.answer(embedding, torch.cat([one.boxes for one in asked]))
        masks = torch.cat([one.masks for one in asked])[:, None]
        truth = (
            torch.nn.functional.interpolate(masks.float(), answer.logits.shape[-2:], mode="area") >= INSIDE
        ).float()
        losses = {"mask": mask_loss(answer.logits, truth)}
        if self.quality_weight:
            losses["quality"] = quality_loss(answer, truth) * self.quality_weight
        return answer, truth, losses

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of a batch."""
        _, _, losses = self.judge(batch)
        loss = torch.stack(list(losses.values())).sum()
        self.log("train/loss", loss, on_epoch=True, on_step=False, batch_size=len(batch), prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """Loss and mean Dice of the structures on the chosen slices."""
        answer, truth, losses = self.judge(batch)
        self.log("val/loss", torch.stack(list(losses.values())).sum(), batch_size=len(batch))
        pairs = zip((answer.logits > 0).cpu().numpy(), (truth > 0).cpu().numpy(), strict=True)
        scores = [dice(found[0], true[0]) for found, true in pairs]
        self.log("val/dice", float(np.mean(scores)), batch_size=len(scores), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW over all that is not frozen; warm-up and half a cosine."""
        trained = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=self.weight_decay)
        return self.schedule(optimizer, self.warmup_epochs, self.min_lr)

    # What is answered.

    def predict_step(self, batch: Batch, index: int = 0) -> list[Result]:
        """A region for every object asked about; a batch is one case, whose slices are embedded as they are needed."""
        if len(batch) != 1:
            raise ValueError("cases of different sizes are answered one by one")
        case, x, fit, spacing = batch.cases[0], batch.x[0], batch.fits[0], batch.spacings[0]
        objects = self.asked(x, case)

        def answer(z: int, prompts: Sequence[Prompt]) -> list[tuple[Mask, float]]:
            return self.answered(x[:, z], fit, prompts)

        found = propagate(objects, (x.shape[1], *fit.source), answer, self.stop)
        regions = tuple(self._region(one, what, spacing) for one, what in zip(objects, found, strict=True))
        rule = {"prompts": RULE} if any(one.proposed for one in objects) else {}
        return [Result(case, regions=regions, origin={**batch.origins[0], **rule}, read=self.read)]

    def answered(self, planes: Tensor, fit: Fit, prompts: Sequence[Prompt]) -> list[tuple[Mask, float]]:
        """Masks (H, W) and scores of prompts about one slice (C, H, W) of 0 to 255, which is embedded once."""
        pixels = model_pixels((planes.float() / 255).cpu().numpy(), fit, self.pixels)
        embedding = self.net.embed(pixels[None].to(planes.device))
        answers: dict[int, tuple[Mask, float]] = {}
        for kind in ((True, False), (False, True), (True, True)):
            some = [i for i, one in enumerate(prompts) if (one.box is not None, bool(one.points)) == kind]
            if some:
                said = self.net.answer(embedding, **_tensors([prompts[i] for i in some], fit, planes.device))
                shares = said.logits[:, 0].float().sigmoid().cpu().numpy()
                scores = said.quality[:, 0].float().clamp(0, 1).tolist()
                answers |= {i: (fit.to_source(p) > INSIDE, s) for i, p, s in zip(some, shares, scores, strict=True)}
        return [answers[i] for i in range(len(prompts))]

    def _region(self, one: Object, found: Found, spacing: tuple[float, ...] | None) -> Region:
        mask, told = found.mask, {"prompt": one.told}
        if self.largest or self.min_pixels:
            mask = cleaned(mask, self.largest, self.min_pixels)
            kept = [*([LARGEST] if self.largest else []), *([str(self.min_pixels)] if self.min_pixels else [])]
            told["cleaned"] = f"{','.join(kept)}: {int(found.mask.sum() - mask.sum())} pixels taken away"
        if len(mask) > 1:
            slices = np.flatnonzero(mask.any(axis=(1, 2)))
            told["slices"] = f"{slices[0]} to {slices[-1]}" if len(slices) else "none"
            told["stopped"] = f"upwards: {found.ends[0]}; downwards: {found.ends[1]}"
        label = Label(one.label, code_of(one.label))
        return Region(label, mask[0] if len(mask) == 1 else mask, found.score, spacing, told)


def _tensors(prompts: Sequence[Prompt], fit: Fit, device: torch.device) -> dict[str, Any]:
    """Prompts of one kind as the network takes them, in model pixels; fewer points are filled up."""
    out: dict[str, Any] = {}
    if prompts[0].box is not None:
        out["boxes"] = torch.from_numpy(fit.to_model(np.array([one.box for one in prompts], float))).float().to(device)
    if prompts[0].points:
        most = max(len(one.points) for one in prompts)
        points, labels = torch.zeros(len(prompts), most, 2), torch.full((len(prompts), most), NO_POINT)
        for i, one in enumerate(prompts):
            for j, (x, y, inside) in enumerate(one.points):
                points[i, j] = torch.from_numpy(fit.to_model(np.array([[x, y, x, y]]))[0, :2])
                labels[i, j] = FOREGROUND if inside else BACKGROUND
        out |= {"points": points.to(device), "labels": labels.to(device)}
    return out


def cleaning(text: str) -> tuple[bool, int]:
    """What ``--clean`` says: ``largest``, a number of pixels, or both.

    Raises:
        MedvitError: For anything else.
    """
    words = [word.strip() for word in text.split(",")]
    numbers = [int(word) for word in words if word.isdecimal()]
    if len(numbers) > 1 or any(word != LARGEST and not word.isdecimal() for word in words):
        raise MedvitError(
            f"--clean is {text!r}; give {LARGEST}, a number of pixels below which parts are dropped, or both."
        )
    return LARGEST in words, numbers[0] if numbers else 0


def cleaned(mask: NDArray[np.bool_], largest: bool, min_pixels: int) -> NDArray[np.bool_]:
    """A mask without connected parts below so many pixels, and of those only the largest where asked for."""
    parts, count = ndimage.label(mask)
    if not count:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    keep = sizes >= max(min_pixels, 1)
    if largest:
        keep &= np.arange(len(sizes)) == sizes.argmax()
    kept: NDArray[np.bool_] = keep[parts]
    return kept
