"""PNG pictures that say in words what they show and what made them."""

from collections.abc import Mapping
from pathlib import Path

from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from medvit.atomic import whole
from medvit.result import Run

CAPTION_MIN_ROWS = 200  # smaller pictures cannot carry a readable line


def write_caption(picture: Pillow.Image, text: str) -> None:
    """A dark line at the bottom with the text as large as fits; none on a picture that is too small for it."""
    if picture.height < CAPTION_MIN_ROWS:
        return
    draw = ImageDraw.Draw(picture)
    size = max(picture.height // 40, 9)
    font = ImageFont.load_default(size)
    width = draw.textlength(text, font)
    if width > picture.width * 0.96:
        font = ImageFont.load_default(max(size * picture.width * 0.96 / width, 5))
    draw.rectangle((0, picture.height - 1.6 * size, picture.width, picture.height), fill=(0, 0, 0))
    draw.text((picture.width * 0.01, picture.height - 1.4 * size), text, fill=(230, 230, 230), font=font)


def software(run: Run) -> str:
    """What made a picture."""
    return f"{run.system}, medvit {run.version}, weights SHA-256 {run.digest}"


def write_png(picture: Pillow.Image, path: Path, texts: Mapping[str, str] | None = None, effort: int = 1) -> Path:
    """Write a picture, whole or not at all.

    Args:
        picture: What to write.
        path: Where to.
        texts: By PNG keyword, such as ``Description`` and ``Software``.
        effort: Of compression, 0 to 9.
    """
    info = PngInfo()
    for keyword, text in (texts or {}).items():
        info.add_text(keyword, text)
    with whole(path) as part:
        picture.save(part, "PNG", pnginfo=info, compress_level=effort)
    return path
