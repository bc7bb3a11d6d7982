"""Where in a frame the prediction fails: maps of single frames, and how well the place agrees with the masks.

Boxes and numbers come from one map, the squared error of the prediction smoothed by a narrow Gaussian. Needs no torch.
"""

import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from lgn_net.data.videos import IMAGE_SUFFIXES, Video, natural_key
from lgn_net.errors import UserError
from lgn_net.files import replacing
from lgn_net.scores.metrics import auc
from lgn_net.scores.score_file import VideoScores

SMOOTHING = 1 / 32        # standard deviation of the Gaussian over an error map, of the frame's height: 8 of 256 pixels
SPREAD = 25               # frames between two chosen ones of a kind in a video, a second of most benchmarks
FOUND = 0.4               # of an abnormal frame's mask must be marked (Mahadevan et al., CVPR 2010)
BINS = 2 ** 19            # of the histogram of errors, see `bin_of`


class FrameMap(NamedTuple):
    """A predicted frame to be looked at."""

    video: str                # its name
    frame: int                # index within its video, from 0
    kind: str                 # why it was chosen: "miss", "false alarm", "top", "chosen"
    normality: float
    label: int                # 1 is abnormal
    image: np.ndarray         # uint8 (H, W, C), blue-green-red or grey: the true frame
    prediction: np.ndarray    # likewise
    error: np.ndarray         # float32 (H, W), squared error on [0, 1], mean over channels
    box: tuple[int, int, int, int]     # x0, y0, x1, y1 around the strongest region; x1, y1 are just outside


def frame_map(video: str, frame: int, kind: str, normality: float, label: int, predicted, target) -> FrameMap:
    """Make a FrameMap of a prediction and the true frame, arrays or tensors (C, H, W) in [-1, 1]."""
    predicted, target = as_array(predicted), as_array(target)
    error = error_map(predicted, target)
    return FrameMap(video, int(frame), kind, float(normality), int(label), to_image(target), to_image(predicted), error,
                    strongest_region(error)[1])


def as_array(frames) -> np.ndarray:
    """Turn a tensor on any device, or an array, into a float32 array."""
    return frames.float().cpu().numpy() if hasattr(frames, "cpu") else np.asarray(frames, np.float32)


def to_image(frame: np.ndarray) -> np.ndarray:
    """Turn (C, H, W) in [-1, 1] back into uint8 pixels (H, W, C), see `lgn_net.data.clips.to_float`."""
    return ((frame + 1) * 127.5).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def save_maps(path: str | Path, maps: Sequence[FrameMap]) -> None:
    """Write maps of frames of one size as compressed .npz, a column per field; nothing is rounded."""
    columns: dict = {name: np.array([getattr(m, name) for m in maps]) for name in FrameMap._fields}
    with replacing(path) as file:
        np.savez_compressed(file, **columns)


def load_maps(path: str | Path) -> list[FrameMap]:
    """Read what `save_maps` wrote. UserError when there is no such file or another one."""
    try:
        with np.load(path, allow_pickle=False) as columns:
            rows = list(zip(*(columns[name] for name in FrameMap._fields)))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; evaluate.py writes it") from None
    except Exception:                                     # a damaged zip fails in many ways
        raise UserError(f"{path} holds no maps of frames, or is damaged; evaluate again") from None
    return [FrameMap(str(video), int(frame), str(kind), float(normality), int(label), *pictures, tuple(box.tolist()))      # type: ignore[call-arg]
            for video, frame, kind, normality, label, *pictures, box in rows]


def judge_again(maps: Sequence[FrameMap], videos: Sequence[VideoScores],
                normal: Sequence[np.ndarray]) -> list[FrameMap]:
    """Give maps the normality and label that their frames have now; leave out frames that are not there any more.

    `normal` is the normality (n,) of each of the `videos`. A map whose normality or label changed may no longer be
    among the worst, and is called "chosen".
    """
    again, names = [], [video.name for video in videos]
    for one in maps:
        if one.video in names and one.frame in (video := videos[names.index(one.video)]).frames:
            i = np.searchsorted(video.frames, one.frame)
            now = float(normal[names.index(one.video)][i]), int(video.labels[i])
            same = abs(now[0] - one.normality) < 1e-9 and now[1] == one.label
            again.append(one._replace(normality=now[0], label=now[1], kind=one.kind if same else "chosen"))
    return again


def error_map(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Compute the squared error on [0, 1] of frames (..., C, H, W) in [-1, 1], mean over channels, (..., H, W)."""
    return np.square((predicted - target) / 2).mean(axis=-3)


def smoothed(error: np.ndarray) -> np.ndarray:
    """Smooth an error map (H, W) by a Gaussian of SMOOTHING * H, which joins the outlines of an object."""
    error = np.ascontiguousarray(error, dtype=np.float32)
    return cv2.GaussianBlur(error, (0, 0), SMOOTHING * len(error), borderType=cv2.BORDER_REFLECT)


def strongest_region(error: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Find the connected region that holds most of the error of a map (H, W), 0 or more.

    Of the pixels whose smoothed error is at least half of its maximum, those that touch (by corners, too) form a
    region; the one with the greatest sum of smoothed errors is taken. It is the whole frame where the error is zero
    throughout.

    Returns:
        The region, bool (H, W), and its box: x0, y0, x1, y1, the last two just outside.
    """
    error = smoothed(error)
    _, regions, stats, _ = cv2.connectedComponentsWithStats((error >= error.max() / 2).astype(np.uint8), connectivity=8)
    k = 1 + np.bincount(regions.ravel(), error.ravel())[1:].argmax()                  # 0 is what lies outside
    x, y, w, h = stats[k, :4].tolist()
    return regions == k, (x, y, x + w, y + h)


def choose_frames(videos: Sequence[VideoScores], normal: Sequence[np.ndarray],
                  count: int) -> list[tuple[int, int, str]]:
    """Choose the frames on which the detector is most wrong, worst first.

    `count` misses, abnormal frames of the highest normality, then `count` false alarms, normal frames of the lowest;
    fewer where there are no more. Two of a kind in one video are SPREAD or more frames apart, so that one event does
    not fill the list.

    Args:
        videos: the scores of each video.
        normal: normality (n,) of the frames of each video.
        count: misses, and false alarms, to choose.

    Returns:
        Index in `videos`, index of the frame within its video, "miss" or "false alarm".
    """
    v = np.concatenate([np.full(len(video.frames), k) for k, video in enumerate(videos)]).tolist()
    frame, label, value = (np.concatenate(x) for x in ([video.frames for video in videos],
                                                       [video.labels for video in videos], normal))
    chosen = []
    for kind, wanted, badness in (("miss", 1, value), ("false alarm", 0, -value)):
        taken: list[tuple[int, int, str]] = []
        for k in np.argsort(-badness, kind="stable"):
            if len(taken) == count:
                break
            if label[k] == wanted and all(v[k] != u or abs(frame[k] - t) >= SPREAD for u, t, _ in taken):
                taken.append((v[k], int(frame[k]), kind))
        chosen += taken
    return chosen


def parse_frames(texts: Sequence[str], videos: Sequence[VideoScores]) -> list[tuple[int, int, str]]:
    """Read frames that a user names, VIDEO:FRAME (from 0), as (index in `videos`, frame, "chosen").

    UserError for a text of another form, an unknown video, and a frame that was not scored.
    """
    chosen, names = [], [video.name for video in videos]
    for text in texts:
        name, _, frame = text.rpartition(":")
        if not (name and frame.isdecimal()):
            raise UserError(f"frame {text!r} is not of the form VIDEO:FRAME, such as {names[0]}:{videos[0].frames[0]}")
        if name not in names:
            raise UserError(f"frame {text}: no video {name!r} was scored; the {len(names)} videos are "
                            f"{', '.join(names[:3])}{f' ... {names[-1]}' if len(names) > 3 else ''}")
        video = videos[names.index(name)]
        if int(frame) not in video.frames:
            raise UserError(f"frame {text} was not scored; of video {name} these were: {video.frames[0]} to "
                            f"{video.frames[-1]} (from 0)")
        chosen.append((names.index(name), int(frame), "chosen"))
    return chosen


def find_masks(folder: str | Path, videos: Sequence[Video]) -> list[tuple[str, ...]]:
    """Find the mask files of each video, a mask per frame in natural order; () for a video without.

    Args:
        folder: testing/masks, with a folder per video.
        videos: the test videos.

    Raises:
        UserError: a video with another number of masks than frames.
    """
    masks = []
    for video in videos:
        home = Path(folder) / video.name
        names = [p.name for p in home.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")
                 ] if home.is_dir() else []
        if home.is_dir() and len(names) != len(video.frames):
            raise UserError(f"{home} holds {len(names)} masks, but video {video.name} has {len(video.frames)} frames; "
                            f"prepare the data set again, or remove that folder")
        masks.append(tuple(str(home / name) for name in sorted(names, key=natural_key)))
    return masks


def read_mask(path: str, H: int, W: int) -> np.ndarray:
    """Read a mask in the size of the network's frames: bool (H, W), true where abnormal. UserError when damaged.

    Pixels are those nearest to where the frame's own pixels are taken; an object so small that none is near counts with
    every pixel that it touches.
    """
    data = np.fromfile(path, np.uint8)
    try:
        mask = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if len(data) else None
    except cv2.error:
        mask = None
    if mask is None:
        raise UserError(f"mask {path} is damaged ({len(data)} bytes); prepare the data set again")
    mask = np.where(mask > 127, np.float32(1), np.float32(0))
    small = cv2.resize(mask, (W, H), interpolation=cv2.INTER_NEAREST_EXACT) > 0
    return small if small.any() or not mask.any() else cv2.resize(mask, (W, H), interpolation=cv2.INTER_AREA) > 0


class Localization:
    """Compares the errors of predictions with the masks; an observer of `lgn_net.inference.loop.score_videos`.

    A frame is abnormal here when its mask has a pixel set, whatever its label. Of the pixels, only counts are kept.
    """

    def __init__(self, masks: Sequence[tuple[str, ...]]):
        """`masks`: the mask files of each video, from `find_masks`."""
        self.masks = masks
        self.pixels = np.zeros(2 * BINS, np.int64)    # how many of each error, normal and abnormal by turns
        self.rows: list[tuple[int, float, float, float]] = []     # abnormal, score, touched, chance to: a frame each
        self.frames_without_mask = 0

    def __call__(self, video: int, first: int, predicted, target) -> None:
        """Index of the video, index of the first frame, predicted and true frames (B, C, H, W) in [-1, 1]."""
        masks = self.masks[video][first:first + len(predicted)]
        self.frames_without_mask += len(predicted) - len(masks)
        if not masks:
            return
        for path, error in zip(masks, error_map(as_array(predicted), as_array(target)), strict=True):
            try:
                mask, strength = read_mask(path, *error.shape), smoothed(error)
            except UserError as damaged:
                warnings.warn(f"{damaged}; the frame is left out of the localisation")
                self.frames_without_mask += 1
                continue
            self.pixels += np.bincount(2 * bin_of(strength).ravel() + mask.ravel(), minlength=2 * BINS)
            touched = chance = np.nan
            if mask.any():
                region, box = strongest_region(error)
                touched, chance = float((region & mask).any()), chance_to_touch(region, box, mask)
            self.rows.append((int(mask.any()), frame_score(strength, mask), touched, chance))

    @property
    def kept(self) -> tuple:
        """What `merge` takes: all that was counted."""
        return self.pixels, self.rows, self.frames_without_mask

    def merge(self, parts: Sequence[tuple]) -> None:
        """Count what several of these have `kept`, of different frames."""
        pixels, rows, without = zip(*parts) if parts else ((), (), ())
        self.pixels, self.rows, self.frames_without_mask = sum(pixels), [*itertools.chain(*rows)], sum(without)

    def results(self) -> dict:
        """Collect every number, ready for JSON; None where it is undefined.

        `pixel_auc`: a pixel's smoothed error as detector of masked pixels, all pixels of all frames with masks.
        `pixel_level_auc`: frames under the field's pixel-level criterion, see `frame_score`; errors that know nothing
        reach about 0, not 0.5, as a normal frame's maximum is set against the better part of a mask.
        `region_on_mask`: share of the abnormal frames whose strongest region touches the mask; `region_on_mask_chance`:
        what the same regions would reach if each lay anywhere in its frame.
        """
        abnormal, score, touched, chance = np.array(self.rows, float).reshape(-1, 4).T
        return {
            "pixel_auc": histogram_auc(self.pixels[1::2], self.pixels[::2]),
            "pixel_level_auc": auc([abnormal], [-score]) if len(score) else None,
            "region_on_mask": float(touched[abnormal == 1].mean()) if abnormal.any() else None,
            "region_on_mask_chance": float(chance[abnormal == 1].mean()) if abnormal.any() else None,
            "frames_with_mask": len(self.rows),
            "abnormal_frames": int(abnormal.sum()),
            "frames_without_mask": self.frames_without_mask,
            "videos_without_masks": sum(not masks for masks in self.masks),
        }


def frame_score(error: np.ndarray, mask: np.ndarray) -> float:
    """Return the threshold below which an error map (H, W) counts against a frame with this mask, bool (H, W).

    An abnormal frame is found when FOUND of its abnormal pixels are marked, and what is marked elsewhere does not
    matter; a normal frame is a false alarm when any pixel is (Mahadevan et al., CVPR 2010). So: the largest error that
    FOUND of the mask reach, or the maximum of a normal frame.
    """
    if not mask.any():
        return float(error.max())
    inside = np.sort(error[mask])[::-1]
    return float(inside[int(np.ceil(FOUND * len(inside))) - 1])


def chance_to_touch(region: np.ndarray, box: tuple[int, int, int, int], mask: np.ndarray) -> float:
    """Compute the share of all places in the frame at which a region, bool (H, W), would touch the mask."""
    x0, y0, x1, y1 = box
    shape = region[y0:y1, x0:x1].astype(np.float32)
    shared = cv2.filter2D(mask.astype(np.float32), -1, shape, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    return float(np.mean(shared[:mask.shape[0] - (y1 - y0) + 1, :mask.shape[1] - (x1 - x0) + 1] > 0.5))      # pixels


def bin_of(error: np.ndarray) -> np.ndarray:
    """Return the bin of each error, float32, 0 or more: sign, exponent and 11 bits of the mantissa keep its order.

    A bin is at most 0.05 % wide at any size of the error. What is in one counts as tied, which moves an AUC by half the
    share of such pairs at most: 1e-4 where errors range over a few per cent or more.
    """
    return (error.view(np.uint32) >> 12).astype(np.int64)


def histogram_auc(abnormal: np.ndarray, normal: np.ndarray) -> float | None:
    """Compute the AUC of counts (BINS,) of pixels by ascending error; ties count half. None without both classes."""
    below = np.cumsum(normal) - normal
    pairs = float(abnormal.sum()) * float(normal.sum())
    return float(np.sum(abnormal * (below + normal / 2)) / pairs) if pairs else None
