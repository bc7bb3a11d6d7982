"""Frames of a video: decode, resize, scale; and which videos are long enough."""

import contextlib
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from lgn_net.data.videos import Video
from lgn_net.errors import UserError

FEW_LEVELS = 32          # 12-bit pixels in 16-bit files keep 16 grey levels when they become 8-bit pixels
MAP_DEPTH = "map them to 8 bits: scripts/prepare_data.py custom --depth_range LOW HIGH (of 12-bit pixels 0 4095)"

cv2.setNumThreads(0)                     # frames are small; parallelism is over windows
silence = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel      # OpenCV 4, 5
silence(0)                               # our own messages name damaged frames


def read_image(path: str | Path, channels: int | None = None, any_depth: bool = False) -> np.ndarray:
    """Decode an image file: (H, W, C), uint8 blue-green-red for 3 `channels`, uint8 grey for 1, else as it is.

    UserError when it is damaged, or, unless `any_depth`, its pixels are not of 8 or 16 bits.
    """
    flag = {None: cv2.IMREAD_UNCHANGED, 1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR}[channels]
    data, image = Path(path).read_bytes(), None
    if data and not is_truncated(data):
        with contextlib.suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    if image is None and channels:
        return read_image(path)                            # names floats, which have no colour or grey of 8 bits
    if image is None:
        raise UserError(f"frame {path} is damaged or truncated ({len(data)} bytes); extract or unpack it again")
    if image.dtype not in (np.uint8, np.uint16) and not any_depth:
        raise UserError(f"frame {path} holds {image.dtype} pixels, {np.nanmin(image):g} to {np.nanmax(image):g}, not 8 "
                        f"or 16 bits without a sign; {MAP_DEPTH}")
    return image.reshape(*image.shape[:2], -1)


def is_truncated(data: bytes) -> bool:
    """Tell whether an image file lacks its end although OpenCV decodes it (the rest is then filled with grey)."""
    if data[:2] == b"\xff\xd8":                             # JPEG: no end mark after the start of the last scan
        return b"\xff\xd9" not in data[data.rfind(b"\xff\xda"):]
    return data[:2] == b"BM" and len(data) < int.from_bytes(data[2:6], "little")


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask, bool (H, W): whatever is not black is abnormal; of a JPEG, what is brighter than half."""
    image = read_image(path, any_depth=True)[..., :3]                        # without transparency
    return image.max(axis=2) > (127 if Path(path).suffix.lower() in (".jpg", ".jpeg") else 0)


def grey_levels(image: np.ndarray) -> int:
    """Count how many of 256 grey levels an image of 8 or 16 bits keeps in 8 bits."""
    return int(np.count_nonzero(np.bincount((image >> 8 if image.dtype == np.uint16 else image).ravel())))


def warn_of_lost_depth(path: str) -> None:
    """Warn when 8 bits leave little of a frame, as of 12-bit pixels in 16 bits. UserError when they cannot hold it."""
    image = read_image(path)
    if image.dtype == np.uint16 and (levels := grey_levels(image)) < FEW_LEVELS:
        warnings.warn(f"frame {path} has 16-bit pixels of {image.min()} to {image.max()}, which leave {levels} of 256 "
                      f"grey levels in 8 bits; {MAP_DEPTH}")


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resize bilinearly as the authors do (docs/differences.md, 16): uint8 (H, W, C) -> (C, size, size)."""
    resized = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    return resized.reshape(size, size, image.shape[2]).transpose(2, 0, 1)


def stream_frames(paths: Sequence[str], channels: int, size: int | None = None, threads: int = 0) \
        -> Iterator[np.ndarray]:
    """Decode the frames of one video by so many threads: uint8 (C, size, size) each, or (H, W, C) without a size.

    UserError for a damaged one, or one of another size than that before it.
    """
    def load(path: str) -> tuple[tuple, np.ndarray]:
        image = read_image(path, channels)
        return image.shape, resize(image, size) if size else image

    expected = None
    for path, (shape, image) in zip(paths, in_threads(load, paths, threads)):
        if expected not in (None, shape):
            raise UserError(f"frame {path} is {shape[1]} x {shape[0]} pixels, the one before "
                            f"{expected[1]} x {expected[0]}; all frames of a video must have one size")
        expected = shape
        yield image


def in_threads(work: Callable, items: Iterable, threads: int) -> Iterator:
    """Yield what `work` makes of each item, in order; so many threads work ahead, none for 0."""
    if not threads:
        yield from map(work, items)
        return
    pool, ahead = ThreadPoolExecutor(threads), deque[Future]()               # OpenCV decodes without Python's lock
    try:
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:                                                                 # also where the caller ends early
        pool.shutdown(cancel_futures=True)


def read_frames(paths: tuple[str, ...], channels: int, size: int) -> np.ndarray:
    """Read all frames that `stream_frames` yields: uint8 (T, C, size, size)."""
    return np.stack(list(stream_frames(paths, channels, size)))


def to_float(frames: np.ndarray | Tensor) -> Tensor:
    """Scale uint8 pixels to float32 in [-1, 1]."""
    return torch.as_tensor(frames).float() / 127.5 - 1


def long_enough(videos: list[Video], length: int) -> list[int]:
    """Return the indices of the videos that hold a window of `length` frames; warn of others. UserError if none."""
    keep = [v for v, video in enumerate(videos) if len(video.frames) >= length]
    for video in videos:
        if len(video.frames) < length:
            warnings.warn(f"video {video.name} has {len(video.frames)} frames, fewer than the {length} of a window; "
                          f"skipped")
    if not keep:
        raise UserError(f"no video has the {length} frames of a window ({length - 1} inputs and the frame to predict)")
    return keep
