"""How alike predicted and true frames look: SSIM and, with the package lpips, LPIPS of every prediction."""

import contextlib
import itertools
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from lgn_net.data.videos import Video
from lgn_net.scores.metrics import mean_where
from lgn_net.scores.score_file import VideoScores

ALEXNET = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"      # the file that torchvision asks for
SMALLEST = 31             # pixels: AlexNet's pooling leaves nothing of smaller frames
PATIENCE = 20.0           # seconds without an answer until a download is given up


class FrameQuality(NamedTuple):
    """One predicted frame."""

    video: int                # index of the video
    frame: int                # index within its video, from 0
    ssim: float               # 1: equal
    lpips: float              # 0: equal; NaN where it is not to be had


class Quality:
    """Keeps SSIM and LPIPS of every prediction; an observer of `lgn_net.inference.loop.score_videos`.

    SSIM is that of Wang et al. (2004): Gaussian window of 11 pixels and standard deviation 1.5, population covariance,
    frames on [0, 1], mean over pixels and channels, by scikit-image on the CPU. LPIPS (Zhang et al., 2018) is version
    0.1 on AlexNet, by the package lpips on the predictions' device; a grey frame is given as three equal channels.

    What is missing for LPIPS is said in a warning, once, and SSIM goes on without it.
    """

    def __init__(self):
        self.lpips = load_lpips()
        self.rows: list[FrameQuality] = []

    @torch.inference_mode()
    def __call__(self, video: int, first: int, predicted: Tensor, target: Tensor) -> None:
        """Index of the video, of the first frame, predicted and true frames (B, C, H, W) in [-1, 1], BGR or grey."""
        if self.lpips and min(predicted.shape[2:]) < SMALLEST:
            warnings.warn(f"no LPIPS: frames of {predicted.shape[3]} x {predicted.shape[2]} pixels are smaller than "
                          f"the {SMALLEST} x {SMALLEST} that AlexNet needs; train with a larger --data.image_size")
            self.lpips = None
        lpips = [np.nan] * len(predicted)
        if self.lpips:
            lpips = self.lpips.to(predicted.device)(to_rgb(predicted), to_rgb(target)).flatten().tolist()
        self.rows += [FrameQuality(video, first + k, ssim(*pair), lpips[k])
                      for k, pair in enumerate(zip(to_unit(predicted), to_unit(target)))]

    @property
    def kept(self) -> list[FrameQuality]:
        """Return what `merge` takes."""
        return self.rows

    def merge(self, parts: Sequence[list[FrameQuality]]) -> None:
        """Keep what several of these have `kept`, of different frames."""
        self.rows = sorted(itertools.chain(*parts))

    def scores(self, videos: list[Video], truth: Mapping[str, np.ndarray] | None = None) -> list[VideoScores]:
        """Gather the rows video by video, for a score file: signals ssim and, where it was to be had, lpips.

        The labels (T,) are those that `truth` has for each video's name, else 0.
        """
        scored, names = [], ["ssim", "lpips"] if self.lpips else ["ssim"]
        for v, group in itertools.groupby(sorted(self.rows, key=lambda row: row[:2]), key=lambda row: row.video):
            rows, name = list(group), videos[v].name
            frames = np.array([row.frame for row in rows])
            signals = {key: np.array([getattr(row, key) for row in rows]) for key in names}
            labels = truth[name][frames] if truth else np.zeros(len(rows))
            scored.append(VideoScores(name, frames, signals, labels.astype(np.uint8)))
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


def ssim(predicted: np.ndarray, target: np.ndarray) -> float:
    """Compute the SSIM of a pair of frames (C, H, W) on [0, 1]."""
    return float(structural_similarity(predicted, target, data_range=1.0, channel_axis=0, gaussian_weights=True,
                                       sigma=1.5, use_sample_covariance=False))


def to_unit(frames: Tensor) -> np.ndarray:
    """Turn (B, C, H, W) in [-1, 1] into an array on [0, 1]."""
    return ((frames.float() + 1) / 2).cpu().numpy()


def to_rgb(frames: Tensor) -> Tensor:
    """Turn (B, C, H, W) blue-green-red or grey into (B, 3, H, W) red-green-blue."""
    return frames.float().flip(1) if frames.shape[1] == 3 else frames.float().expand(-1, 3, -1, -1)


def load_lpips() -> torch.nn.Module | None:
    """Load LPIPS; its AlexNet is downloaded unless torch.hub has it. None, after a warning, where that fails."""
    try:
        with quiet():
            import lpips
            return lpips.LPIPS(net="alex", verbose=False).requires_grad_(False)
    except ImportError as error:
        warnings.warn(f"no LPIPS: {error}; pip install lpips torchvision")
    except Exception as error:              # whatever a download, a damaged file or an odd version comes up with
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        warnings.warn(f"no LPIPS: the weights of its AlexNet can be neither read nor downloaded ({reason}); put "
                      f"{ALEXNET} into {torch.hub.get_dir()}/checkpoints")
    return None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings of old arguments, print news of a download on stderr, and do not wait for a server for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        socket.setdefaulttimeout(before)
