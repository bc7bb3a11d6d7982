"""Model over test videos -> raw signals of every predicted frame. The GPU ends here."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from lgn_net.config import Config
from lgn_net.data.clips import long_enough, read_frames, to_float
from lgn_net.data.videos import Video
from lgn_net.errors import UserError
from lgn_net.model.lgn_net import LGNNet
from lgn_net.model.memory import PrototypeMemory, flatten_queries
from lgn_net.runs import autocast


class FrameSignals(NamedTuple):
    """What the model says of one predicted frame."""

    video: int                # index of the video
    frame: int                # index of the predicted frame within its video, from 0
    psnr: float               # dB
    distance: float           # D: mean squared difference of queries and their nearest items
    regular_score: float      # R, on the scale of a squared error on [0, 1]
    memory_updated: bool      # whether R < gamma, and the memory learned from this frame


@torch.inference_mode()
def score_videos(model: LGNNet, videos: list[Video], config: Config, device: torch.device,
                 bar: tqdm | None = None) -> list[FrameSignals]:
    """Predict and judge every frame but the first n of each video, in order, with test-time memory updates.

    Signals of a frame are taken with the memory as it is before that frame's own update. What does not
    depend on the memory is computed for `score.batch_size` windows at once; scores depend on it by no more than rounding. Videos shorter
    than n + 1 frames are skipped with a warning. The model's memory is as before afterwards.

    Raises:
        UserError: a damaged frame, frames of differing size, no video long enough, or a prediction that is not finite.
    """
    model.eval()
    at_start = model.memory.items.clone()
    try:
        return [signal for v in long_enough(videos, config.model.input_frames + 1)
                for signal in score_video(model, v, videos[v], at_start, config, device, bar)]
    finally:
        model.memory.items.copy_(at_start)


def score_video(model: LGNNet, v: int, video: Video, at_start: Tensor, config: Config, device: torch.device,
                bar: tqdm | None) -> Iterator[FrameSignals]:
    """`score_videos` for one video; leaves the memory as its last frame left it."""
    frame, knobs = config.model.input_frames, config.score                    # frame that the next window predicts
    if knobs.memory_update == "reset":
        model.memory.items.copy_(at_start)
    for clips in read_clips(video, config):
        clips = to_float(clips.to(device))                                    # (B, n + 1, C, H, W)
        with autocast(device, knobs.precision):
            queries, local = model.encode(clips[:, :-1])
        # Without updates frames are independent; with them, each is judged by the memory its predecessors left.
        step = len(clips) if knobs.memory_update == "off" else 1
        for i in range(0, len(clips), step):
            now = slice(i, i + step)
            with autocast(device, knobs.precision):
                predicted = model.predict(queries[now], local[now])
            psnr, regular = judge_prediction(predicted.float(), clips[now, -1], knobs.psnr_peak)
            distance = query_distance(queries[now], model.memory)
            update = (regular < knobs.gamma) & (knobs.memory_update != "off")
            if step == 1 and update.item():
                model.memory.update_(queries[now])
            for values in zip(psnr.tolist(), distance.tolist(), regular.tolist(), update.tolist()):
                if not all(map(math.isfinite, values)):
                    raise UserError(f"video {video.name}, frame {frame}: the prediction is not finite; "
                                    f"the checkpoint's weights are damaged")
                yield FrameSignals(v, frame, *values)
                frame += 1
        if bar is not None:
            bar.update(len(clips))


def read_clips(video: Video, config: Config) -> Iterator[Tensor]:
    """All windows of a video in order, `score.batch_size` at once: uint8 (B, n + 1, C, size, size)."""
    n, B = config.model.input_frames, config.score.batch_size
    for start in range(0, len(video.frames) - n, B):
        frames = read_frames(video.frames[start:start + B + n], config.data.channels, config.data.image_size)
        yield torch.from_numpy(frames).unfold(0, n + 1, 1).movedim(-1, 1)     # a view, no copy


def judge_prediction(predicted: Tensor, target: Tensor, peak: str = "one") -> tuple[Tensor, Tensor]:
    """PSNR in dB and regular score R of each predicted frame.

    Args:
        predicted, target: (B, C, H, W) in [-1, 1]; compared on [0, 1].
        peak: of the PSNR, "one" or the maximum of the "prediction" (eq. 13; docs/differences.md, 6). A perfect
            prediction scores 120 dB at peak one.

    Returns:
        psnr (B,), and R = sum((1 - exp(-e)) e) / sum(1 - exp(-e)) over the squared errors e of a frame (eq. 7-8;
        docs/differences.md, 7), (B,).
    """
    error = ((predicted - target) / 2).square()                               # (B, C, H, W)
    mse = error.mean(dim=(1, 2, 3)).clamp_min(1e-12)
    top = 1.0 if peak == "one" else ((predicted + 1) / 2).amax(dim=(1, 2, 3)).square().clamp_min(1e-12)
    weight = -torch.expm1(-error)                                             # 1 - exp(-e)
    total = weight.sum(dim=(1, 2, 3)).clamp_min(torch.finfo(weight.dtype).tiny)
    return 10 * torch.log10(top / mse), (weight * error).sum(dim=(1, 2, 3)) / total


def query_distance(queries: Tensor, memory: PrototypeMemory) -> Tensor:
    """D of each frame: queries (B, D, h, w) -> mean of (q - nearest item)^2 over all h*w*D entries, (B,)."""
    nearest = memory.items[memory.nearest(queries)[:, 0]]                     # (B*h*w, D)
    return F.mse_loss(flatten_queries(queries), nearest, reduction="none").reshape(len(queries), -1).mean(dim=1)
