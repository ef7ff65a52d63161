"""Soft shapes, lines and clouds: what the painters of the sample data draw with.

Positions, distances and widths are in whatever unit the caller's coordinate planes have; masks are 0..1.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float64]
Segment = tuple[float, float, float, float, float]  # x0, y0, x1, y1, width


def soft(distance: Plane, width: float = 0.012) -> Plane:
    """Turns a signed distance (positive inside) into a soft-edged mask."""
    return 1.0 / (1.0 + np.exp(-np.clip(distance / width, -40.0, 40.0)))


def blur(plane: Plane, sigma: float) -> Plane:
    """Gaussian blur by Fourier transform; sigma in painted pixels, edges mirrored."""
    pad = int(3 * sigma) + 1
    wide = np.pad(plane, pad, mode="symmetric")
    fy, fx = np.fft.fftfreq(wide.shape[0]), np.fft.rfftfreq(wide.shape[1])
    gain = np.exp(-2.0 * (np.pi * sigma) ** 2 * (fy[:, None] ** 2 + fx[None, :] ** 2))
    blurred = np.fft.irfft2(np.fft.rfft2(wide) * gain, s=wide.shape)
    return blurred[pad:-pad, pad:-pad]


def clouds(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Plane:
    """Smooth noise of zero mean and unit deviation; sigma in painted pixels."""
    plane = blur(rng.standard_normal(shape), sigma)
    even: Plane = (plane - plane.mean()) / plane.std()
    return even


def curve(at: Plane, knots: Sequence[tuple[float, float]]) -> Plane:
    """A smooth line through (position, value) knots, read at every pixel's position."""
    x, y = np.array(knots).T
    dense = np.linspace(x[0] - 0.1, x[-1] + 0.1, 400)
    kernel = np.hanning(41)
    values = np.convolve(np.pad(np.interp(dense, x, y), 20, mode="edge"), kernel / kernel.sum(), mode="valid")
    return np.interp(at, dense, values)


def strokes(u: Plane, v: Plane, segments: Iterable[Segment]) -> Plane:
    """Soft lines x0, y0, x1, y1, width (in the planes' unit); where they cross, the stronger counts. Returns 0..1."""
    drawn = np.zeros_like(u)
    for x0, y0, x1, y1, width in segments:
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((u - x0) * dx + (v - y0) * dy) / (dx * dx + dy * dy + 1e-9), 0.0, 1.0)
        gap = (u - x0 - along * dx) ** 2 + (v - y0 - along * dy) ** 2
        np.maximum(drawn, np.exp(-gap / width**2), out=drawn)
    return drawn


def branches(
    rng: np.random.Generator, start: tuple[float, float], angle: float, length: float, width: float
) -> list[Segment]:
    """A tapering, once or twice forking tube as strokes; angle in radians, the rest in the caller's unit."""
    x, y = start
    found = []
    for step in range(4):
        angle += rng.uniform(-0.22, 0.22)
        nx, ny = x + length / 4 * np.cos(angle), y + length / 4 * np.sin(angle)
        found.append((x, y, nx, ny, width))
        if step in (1, 2) and width > 0.007:
            side = rng.choice([-1.0, 1.0]) * rng.uniform(0.4, 0.8)
            found += branches(rng, (nx, ny), angle + side, length * 0.5, width * 0.65)
        x, y, width = nx, ny, width * 0.78
    return found
