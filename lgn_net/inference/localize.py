"""How well the place of the prediction's errors agrees with the masks of what is abnormal."""

import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from lgn_net.data.videos import IMAGE_SUFFIXES, Video, natural_key
from lgn_net.errors import UserError
from lgn_net.scores.maps import as_array, error_map, smoothed, strongest_region
from lgn_net.scores.metrics import auc

FOUND = 0.4               # of an abnormal frame's mask must be marked (Mahadevan et al., CVPR 2010)
BINS = 2 ** 19            # of the histogram of errors, see `bin_of`


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
