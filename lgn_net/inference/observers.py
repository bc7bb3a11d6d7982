"""Observers of the loop over test frames: where predictions err, against pixel masks, and how alike the frames look.

An observer is called with every prediction. `merge` takes what each of several processes has `kept`.
"""

import itertools
import warnings
from collections.abc import Mapping, Sequence
from operator import itemgetter

import cv2
import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from lgn_net.data.clips import read_mask
from lgn_net.data.videos import Video
from lgn_net.scores.maps import as_array, error_map, smoothed, strongest_region
from lgn_net.scores.metrics import auc, mean_where
from lgn_net.scores.score_file import VideoScores

FOUND = 0.4               # of an abnormal frame's mask must be marked (Mahadevan et al., CVPR 2010)
BINS = 2 ** 19            # of the histogram of errors: sign, exponent and 11 bits of the mantissa of a float32
ALEXNET = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"      # the file that torchvision asks for


class Localization:
    """Compares the errors of predictions with masks of what is abnormal.

    A frame is abnormal here when its mask has a pixel set, whatever its label. Pixels are only counted, in bins of
    their errors that are at most 0.05 % wide, and tied within a bin: that moves an AUC by 1e-4 at most where errors
    range over a few per cent or more.
    """

    def __init__(self, masks: Sequence[tuple[str, ...]]):
        """`masks`: the mask files of each video, from `find_masks`."""
        self.masks = masks
        # How many pixels of each error, normal and abnormal by turns; for each frame whether it is abnormal, score,
        # whether the region touches the mask and the chance to, NaN where there is none.
        self.kept: tuple = np.zeros(2 * BINS, np.int64), []

    def __call__(self, video: int, first: int, predicted: Tensor, target: Tensor) -> None:
        """Index of the video, index of the first frame, predicted and true frames (B, C, H, W) in [-1, 1]."""
        pixels, rows = self.kept
        for frame, error in enumerate(error_map(as_array(predicted), as_array(target)), first):
            if not self.masks[video]:
                rows.append((np.nan,) * 4)
                continue
            mask, strength = resized_mask(self.masks[video][frame], *error.shape), smoothed(error)
            bins = (strength.view(np.uint32) >> 12).astype(np.int64)
            pixels += np.bincount((2 * bins + mask).ravel(), minlength=2 * BINS)
            touched = chance = np.nan
            if mask.any():
                region, box = strongest_region(error)
                touched, chance = (region & mask).any(), chance_to_touch(region, box, mask)
            rows.append((mask.any(), frame_score(strength, mask), touched, chance))

    def merge(self, parts: Sequence[tuple]) -> None:
        """Count what several of these have `kept`, of different frames."""
        self.kept = np.sum([pixels for pixels, _ in parts], axis=0), [row for _, rows in parts for row in rows]

    def results(self) -> dict:
        """Collect every number of `localization` in results.json; None where it is undefined.

        In the pixel-level AUC, errors that know nothing reach about 0, not 0.5, as a normal frame's maximum is set
        against the better part of a mask.
        """
        pixels, rows = self.kept[0], np.array(self.kept[1], float).reshape(-1, 4)
        compared = rows[~np.isnan(rows[:, 0])]
        abnormal, score, *region = compared.T
        normal_pixels, abnormal_pixels = pixels.reshape(BINS, 2).T
        if len(compared) and not abnormal.any():
            warnings.warn(f"none of {len(compared)} masks has an abnormal pixel; if the labels say otherwise, mend the "
                          f"folder masks, or remove it and do without the pixel measures")
        pairs = float(abnormal_pixels.sum()) * float(normal_pixels.sum())
        below = np.cumsum(normal_pixels) - normal_pixels / 2                           # ties count half
        touched, chance = (float(x[abnormal == 1].mean()) if abnormal.any() else None for x in region)
        return {
            "pixel_auc": float(np.sum(abnormal_pixels * below) / pairs) if pairs else None,
            "pixel_level_auc": auc([abnormal], [-score]) if len(score) else None,
            "region_on_mask": touched,
            "region_on_mask_chance": chance,
            "frames_with_mask": len(compared),
            "abnormal_frames": int(abnormal.sum()),
            "frames_without_mask": len(rows) - len(compared),
            "videos_without_masks": sum(not masks for masks in self.masks),
        }


def resized_mask(path: str, H: int, W: int) -> np.ndarray:
    """Read a mask in the size of the network's frames: bool (H, W), true where abnormal. UserError when damaged.

    Pixels are those nearest to where the frame's own pixels are taken; an object so small that none is near counts with
    every pixel that it touches.
    """
    mask = read_mask(path).astype(np.float32)
    small = cv2.resize(mask, (W, H), interpolation=cv2.INTER_NEAREST_EXACT) > 0
    return small if small.any() or not mask.any() else cv2.resize(mask, (W, H), interpolation=cv2.INTER_AREA) > 0


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


class Quality:
    """Keeps SSIM and LPIPS of every prediction.

    SSIM is that of Wang et al. (2004): Gaussian window of 11 pixels and standard deviation 1.5, population covariance,
    frames on [0, 1], mean over pixels and channels, by scikit-image on the CPU. LPIPS (Zhang et al., 2018) is version
    0.1 on AlexNet, by the package lpips on the predictions' device; a grey frame is given as three equal channels.
    """

    def __init__(self) -> None:
        """Load LPIPS; where package or weights are missing, a warning says so, and SSIM goes on without it."""
        self.kept: list[tuple[int, int, dict[str, float]]] = []                   # video, frame, ssim and lpips
        self.lpips = None
        try:
            import lpips
            with warnings.catch_warnings(action="ignore"):                    # torchvision's, of old arguments
                self.lpips = lpips.LPIPS(net="alex", verbose=False).requires_grad_(False)
        except Exception as error:              # whatever a download, a damaged file or an odd version comes up with
            warnings.warn(f"no LPIPS ({error}): it needs pip install lpips torchvision, and {ALEXNET} in "
                          f"{torch.hub.get_dir()}/checkpoints, where it is downloaded to")

    def __call__(self, video: int, first: int, predicted: Tensor, target: Tensor) -> None:
        """Index of the video, of the first frame, predicted and true frames (B, C, H, W) in [-1, 1], BGR or grey."""
        pairs = zip((as_array(predicted) + 1) / 2, (as_array(target) + 1) / 2)
        rows = [{"ssim": float(structural_similarity(*pair, data_range=1.0, channel_axis=0, gaussian_weights=True,
                                                     sigma=1.5, use_sample_covariance=False))} for pair in pairs]
        if self.lpips:
            rgb = [frames.float().flip(1).expand(-1, 3, -1, -1) for frames in (predicted, target)]
            for row, value in zip(rows, self.lpips.to(predicted.device)(*rgb).flatten().tolist()):
                row["lpips"] = value
        self.kept += [(video, frame, row) for frame, row in enumerate(rows, first)]

    def merge(self, parts: Sequence[list[tuple[int, int, dict[str, float]]]]) -> None:
        """Keep what several of these have `kept`, of different frames."""
        self.kept = sorted((row for part in parts for row in part), key=itemgetter(0, 1))

    def scores(self, videos: list[Video], truth: Mapping[str, np.ndarray]) -> list[VideoScores]:
        """Gather the measures video by video, with the labels (T,) that `truth` has for each video's name."""
        scored = []
        for v, rows in itertools.groupby(self.kept, key=itemgetter(0)):
            _, frames, measures = zip(*rows)
            signals = {name: np.array([row[name] for row in measures]) for name in measures[0]}
            labels = truth[videos[v].name][list(frames)].astype(np.uint8)
            scored.append(VideoScores(videos[v].name, np.array(frames), signals, labels))
        return scored


def summarize(scored: list[VideoScores]) -> dict[str, float | None]:
    """Average what `Quality.scores` gave over all, normal and abnormal frames, ready for JSON.

    `ssim`, `ssim_normal`, `ssim_abnormal`, and the same of lpips; None where there is no measure or no frame.
    """
    labels, means = [video.labels for video in scored], {}
    for name in ("ssim", "lpips"):
        values = [video.signals[name] for video in scored if name in video.signals]
        means[name] = float(np.concatenate(values).mean()) if values else None
        for label, kind in enumerate(("normal", "abnormal")):
            means[f"{name}_{kind}"] = mean_where(values, labels, label) if values else None
    return means
