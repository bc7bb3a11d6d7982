"""Published files, unpacked, as videos with labels and masks; the files of lgn_net/datasets know their layouts."""

import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import scipy.io

from lgn_net.data.clips import is_truncated
from lgn_net.datasets import SourceVideo, layout_of
from lgn_net.datasets.common import load_array
from lgn_net.errors import UserError

MAT_ERRORS = (ValueError, TypeError, KeyError, IndexError, NotImplementedError, OSError, StopIteration, zlib.error,
              scipy.io.matlab.MatReadError)


def read_source(dataset: str, roots: list[Path]) -> list[SourceVideo]:
    """List the videos in the given folders, in natural order. Files that do not belong to the data set are ignored.

    Raises:
        UserError: there is none, two have one name, a name is not UTF-8, or masks are of another number than frames.
    """
    layout = layout_of(dataset)
    videos: dict[str, SourceVideo] = {}
    for video in layout.videos(roots):
        key, first = video.key, video.files()[0]
        if not is_utf8(str(first)):
            raise UserError(f"{roots[0]} holds a file whose name is not UTF-8, {first.name!a}; rename it (unpack the "
                            f"archive yourself first if it is in one) and give the folder with --source")
        if key in videos:
            raise UserError(f"two {video.split} videos are called {video.name}: {videos[key].files()[0]} and {first}; "
                            f"rename or remove one")
        if video.masks:
            count = count_masks(video.masks)
            if video.length not in (None, count):
                raise UserError(f"{video.split} {video.name}: {count} masks, {video.length} frames; the masks are of "
                                f"another video, or some files are missing")
            video = video._replace(length=count)
        videos[key] = without_damaged(video)
    if not videos:
        raise UserError(f"no {dataset} videos in {', '.join(map(str, roots))}; expected {layout.expected}")
    return list(videos.values())


def is_utf8(name: str) -> bool:
    """Tell whether a name can be printed and stored: file names are bytes, and some are not UTF-8."""
    return name.encode(errors="ignore").decode() == name


def without_damaged(video: SourceVideo) -> SourceVideo:
    """Repeat the frame before one that is damaged in the published archive itself, so that the labels still fit."""
    frames, t = video.frames, video.damaged
    if t is None or isinstance(frames, Path) or t >= len(frames):
        return video
    try:
        read_image(frames[t].read_bytes(), frames[t])
        return video
    except UserError:
        warnings.warn(f"{frames[t]} is damaged in the published archive; the frame before it is repeated")
        return video._replace(frames=(*frames[:t], frames[t - 1], *frames[t + 1:]))


def load_masks(path: Path) -> np.ndarray:
    """Open the masks (T, H, W) of a NumPy file."""
    if (array := load_array(path)).ndim != 3:
        raise UserError(f"{path} has the shape {array.shape}, not (frames, height, width); unpack the archive again")
    return array


def count_masks(masks: Path | tuple[Path, ...]) -> int:
    """Count the masks of one video without reading them."""
    if isinstance(masks, tuple):
        return len(masks)
    if masks.suffix == ".npy":
        return len(load_masks(masks))
    try:
        return next(int(np.prod(shape)) for name, shape, _ in scipy.io.whosmat(masks) if name == "volLabel")
    except MAT_ERRORS as error:
        raise UserError(f"{masks} is no MATLAB file with a cell array `volLabel` ({error!r}); unpack the archive "
                        f"again") from None


def read_masks(masks: Path | tuple[Path, ...]) -> Iterator[np.ndarray]:
    """Yield the masks (H, W) of one video, bool, frame after frame."""
    if isinstance(masks, tuple):
        for path in masks:
            yield read_image(path.read_bytes(), path)[..., 0] > 0
    elif masks.suffix == ".npy":
        yield from (mask > 0 for mask in load_masks(masks))
    else:
        try:
            cells = scipy.io.loadmat(masks, variable_names=["volLabel"])["volLabel"].ravel()
            yield from (np.asarray(cell) > 0 for cell in cells)
        except MAT_ERRORS as error:
            raise UserError(f"{masks} is damaged ({error}); unpack the archive again") from None


def read_image(data: bytes, path: Path) -> np.ndarray:
    """Decode an image as it is: uint8 (H, W, C), C of the file. Raise UserError when it is damaged."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except cv2.error:                                      # more pixels than OpenCV takes, for example
        image = None
    if image is None or is_truncated(data):
        raise UserError(f"{path} is damaged or truncated ({len(data)} bytes); unpack the archive again")
    return image.reshape(*image.shape[:2], -1)
