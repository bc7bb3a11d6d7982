"""Observers of the loop over test frames: where predictions err, against pixel masks, and how alike the frames look."""

import warnings
from collections.abc import Sequence
from threading import Lock

import cv2
import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from lgn_net.data.clips import read_mask
from lgn_net.scores.maps import as_array, error_map, smoothed, strong_regions
from lgn_net.scores.metrics import auc, mean_where
from lgn_net.scores.score_file import VideoScores

FOUND = 0.4               # of an abnormal frame's mask must be marked (Mahadevan et al., CVPR 2010)
SMALLEST = np.float32(2.0 ** -24)     # errors from here to 1 are counted by exponent and 11 bits of their mantissa
BINS = 24 * 2 ** 11 + 1


class Localization:
    """Compares the errors of predictions with the masks of `find_masks`, whatever the labels say.

    Pixels are counted in bins of their errors, at most 0.05 % wide: that moves an AUC by 1e-4 at most. Errors below
    SMALLEST count as equal. Threads may call it at once.
    """

    measures = "mask", "mask_score", "on_mask", "on_mask_chance"

    def __init__(self, masks: Sequence[tuple[str, ...]]):
        self.masks = masks
        self.pixels = torch.zeros(2 * BINS, dtype=torch.int64)       # of each error, normal and abnormal by turns
        self.lock = Lock()

    def __call__(self, video: int, frame: int, predicted: Tensor, target: Tensor) -> dict[str, float]:
        """Compare predicted and true frame (C, H, W) in [-1, 1] with the mask, if any; count their pixels."""
        found = dict.fromkeys(self.measures, float("nan"))
        if not self.masks[video]:
            return found
        error = error_map(predicted, target)
        mask, strength = resized_mask(self.masks[video][frame], *error.shape), smoothed(error)
        bins = (np.clip(strength, SMALLEST, 1).view(np.int32) >> 12) - (SMALLEST.view(np.int32) >> 12)
        counts = np.bincount((2 * bins + mask).ravel(), minlength=2 * BINS)
        with self.lock:
            self.pixels += torch.from_numpy(counts)

        # A normal frame is a false alarm when any pixel is marked, an abnormal one is found when FOUND of its mask are;
        # `mask_score` is the highest threshold at which that is so.
        found |= {"mask": float(mask.any()), "mask_score": float(strength.max())}
        if mask.any():
            inside = np.sort(strength[mask])[::-1]
            region, box = strong_regions(error)[0]
            found |= {"mask_score": float(inside[int(np.ceil(FOUND * len(inside))) - 1]),
                      "on_mask": float((region & mask).any()), "on_mask_chance": chance_to_touch(region, box, mask)}
        return found

    def results(self, measured: Sequence[VideoScores]) -> dict:
        """Collect every number of `localization` in results.json from the frames' measures; None where undefined."""
        rows = np.concatenate([np.stack([video.signals[name] for name in self.measures], 1) for video in measured])
        abnormal, score, *region = rows[~np.isnan(rows[:, 0])].T               # of the frames with a mask
        if len(abnormal) and not abnormal.any():
            warnings.warn(f"none of {len(abnormal)} masks has an abnormal pixel; is the folder masks right?")
        normal_pixels, abnormal_pixels = self.pixels.numpy().reshape(BINS, 2).T
        pairs = float(abnormal_pixels.sum()) * float(normal_pixels.sum())
        below = np.cumsum(normal_pixels) - normal_pixels / 2                           # ties count half
        touched, chance = (float(x[abnormal == 1].mean()) if abnormal.any() else None for x in region)
        return {
            "pixel_auc": float(np.sum(abnormal_pixels * below) / pairs) if pairs else None,
            "pixel_level_auc": auc([abnormal], [-score]) if len(score) else None,
            "region_on_mask": touched, "region_on_mask_chance": chance,
            "frames_with_mask": len(abnormal), "abnormal_frames": int(abnormal.sum()),
            "frames_without_mask": len(rows) - len(abnormal),
            "videos_without_masks": sum(not masks for masks in self.masks)}


def resized_mask(path: str, H: int, W: int) -> np.ndarray:
    """Read a mask in the size of the network's frames, bool (H, W); an object between all samples counts as touched."""
    mask = read_mask(path).astype(np.float32)
    small = cv2.resize(mask, (W, H), interpolation=cv2.INTER_NEAREST_EXACT) > 0
    return small if small.any() or not mask.any() else cv2.resize(mask, (W, H), interpolation=cv2.INTER_AREA) > 0


def chance_to_touch(region: np.ndarray, box: tuple[int, int, int, int], mask: np.ndarray) -> float:
    """Compute the share of all places in the frame at which a region, bool (H, W), would touch the mask."""
    x0, y0, x1, y1 = box
    shape = region[y0:y1, x0:x1].astype(np.float32)
    shared = cv2.filter2D(mask.astype(np.float32), -1, shape, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    return float(np.mean(shared[:mask.shape[0] - (y1 - y0) + 1, :mask.shape[1] - (x1 - x0) + 1] > 0.5))      # pixels


class Quality:
    """Measures SSIM (Wang et al., 2004) by scikit-image and LPIPS (Zhang et al., 2018) by lpips where that is there."""

    measures = "ssim", "lpips"

    def __init__(self) -> None:
        self.lpips = None
        try:
            import lpips
            with warnings.catch_warnings(action="ignore"):                    # torchvision's, of old arguments
                self.lpips = lpips.LPIPS(net="alex", verbose=False).requires_grad_(False)
        except Exception as error:              # whatever a download, a damaged file or an odd version comes up with
            warnings.warn(f"no LPIPS ({error}): it needs pip install lpips torchvision, and "
                          f"https://download.pytorch.org/models/alexnet-owt-7be5be79.pth in "
                          f"{torch.hub.get_dir()}/checkpoints, where it is downloaded to")

    def __call__(self, video: int, frame: int, predicted: Tensor, target: Tensor) -> dict[str, float]:
        """Measure a predicted frame against the true one, (C, H, W) in [-1, 1], blue-green-red or grey."""
        x, y = ((as_array(frames) + 1) / 2 for frames in (predicted, target))
        found = {"ssim": float(structural_similarity(x, y, data_range=1.0, channel_axis=0, gaussian_weights=True,
                                                     sigma=1.5, use_sample_covariance=False))}
        if self.lpips:
            rgb = (frames.float().flip(0).expand(3, -1, -1)[None] for frames in (predicted, target))
            found["lpips"] = self.lpips.to(predicted.device)(*rgb).item()
        return found


def summarize(measured: Sequence[VideoScores]) -> dict[str, float | None]:
    """Average the measures of `Quality` over all, normal and abnormal frames; None where there is nothing."""
    labels, means = [video.labels for video in measured], {}
    for name in Quality.measures:
        values = [video.signals[name] for video in measured if name in video.signals]
        means[name] = float(np.concatenate(values).mean()) if values else None
        for label, kind in enumerate(("normal", "abnormal")):
            means[f"{name}_{kind}"] = mean_where(values, labels, label) if values else None
    return means
