"""A video as it comes: a file, a folder of images, a stream or a camera. PyAV (FFmpeg) decodes all but images."""

import contextlib
import itertools
import math
import re
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.container import InputContainer

from lgn_net.data.clips import read_frame, read_whole
from lgn_net.data.videos import image_names
from lgn_net.errors import UserError

PATIENCE = 10.0                # seconds that a stream or camera may take for its next picture
# FFmpeg's driver for cameras, the name that it gives to camera N, and options; AVFoundation's own default often fails.
CAMERAS = {"linux": ("v4l2", "/dev/video{}", {}), "darwin": ("avfoundation", "{}", {"framerate": "30"})}


class Frame(NamedTuple):
    """One frame of a `Footage`."""

    picture: np.ndarray        # uint8 (H, W, 3), blue-green-red
    image: np.ndarray          # the same in the network's channels, uint8 (H, W, C)
    seconds: float             # since the first frame; NaN: unknown


@dataclass
class Footage:
    """An opened video."""

    frames: Iterator[Frame]
    length: int | None         # number of frames that the source announces
    fps: float | None
    live: bool = False         # a camera or a stream: taken as it comes
    whole: bool = True         # False once a file has turned out to be cut off or damaged


def find_footage(text: str) -> tuple[Path | str | int, str]:
    """Return what `--video` names, and a name for it in the results. UserError when it names nothing.

    It names a file or folder, the address of a stream (on Windows also a camera, `video=...`), or a camera's number.
    """
    text = re.sub(r"^/dev/video(?=\d+$)", "", text)
    if Path(text).exists():
        return Path(text), Path(text).resolve().stem.encode(errors="replace").decode()       # some names are no UTF-8
    if "://" in text or text.startswith("video="):
        return text, "stream"
    if text.isdecimal():
        return int(text), f"camera_{text}"
    raise UserError(f"{shown(text)}: no such video; give a file, a folder of images, the number of a camera or an "
                    f"address like rtsp://...")


def shown(place: Path | str | int) -> str:
    """Return a source as it may be printed: without user, password and query of an address."""
    if isinstance(place, int):
        return f"camera {place}"
    return str(place) if isinstance(place, Path) else re.sub(r"\?.*", "?***", re.sub(r"(\w+:/*)?.*@", r"\1***@", place))


@contextlib.contextmanager
def open_footage(place: Path | str | int, channels: int = 3, fps: float | None = None) -> Iterator[Footage]:
    """Open what `find_footage` found; each frame's `image` gets 1 or 3 channels. UserError when no picture comes out.

    `fps` takes the place of a file's own time stamps.
    """
    if isinstance(place, Path) and place.is_dir():
        paths = [str(place / name) for name in image_names(place)]
        if not paths:
            raise UserError(f"{place} holds no images; give the folder with the frames of one video")
        frames = (Frame(picture, picture if channels == 3 else read_frame(path, channels), t / fps if fps else math.nan)
                  for t, (path, picture) in enumerate(zip(paths, read_whole(paths, 3))))
        yield Footage(frames, len(paths), fps)
        return
    with contextlib.ExitStack() as stack:
        try:
            container = stack.enter_context(open_container(place))
            stream = container.streams.video[0]
            rate = float(stream.guessed_rate or stream.average_rate or 0)
            length = stream.frames or round((container.duration or 0) / av.time_base * rate)
            live = not isinstance(place, Path) and not container.duration         # an address may be a file's
            if isinstance(place, Path) and length > place.stat().st_size:      # a frame has a byte at least
                length = 0
            footage = Footage(iter(()), length if length > 0 and not live else None,
                              fps or (rate if 1 <= rate <= 1000 else None), live)
            decoded = decode(container, footage, channels, fps)
            footage.frames = itertools.chain([next(decoded)], decoded)
        except (OSError, ValueError, IndexError, StopIteration, av.FFmpegError) as error:
            reason = getattr(error, "strerror", None) or "no picture came"
            raise UserError(f"no camera {place} answers; is it plugged in, and free?" if isinstance(place, int) else
                            f"no stream answers at {shown(place)} ({reason}); are address, user and password right, "
                            f"and is it on?" if isinstance(place, str) else
                            f"{place} holds no picture that FFmpeg can decode; is it a video, or a recording "
                            f"that was cut off before its index was written?") from None
        yield footage


def open_container(place: Path | str | int) -> InputContainer:
    """Open a video file, a stream or a camera. OSError or ValueError when FFmpeg cannot."""
    if isinstance(place, Path):
        return av.open(f"file:{place}")                                    # its name may hold a colon
    if isinstance(place, int):
        driver, name, options = CAMERAS.get(sys.platform, ("dshow", "video={}", {}))
        return av.open(name.format(place), format=driver, options=options, timeout=PATIENCE)
    return av.open(place, format="dshow" if place.startswith("video=") else None,
                   options={"rtsp_flags": "prefer_tcp"}, timeout=PATIENCE)


def decode(container: InputContainer, footage: Footage, channels: int, fps: float | None) -> Iterator[Frame]:
    """Yield the frames of a video file, stream or camera, upright, with the pixels that OpenCV gives.

    A damaged packet ends a file, not a live video; a change of size ends both. `footage.whole` is set at the end: true
    when as many pictures are stored as the header says, or when they reach the header's duration. Headers also count
    pictures that a cut without decoding hides, or that a variable frame rate skips; a warning then says so.
    """
    stream = container.streams.video[0]
    if not stream.codec_context:
        raise ValueError("no decoder")
    stream.codec_context.thread_count = 1                                  # several videos are decoded at a time
    length, duration = footage.length or 0, float(stream.duration * stream.time_base if stream.duration and
                                                  stream.time_base else (container.duration or 0) / av.time_base)
    enough = length - max(1 if stream.frames else 3, length // 100)        # one reckoned from the duration may be over
    packets, t, first, last, step, shape, opened = 0, 0, None, 0.0, 0.0, None, time.monotonic()
    try:
        for packet in container.demux(stream):
            packets += packet.size > 0
            frames: list[av.VideoFrame] = []
            with contextlib.suppress(*[av.FFmpegError] * footage.live):
                frames = packet.decode()
            for frame in frames:
                lying = frame.to_ndarray(format="bgr24", interpolation="BICUBIC")            # as OpenCV converts it
                picture = np.ascontiguousarray(np.rot90(lying, frame.rotation // 90), np.uint8)
                if shape not in (None, picture.shape):
                    warnings.warn(f"frame {t} is {picture.shape[1]} x {picture.shape[0]} pixels, the one before "
                                  f"{shape[1]} x {shape[0]}; the video is used up to there")
                    footage.whole = False
                    return
                shape, first = picture.shape, frame.time if first is None else first
                since = 0.0 if frame.time is None or first is None else frame.time - first
                step, last = max(step, since - last), since
                if footage.live:
                    seconds = time.monotonic() - opened
                elif fps or frame.time is None or first is None:           # a bare stream of H.264 has no time stamps
                    seconds = t / footage.fps if footage.fps else math.nan
                else:
                    seconds = round(since, 6)
                image = picture if channels == 3 else cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)[..., None]
                yield Frame(picture, image, seconds)
                t += 1
        footage.whole = packets >= enough or 0 < 0.99 * duration <= last + step
        if footage.whole and t < stream.frames:
            name = container.name.removeprefix("file:")
            warnings.warn(f"{shown(name) if '://' in name else name}: decoded {t} frames where its header says "
                          f"{stream.frames}; all that can be shown are used")
    except av.FFmpegError:
        footage.whole = 0 < enough <= t
