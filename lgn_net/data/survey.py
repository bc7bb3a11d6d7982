"""What the files of a data set are, without decoding more than needed: what `doctor.py` judges."""

import filecmp
import io
import mmap
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lgn_net.data.clips import is_truncated, read_frame
from lgn_net.data.videos import Video
from lgn_net.errors import UserError

LOSSLESS = ("PNG", "BMP", "DIB", "PPM", "SUN")           # as Pillow calls them


class Frame(NamedTuple):
    """What is known of an image file: path, bytes and damage alone when it cannot be decoded."""

    path: str
    bytes: int
    damage: str | None = None            # the sentence that training would end with
    size: tuple[int, int] = (0, 0)       # width, height
    format: str = ""                     # "JPEG", "PNG", ...
    mode: str = ""                       # how the file stores colour: "RGB", "L", ...
    grey: bool | None = None             # blue, green and red are equal everywhere; None: not looked at, or blank
    quality: int | None = None           # of JPEG, 1 to 100; 100 where nothing is lost; None: unknown
    content: tuple = ()                  # differs only if the pixels may differ
    repeats: bool = False                # the frame before is the same


class Split(NamedTuple):
    """The videos of "training" or "testing", and the frames of each."""

    name: str
    folder: Path
    videos: list[Video]
    frames: list[list[Frame]]
    full: bool                           # every frame was decoded


def survey(name: str, folder: Path, videos: list[Video], full: bool, update: Callable[[int], object]) -> Split:
    """Look at every file of a split, on all cores.

    Reads headers and ends of files, decodes a frame of every video, and reads neighbours whose sizes and ends agree;
    `full` decodes every frame. `update` is called with the number of frames seen since its last call.
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
    """What header and end of a file tell. Where they tell of damage, decoding decides."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, \
                Image.open(data) as image:
            if not is_truncated(data) and end_of_strips(image) <= len(data):
                return Frame(path, len(data), None, image.size, image.format, image.mode, None, quality(image),
                             (len(data), zlib.crc32(data[-4096:])))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):        # none of Pillow's formats, or empty
        pass
    return decoded(Frame(path, os.path.getsize(path) if os.path.isfile(path) else 0, format=Path(path).suffix[1:].upper()))


def decode(path: str) -> Frame:
    """What header and pixels tell."""
    frame = look(path)
    return frame if frame.damage else decoded(frame)


def decoded(frame: Frame) -> Frame:
    """The frame with what its pixels tell, or with its damage."""
    try:
        image = read_frame(frame.path, 3)
    except UserError as error:
        return Frame(frame.path, frame.bytes, str(error))
    blue, green, red = np.moveaxis(image, 2, 0)
    grey = None if image.min() == image.max() else bool((blue == green).all() and (green == red).all())
    return frame._replace(size=image.shape[1::-1], grey=grey, content=(image.shape, zlib.crc32(image)))


def with_colour(frames: list[Frame]) -> list[Frame]:
    """Fill in `grey` for the frames of a video from the first of every format and mode, decoded."""
    grey, seen = {}, []
    for frame in frames:
        kind = (frame.format, frame.mode)
        if not frame.damage and kind not in grey:
            first = decoded(frame)
            frame = frame._replace(damage=first.damage)
            grey |= {} if first.damage else {kind: first.grey}
        seen.append(frame._replace(grey=grey.get(kind)))
    return seen


def same_picture(before: Frame | None, after: Frame, full: bool) -> bool:
    """Whether two neighbours are equal: in pixels when these were decoded, else in bytes."""
    if before is None or before.damage or after.damage or before.content != after.content:
        return False
    return full or filecmp.cmp(before.path, after.path, shallow=False)


def end_of_strips(image: Image.Image) -> int:
    """Where the pixels of a TIFF file end, by its tags StripOffsets and StripByteCounts; 0 for other formats."""
    tags = getattr(image, "tag_v2", {})
    return max((offset + count for offset, count in zip(tags.get(273, ()), tags.get(279, ()))), default=0)


def quality(image: Image.Image) -> int | None:
    """The quality that a JPEG was written with, by its quantisation steps; 100 where nothing is lost, None if unknown."""
    if image.format in LOSSLESS or (image.format == "TIFF" and image.info.get("compression") != "jpeg"):
        return 100
    tables = getattr(image, "quantization", None)
    return int(np.abs(luma_steps() - sum(tables[0])).argmin()) + 1 if tables else None


@cache
def luma_steps() -> np.ndarray:
    """The sum of the 64 quantisation steps of luma at JPEG quality 1 to 100, as the encoder writes them: (100,)."""
    files = [io.BytesIO() for _ in range(100)]
    for q, file in enumerate(files, start=1):
        Image.new("L", (8, 8)).save(file, "JPEG", quality=q)
    return np.array([sum(Image.open(file).quantization[0]) for file in files])
