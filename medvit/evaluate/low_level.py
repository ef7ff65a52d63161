"""What a picture is like before any network looks: brightness, contrast, how its grey values and its detail are spread.

Pooled features of a network are blind to what the network was not taught to look at: noise that was smoothed looks to it like a
film without findings. Its lack of fine detail does not hide from these numbers.
"""

import torch
from torch import Tensor

QUANTILES = (0.02, 0.25, 0.5, 0.75, 0.98)
FLOOR = 1e-6


def picture_statistics(x: Tensor) -> Tensor:
    """Statistics (B, S) of pictures (B, C, H, W), or of clips (B, C, T, H, W): the mean over their frames.

    Mean, logarithm of the deviation, quantiles in deviations from the mean, and the logarithm of the energy in every octave of
    spatial frequency, of the mean over channels; of clips also the logarithm of the mean change from frame to frame.
    """
    grey = x.float().mean(dim=1)
    B = len(grey)
    frames = grey.reshape(-1, *grey.shape[-2:])
    H, W = frames.shape[-2:]
    mean = frames.mean(dim=(1, 2))
    deviation = frames.std(dim=(1, 2)).clamp(min=FLOOR)
    z = (frames - mean[:, None, None]) / deviation[:, None, None]
    places = torch.tensor([round(share * (H * W - 1)) for share in QUANTILES], device=x.device)
    quantiles = z.flatten(1).sort(dim=1).values[:, places]
    energy = torch.fft.rfft2(z).abs().square() / (H * W)
    down, across = torch.fft.fftfreq(H, device=x.device)[:, None], torch.fft.rfftfreq(W, device=x.device)[None]
    octave = (
        ((down.square() + across.square()).sqrt() * max(H, W)).clamp(min=0.5).log2().floor().long()
    )  # -1 is the mean
    bands = [
        energy[:, octave == index].mean(dim=1) for index in range(int(octave.max()) + 1) if (octave == index).any()
    ]
    told = torch.cat(
        [mean[:, None], deviation.log()[:, None], quantiles, (torch.stack(bands, dim=1) + FLOOR).log10()], dim=1
    )
    told = told.reshape(B, -1, told.shape[1]).mean(dim=1)
    if grey.ndim == 4 and grey.shape[1] > 1:
        change = grey.diff(dim=1).abs().mean(dim=(1, 2, 3)).clamp(min=FLOOR).log()
        told = torch.cat([told, change[:, None]], dim=1)
    return told
