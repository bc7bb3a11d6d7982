"""Anything that has frames, as they come: a video file, a folder of images, a stream, a camera."""

import contextlib
import itertools
import math
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from lgn_net.data.clips import read_frame
from lgn_net.data.videos import IMAGE_SUFFIXES, natural_key
from lgn_net.errors import UserError

Frame = tuple[np.ndarray, np.ndarray, float]     # picture (H, W, 3), the same in the network's channels, seconds or NaN


class Footage(NamedTuple):
    """An opened video."""

    frames: Iterator[Frame]
    length: int | None         # frames that it says it has
    fps: float | None
    live: bool                 # a camera or a stream: taken as it comes


def find_footage(text: str) -> Path | str | int:
    """What `--video` names: a file, a folder, the address of a stream, the number of a camera. UserError if nothing."""
    if Path(text).exists():
        return Path(text)
    if "://" in text:
        return text
    if text.isdecimal():
        return int(text)
    raise UserError(f"{text}: no such video; give a file, a folder of images, the number of a camera or an address "
                    f"like rtsp://...")


def name_of(text: str) -> str:
    """A name for the results."""
    if Path(text).exists():
        return Path(text).resolve().stem
    return f"camera_{text}" if text.isdecimal() else "stream"


@contextlib.contextmanager
def open_footage(place: Path | str | int, channels: int, fps: float | None) -> Iterator[Footage]:
    """Open what `find_footage` found; `fps` overrides what a file says. UserError when no picture comes out of it."""
    if isinstance(place, Path) and place.is_dir():
        names = [p.name for p in place.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
        if not names:
            raise UserError(f"{place} holds no images; give the folder with the frames of one video")
        paths = [str(place / name) for name in sorted(names, key=natural_key)]
        yield Footage(read_folder(paths, channels, fps), len(names), fps, False)
        return
    live = not isinstance(place, Path)
    with capture(place) as file:
        said = file.get(cv2.CAP_PROP_FPS)
        fps = fps or (said if 1 <= said <= 1000 else None)
        length = None if live else max(0, int(file.get(cv2.CAP_PROP_FRAME_COUNT))) or None
        first = file.read()[1]
        if first is None:
            raise UserError(f"no camera {place} answers; is it plugged in, and free?" if isinstance(place, int) else
                            f"{place} holds no picture that OpenCV can decode; is it a video?")
        yield Footage(read_capture(file, first, channels, None if live else fps, live), length, fps, live)


def read_folder(paths: list[str], channels: int, fps: float | None) -> Iterator[Frame]:
    """The frames of a folder of images, see `Footage`. UserError for a damaged one, or one of another size."""
    shape = None
    for t, path in enumerate(paths):
        picture = read_frame(path, 3)
        if shape not in (None, picture.shape):
            raise UserError(f"frame {path} is {picture.shape[1]} x {picture.shape[0]} pixels, the one before "
                            f"{shape[1]} x {shape[0]}; all frames of a video must have one size")
        shape = picture.shape
        yield picture, picture if channels == 3 else read_frame(path, channels), t / fps if fps else math.nan


def read_capture(file: cv2.VideoCapture, picture: np.ndarray | None, channels: int, fps: float | None,
                 live: bool) -> Iterator[Frame]:
    """The frames of a video file or camera, of which the first one is read, see `Footage`. A change of size ends it."""
    shape, started = picture.shape, time.monotonic()
    for t in itertools.count():
        if picture is None:
            return
        if picture.shape != shape:
            warnings.warn(f"frame {t} is {picture.shape[1]} x {picture.shape[0]} pixels, the one before {shape[1]} x "
                          f"{shape[0]}; the video is scored up to there")
            return
        image = picture if channels == 3 else cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)[..., None]
        yield picture, image, time.monotonic() - started if live else t / fps if fps else math.nan
        picture = file.read()[1]


@contextlib.contextmanager
def capture(path: Path | str | int) -> Iterator[cv2.VideoCapture]:
    """A video file or stream, decoded by a single thread (there is one for every core), or the camera of this number.

    It reads None when it cannot be opened.
    """
    file = cv2.VideoCapture(path) if isinstance(path, int) else \
        cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    try:
        yield file
    finally:
        file.release()


def slack(frames: int) -> int:
    """By how many frames the length in a header may be wrong."""
    return max(1, frames // 100)
