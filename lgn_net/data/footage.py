"""A video as it comes: a file, a folder of images, a stream or a camera. PyAV (FFmpeg) decodes all but images."""

import contextlib
import itertools
import math
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.container import InputContainer

from lgn_net.data.clips import FEW_LEVELS, MAP_DEPTH, grey_levels, read_image, stream_frames
from lgn_net.data.videos import image_names
from lgn_net.errors import UserError

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
        frames = (Frame(picture, picture if channels == 3 else read_image(path, channels), t / fps if fps else math.nan)
                  for t, (path, picture) in enumerate(zip(paths, stream_frames(paths, 3))))
        yield Footage(frames, len(paths), fps)
        return
    name, options = str(place), {"rtsp_flags": "prefer_tcp"}
    driver = "dshow" if isinstance(place, str) and name.startswith("video=") else None
    if isinstance(place, int):
        driver, name, options = CAMERAS.get(sys.platform, ("dshow", "video={}", {}))
        name = name.format(place)
    elif isinstance(place, Path):
        name = f"file:{place}"                                             # it may hold a colon
    with contextlib.ExitStack() as stack:
        try:
            container = stack.enter_context(av.open(name, format=driver, options=options,
                                                    timeout=None if isinstance(place, Path) else 10.0))
            stream = container.streams.video[0]
            rate = float(stream.guessed_rate or stream.average_rate or 0)
            seconds = (container.duration or 0) / av.time_base
            live = not isinstance(place, Path) and not seconds             # an address may be a file's
            footage = Footage(iter(()), stream.frames or round(seconds * rate) or None,
                              fps or (rate if 1 <= rate <= 1000 else None), live)
            decoded = decode(container, shown(place), footage, channels, fps)
            footage.frames = itertools.chain([next(decoded)], decoded)
        except (OSError, ValueError, IndexError, StopIteration, av.FFmpegError) as error:
            reason = getattr(error, "strerror", None) or "no picture came"
            what = f"no stream answers at {shown(place)}" if isinstance(place, str) else f"{shown(place)}: no picture"
            raise UserError(f"{what} that FFmpeg can decode ({reason}); was a file cut off before its index was "
                            f"written, is a camera off, or a password wrong?") from None
        yield footage


def decode(container: InputContainer, name: str, footage: Footage, channels: int, fps: float | None) -> Iterator[Frame]:
    """Yield the frames of a video file, stream or camera, upright, with the pixels that OpenCV gives.

    A damaged packet ends a file, not a live video; a change of size ends both. `footage.whole` tells at the end whether
    the packets reach the header's duration and number of frames, which may count pictures that are not to be shown.
    """
    stream = container.streams.video[0]
    if not stream.codec_context:
        raise ValueError("no decoder")
    stream.codec_context.thread_count = 1                                  # several videos are decoded at a time
    t, packets, end, first, last, shape = 0, 0, 0.0, None, 0.0, None
    rate = float(stream.guessed_rate or stream.average_rate or 25)
    with contextlib.suppress(av.FFmpegError):
        for packet in container.demux(stream):
            packets += packet.size > 0
            end = max([end, *(float(time * packet.time_base) for time in (packet.pts, packet.dts) if time is not None)])
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
                if not t and frame.format.components[0].bits > 8 and (levels := grey_levels(picture)) < FEW_LEVELS:
                    warnings.warn(f"{name} has more than 8 bits, of which {levels} of 256 grey levels are left; "
                                  f"make it a folder of 16-bit images, and {MAP_DEPTH}")
                shape, seconds = picture.shape, t / footage.fps if footage.fps else math.nan
                if not fps and frame.time is not None:                     # a bare stream of H.264 has no time stamps
                    first = frame.time if first is None else first
                    seconds = round(frame.time - first, 6)
                    if seconds < last:                                     # files put together: their clocks begin anew
                        first, seconds = frame.time - last - 1 / rate, last + 1 / rate
                    last = seconds
                image = picture if channels == 3 else cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)[..., None]
                yield Frame(picture, image, seconds)
                t += 1
    duration = float((stream.duration or 0) * (stream.time_base or 0)) or (container.duration or 0) / av.time_base
    end += 2 / rate                                                        # times of packets are those of their begin
    footage.whole = end >= 0.99 * duration and max(packets, end * rate) >= 0.99 * stream.frames
    if footage.whole and t < stream.frames:
        warnings.warn(f"{name}: decoded {t} frames where its header says {stream.frames}; these are used")
