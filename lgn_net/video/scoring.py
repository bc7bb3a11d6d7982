"""Frames as they come, with their signals and alarms; only a window and a batch of pictures are kept."""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from lgn_net.config import Config
from lgn_net.data.clips import resize
from lgn_net.data.footage import Frame
from lgn_net.inference.loop import predict
from lgn_net.inference.stream import batched, encode_windows
from lgn_net.model.lgn_net import FramePredictor
from lgn_net.scores.maps import as_array, error_map, smoothed

Numbered = tuple[int, Frame]                   # number of a frame in its video, from 0, and the frame


class FrameResult(NamedTuple):
    """What the detector says of one frame. The first n frames of a video, or after a gap in it, have no score."""

    number: int                        # in its source, from 0
    seconds: float                     # since the source's first frame, 0 or more; NaN where the frame rate is unknown
    picture: np.ndarray                # uint8 (H, W, 3), blue-green-red
    signals: dict[str, float] = {}     # psnr in dB, distance >= 0, regular_score in 0 to 1 ...; {} without a score
    error: np.ndarray | None = None    # squared error of the prediction, float32 (size, size) in 0 to 1
    normality: float = math.nan        # standard deviations of normal frames: 0 is their mean; NaN without a score
    threshold: float = math.nan        # the normality below which frames are low; NaN where that is not known
    alarm: bool = False                # whether the frame is in an alarm


def without_gaps(frames: Iterator[Numbered | None]) -> Iterator[Iterator[Numbered]]:
    """Split frames at each None, which stands for a gap; each part must be used up before the next one is taken."""
    for first in filter(None, frames):
        yield itertools.chain([first], iter(lambda: next(frames, None), None))


@torch.inference_mode()
def score_frames(frames: Iterator[Numbered], model: FramePredictor, config: Config, device: torch.device,
                 at_once: bool = False) -> Iterator[FrameResult]:
    """Score consecutive frames as they come, like `lgn_net.inference.loop.score_videos`; normality comes later.

    `model`, on the device, is made ready by `for_inference`; its memory changes where `score.memory_update` says so.
    `at_once` scores each frame when it comes, in a batch of its own.
    """
    waiting: deque[FrameResult] = deque()                  # frames that went into the network

    def enter() -> Iterator[tuple[int, int, np.ndarray]]:
        for t, (number, frame) in enumerate(frames):
            waiting.append(FrameResult(number, frame.seconds, frame.picture))
            yield 0, t, resize(frame.image, config.data.image_size)

    unscored = config.model.window - 1
    for scored in predict(model, encode_windows(model, batched(enter(), 1 if at_once else config.score.batch_size),
                                                config, device), config):
        errors = error_map(as_array(scored.predicted), as_array(scored.target))
        for signals, error in zip(scored.signals, errors):
            for _ in range(unscored):
                yield waiting.popleft()
            unscored, peak = 0, float(smoothed(error).max())
            yield waiting.popleft()._replace(signals=signals.columns() | {"peak_error": peak}, error=error)
    yield from waiting


def with_alarms(frames: Iterable[FrameResult], length: int, gap: int) -> Iterator[FrameResult]:
    """Tell of each frame with a normality whether it is in an alarm, at most `length` + `gap` frames later.

    A frame is low when its normality is below its threshold; NaN never is. Low frames with at most `gap` other frames
    between them belong together. They are an alarm, from the first to the last of them, if that is `length` frames or
    more.
    """
    waiting: list[FrameResult] = []            # undecided frames; outside an alarm the first of them is low
    lows = 0                                   # of these, the frames up to the last low one
    on = False                                 # the frame before them is in an alarm
    for frame in frames:
        waiting.append(frame)
        if frame.normality < frame.threshold:
            lows = len(waiting)
            on = on or lows >= length
            decided = on
        else:
            decided = len(waiting) - lows > gap or not (on or lows)
            on = on and not decided
        if decided:
            yield from (one._replace(alarm=on) for one in waiting)
            waiting, lows = [], 0
    yield from waiting
