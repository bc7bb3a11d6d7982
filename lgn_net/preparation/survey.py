"""What the files of a data set are, found without decoding more than needed; `doctor.py` checks it."""

import contextlib
import filecmp
import io
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from lgn_net.data.clips import is_truncated, read_frame
from lgn_net.data.videos import Video
from lgn_net.errors import UserError

LOSSLESS = ("PNG", "BMP", "DIB", "PPM", "SUN", "TIFF")   # as Pillow calls them; TIFF mostly


class Frame(NamedTuple):
    """What is known of an image file; only path and bytes when it is damaged."""

    path: str
    bytes: int
    damaged: bool = False                # training would end here with an error
    width: int = 0                       # pixels
    height: int = 0
    format: str = ""                     # "JPEG", "PNG", ...
    mode: str = ""                       # how the file stores colour: "RGB", "L", ...
    grey: bool | None = None             # blue, green and red are equal everywhere; None: not looked at, or blank
    quality: int | None = None           # of JPEG, 1 to 100; 100 where nothing is lost; None: unknown
    content: tuple = ()                  # differs only if the pixels may differ
    repeats: bool = False                # the frame before is the same

    @property
    def size(self) -> str | None:
        """Return `360 x 240`; None for a damaged frame."""
        return None if self.damaged else f"{self.width} x {self.height}"

    @property
    def colour(self) -> str | None:
        """Return `grey` or `colour`; None where unknown."""
        return {True: "grey", False: "colour", None: None}[self.grey]

    @property
    def encoding(self) -> str | None:
        """Return `JPEG 95`, or `PNG`; None for a damaged frame."""
        return f"{self.format} {self.quality}" if self.quality and self.format not in LOSSLESS else self.format or None


class Split(NamedTuple):
    """The videos of "training" or "testing", and the frames of each."""

    name: str
    folder: Path
    videos: list[Video]
    frames: list[list[Frame]]
    full: bool                           # every frame was decoded


def survey(name: str, folder: Path, videos: list[Video], full: bool, update: Callable[[int], object]) -> Split:
    """Look at every file of a split, on all cores.

    Read headers and ends of files, decode a frame of every video, and compare neighbours whose sizes and ends agree.

    Args:
        name: "training" or "testing".
        folder: where the videos are.
        videos: all of them.
        full: decode every frame.
        update: is called with the number of frames seen since its last call.
    """
    frames = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for video in videos:
            seen = list(pool.map(decode, video.frames)) if full else with_colour(list(pool.map(look, video.frames)))
            frames.append([after._replace(repeats=same_picture(before, after, full))
                           for before, after in zip([None, *seen], seen)])
            update(len(seen))
    return Split(name, folder, videos, frames, full)


def look(path: str) -> Frame:
    """Read the header and the end of a file. Where they tell of damage, decode it."""
    data = Path(path).read_bytes() if os.path.isfile(path) else b""
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:    # Pillow fails in many ways
        if not is_truncated(data) and end_of_strips(image) <= len(data):
            return Frame(path, len(data), False, *image.size, image.format or "", image.mode, None, quality(image),
                         (len(data), zlib.crc32(data[-4096:])))
    return decoded(Frame(path, len(data), format=Path(path).suffix[1:].upper()))


def decode(path: str) -> Frame:
    """Read the header and the pixels of a file."""
    frame = look(path)
    return frame if frame.damaged else decoded(frame)


def decoded(frame: Frame) -> Frame:
    """Decode a frame, and add what its pixels tell; mark it as damaged when that fails."""
    try:
        image = read_frame(frame.path, 3)
    except (UserError, cv2.error):
        return Frame(frame.path, frame.bytes, damaged=True)
    blue, green, red = np.moveaxis(image, 2, 0)
    grey = None if image.min() == image.max() else bool((blue == green).all() and (green == red).all())
    height, width, _ = image.shape
    return frame._replace(width=width, height=height, grey=grey, content=(image.shape, zlib.crc32(image.data)))


def with_colour(frames: list[Frame]) -> list[Frame]:
    """Fill in `grey` for the frames of a video: decode the first one of every format and mode that is not blank."""
    grey: dict[tuple[str, str], bool | None] = {}
    seen = []
    for frame in frames:
        kind = (frame.format, frame.mode)
        if not frame.damaged and grey.get(kind) is None:
            pixels = decoded(frame)
            grey[kind] = pixels.grey
            frame = pixels if pixels.damaged else frame
        seen.append(frame)
    return [frame._replace(grey=grey.get((frame.format, frame.mode))) for frame in seen]


def same_picture(before: Frame | None, after: Frame, full: bool) -> bool:
    """Tell whether two frames are equal: in pixels when these were decoded, else in bytes."""
    if before is None or before.damaged or after.damaged or before.content != after.content:
        return False
    return full or filecmp.cmp(before.path, after.path, shallow=False)


def end_of_strips(image: Image.Image) -> int:
    """Find where the pixels of a TIFF file end, by its tags StripOffsets and StripByteCounts; 0 for other formats."""
    tags = getattr(image, "tag_v2", {})
    return max((offset + count for offset, count in zip(tags.get(273, ()), tags.get(279, ()))), default=0)


def quality(image: Image.Image) -> int | None:
    """Find the quality of a JPEG by its quantisation steps; 100 where nothing is lost, None if unknown."""
    if image.format in LOSSLESS:
        return None if image.info.get("compression") == "jpeg" else 100
    tables = getattr(image, "quantization", None)
    luma = next(iter(tables.values())) if tables else None
    return int(np.abs(luma_steps() - sum(luma)).argmin()) + 1 if luma else None


@cache
def luma_steps() -> np.ndarray:
    """Return the sum of the 64 quantisation steps of luma that the encoder writes at quality 1 to 100: (100,)."""
    files = [io.BytesIO() for _ in range(100)]
    for q, file in enumerate(files, start=1):
        Image.new("L", (8, 8)).save(file, "JPEG", quality=q)
    return np.array([sum(Image.open(file).quantization[0]) for file in files])     # type: ignore[attr-defined]
