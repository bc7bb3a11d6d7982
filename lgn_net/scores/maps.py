"""Maps of single frames: where in a frame the prediction fails, by its squared error, smoothed. Needs no torch."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from lgn_net.errors import UserError
from lgn_net.files import replacing
from lgn_net.scores.metrics import Arrays
from lgn_net.scores.score_file import Videos

Box = tuple[int, int, int, int]        # x0, y0, x1, y1; x1, y1 are just outside


class FrameMap(NamedTuple):
    """A predicted frame to be looked at."""

    video: str                # its name
    frame: int                # index within its video, from 0
    kind: str                 # why it was chosen: "miss", "false alarm", "detection", "chosen"
    normality: float
    label: int                # 1 is abnormal
    image: np.ndarray         # uint8 (H, W, C), blue-green-red or grey: the true frame
    prediction: np.ndarray    # likewise
    error: np.ndarray         # float32 (H, W), squared error on [0, 1], mean over channels
    aspect: float = 1.0       # width over height of the frame as it was recorded; 1 where that is not known


def as_array(frames) -> np.ndarray:
    """Turn a tensor on any device, or an array, into a float32 array."""
    return frames.float().cpu().numpy() if hasattr(frames, "cpu") else np.asarray(frames, np.float32)


def to_image(frame) -> np.ndarray:
    """Turn (C, H, W) in [-1, 1] back into uint8 pixels (H, W, C)."""
    return ((as_array(frame) + 1) * 127.5).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def save_maps(path: str | Path, maps: Sequence[FrameMap]) -> None:
    """Write maps of frames of one size as compressed .npz, a column per field; nothing is rounded."""
    columns: dict = {name: [getattr(m, name) for m in maps] for name in FrameMap._fields}
    with replacing(path) as file:
        np.savez_compressed(file, **columns)


def load_maps(path: str | Path) -> list[FrameMap]:
    """Read what `save_maps` wrote. UserError for another file."""
    try:
        with np.load(path) as file:
            columns = [file[name] if file[name].ndim > 2 else file[name].tolist() for name in FrameMap._fields]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} holds no maps of frames ({error}); evaluate again") from None
    return [*map(FrameMap._make, zip(*columns))]


def judge_again(maps: Sequence[FrameMap], videos: Videos, normal: Arrays) -> list[FrameMap]:
    """Give maps the normality and label that their frames have now, if any; a map with others is now "chosen"."""
    now = {(video.name, t): (x, y) for video, values in zip(videos, normal)
           for t, x, y in zip(video.frames.tolist(), values.tolist(), video.labels.tolist())}
    again = []
    for one in maps:
        if (one.video, one.frame) in now:
            x, y = now[one.video, one.frame]
            kind = one.kind if abs(x - one.normality) < 1e-9 and y == one.label else "chosen"
            again.append(one._replace(normality=x, label=y, kind=kind))
    return again


def error_map(predicted, target) -> np.ndarray:
    """Compute the squared error on [0, 1] of frames (..., C, H, W) in [-1, 1], mean over channels, (..., H, W)."""
    return np.square((as_array(predicted) - as_array(target)) / 2).mean(axis=-3)


def smoothed(error: np.ndarray) -> np.ndarray:
    """Smooth an error map (H, W) by a Gaussian of H / 32, which joins the outlines of an object: 8 of 256 pixels."""
    error = np.ascontiguousarray(error, dtype=np.float32)
    return cv2.GaussianBlur(error, (0, 0), len(error) / 32, borderType=cv2.BORDER_REFLECT)


def strong_regions(error: np.ndarray) -> list[tuple[np.ndarray, Box]]:
    """Find the regions of an error map (H, W) that hold the most error: bool (H, W), and the box of each.

    Pixels of at least half the maximum of the smoothed error that touch form a region. That with the greatest sum is
    first; those with less than half of it are left out.
    """
    error = smoothed(error)
    _, regions, stats, _ = cv2.connectedComponentsWithStats((error >= error.max() / 2).astype(np.uint8), connectivity=8)
    sums = np.bincount(regions.ravel(), error.ravel())
    sums[0] = -1                                                                      # 0 is what lies outside
    order = [k for k in np.argsort(-sums, kind="stable") if sums[k] >= sums.max() / 2]
    boxes = [(x, y, x + w, y + h) for x, y, w, h, _ in stats.tolist()]
    return [(regions == k, boxes[k]) for k in order]


def loud(maps: Sequence[FrameMap]) -> float:
    """Find the error that is the brightest in pictures of these maps, so that few pixels are beyond."""
    return float(np.quantile([m.error for m in maps], 0.999)) or 1.0 if maps else 1.0


def heat(values: np.ndarray) -> np.ndarray:
    """Turn values (H, W) in [0, 1] into colours (H, W, 3) uint8, BGR, of which equal steps look equally large."""
    return cv2.applyColorMap((255 * values).round().astype(np.uint8), cv2.COLORMAP_INFERNO)


def pictures(m: FrameMap, top: float) -> dict[str, np.ndarray]:
    """Draw a map's four pictures by their titles, uint8, BGR or grey; errors from `top` on are brightest."""
    error = np.clip(m.error / top, 0, 1)
    overlay = m.image + error[..., None] * (heat(error).astype(np.float32) - m.image)
    return {"frame": m.image, "prediction": m.prediction, "squared error": heat(error),
            "error over frame": overlay.round().astype(np.uint8)}


def choose_frames(videos: Videos, normal: Arrays, count: int) -> list[tuple[int, int, str]]:
    """Choose frames to look at: index in `videos`, frame, and "miss", "false alarm" or "detection".

    Of each kind there are up to `count`, the most extreme first; two in one video are 25 or more frames apart, a
    second of most benchmarks.
    """
    chosen = []
    for kind, wanted, sign in (("miss", 1, -1), ("false alarm", 0, 1), ("detection", 1, 1)):
        first = sorted((sign * x, k, t) for k, (video, values) in enumerate(zip(videos, normal))
                       for t, x, y in zip(video.frames.tolist(), values.tolist(), video.labels) if y == wanted)
        taken: list[tuple[int, int, str]] = []
        for _, k, t in first:
            if len(taken) < count and all(k != other or abs(t - frame) >= 25 for other, frame, _ in taken):
                taken.append((k, t, kind))
        chosen += taken
    return chosen


def parse_frames(texts: Sequence[str], videos: Videos) -> list[tuple[int, int, str]]:
    """Read frames VIDEO:FRAME as (index in `videos`, frame, "chosen"); UserError for one that was not scored."""
    chosen, names = [], [video.name for video in videos]
    for text in texts:
        name, _, frame = text.rpartition(":")
        if name not in names or not frame.isdecimal() or int(frame) not in videos[names.index(name)].frames:
            known = ", ".join(f"{video.name}:{video.frames[0]} to {video.frames[-1]}" for video in videos)
            raise UserError(f"--frames {text}: no such frame is scored; give VIDEO:FRAME, of {known[:500]}")
        chosen.append((names.index(name), int(frame), "chosen"))
    return chosen
