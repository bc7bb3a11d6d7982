"""Single windows: training windows that show how the network sees normal frames, and test frames to look at."""

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lgn_net.config import Config, with_knobs
from lgn_net.data.clips import long_enough
from lgn_net.data.videos import Video
from lgn_net.inference.loop import FrameSignals, Prediction, predict
from lgn_net.inference.stream import for_inference, stream_windows
from lgn_net.model.lgn_net import FramePredictor
from lgn_net.scores.maps import FrameMap, frame_map
from lgn_net.scores.score_file import VideoScores


@torch.inference_mode()
def predict_chosen(model: FramePredictor, videos: list[Video], where: Sequence[tuple[int, int]], config: Config,
                   device: torch.device) -> Iterator[Prediction]:
    """Run `lgn_net.inference.loop.predict` over chosen frames alone, given as (index of the video, index of the frame).

    Yields:
        Their predictions, in the order of `where`.
    """
    model = for_inference(model, config)
    ranges = ((v, range(t - config.model.window + 1, t + 1)) for v, t in where)
    yield from predict(model, stream_windows(model, videos, ranges, config, device), config)


def sample_normal(model: FramePredictor, videos: list[Video], config: Config, count: int, device: torch.device,
                  bar: tqdm | None = None) -> tuple[list[FrameSignals], list[dict]]:
    """Score `count` windows, spread evenly over videos, with the memory frozen.

    Returns:
        The signals; and for each memory "queries_of_item", the number of queries whose nearest item each item is,
        "live_items", the number of items with any, and "item_cosine", the mean cosine of two items.
    """
    before = config.model.window - 1
    every = [(v, t) for v in long_enough(videos, before + 1) for t in range(before, len(videos[v].frames))]
    picked = np.unique(np.linspace(0, len(every) - 1, min(count, len(every))).round().astype(int))
    usage = [torch.zeros(len(memory.items), dtype=torch.long, device=device) for memory in model.memories]
    signals: list[FrameSignals] = []
    frozen = with_knobs(config, {"score.memory_update": "frozen"})
    for scored in predict_chosen(model, videos, [every[i] for i in picked], frozen, device):
        signals += scored.signals
        for counts, lookup in zip(usage, scored.lookups):
            counts += torch.bincount(lookup.nearest[:, 0], minlength=len(counts))
        if bar is not None:
            bar.update(len(scored.signals))
    return signals, [{"live_items": int((counts > 0).sum()), "queries_of_item": counts.tolist(),
                      "item_cosine": memory.redundancy()} for counts, memory in zip(usage, model.memories)]


def predict_again(model: FramePredictor, videos: list[Video], config: Config, signals: list[FrameSignals],
                  wanted: Collection[tuple[int, int]],
                  device: torch.device) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Predict single frames again, each with the memory as it was when `signals` were taken.

    The frames that updated the memory are run again, too, so that the memory takes the same way.

    Args:
        model: as in `score_videos`, like the next two and the device.
        videos: the test videos.
        config: of the network and the scoring.
        signals: what `score_videos` returned.
        wanted: (index of the video, index of the frame) of frames in `signals`.
        device: of the network.

    Yields:
        Index of the video, of the frame, predicted and true frame (C, H, W) in [-1, 1], in the order of `signals`.
    """
    where = [(s.video, s.frame) for s in signals if s.memory_updated or (s.video, s.frame) in wanted]
    last = max((k for k, place in enumerate(where) if place in wanted), default=-1)
    for scored in predict_chosen(model, videos, where[:last + 1], config, device):
        for s, predicted, target in zip(scored.signals, scored.predicted, scored.target):
            if (s.video, s.frame) in wanted:
                yield s.video, s.frame, predicted, target


def draw_maps(model: FramePredictor, videos: list[Video], config: Config, signals: list[FrameSignals],
              scored: list[VideoScores], normal: Sequence[np.ndarray], wanted: Sequence[tuple[int, int, str]],
              device: torch.device) -> list[FrameMap]:
    """Make the error maps of chosen frames.

    Args:
        model: as in `predict_again`, like the next three and the device.
        videos: the test videos.
        config: of the network and the scoring.
        signals: of all frames.
        scored: the same, video by video.
        normal: normality (n_v,) of each of the `scored` videos.
        wanted: index in `scored`, index of the frame in its video, and why it was chosen.
        device: of the network.
    """
    index = {video.name: v for v, video in enumerate(videos)}
    reasons: dict[tuple[int, int], tuple[int, str]] = {}
    for k, frame, kind in wanted:
        reasons.setdefault((index[scored[k].name], frame), (k, kind))
    maps = {}
    for v, frame, predicted, target in predict_again(model, videos, config, signals, reasons, device):
        k, kind = reasons[v, frame]
        i = np.searchsorted(scored[k].frames, frame)
        maps[v, frame] = frame_map(scored[k].name, frame, kind, normal[k][i], scored[k].labels[i], predicted, target,
                                 videos[v].frames[frame])
    return [maps[key] for key in reasons]
