"""Frames as they come, with their signals and alarms; only a window and a batch of pictures are kept."""

from array import array
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from lgn_net.config import Config, with_knobs
from lgn_net.data.clips import resize
from lgn_net.data.footage import Frame
from lgn_net.errors import UserError
from lgn_net.inference.loop import predict
from lgn_net.inference.stream import batched, encode_windows, for_inference
from lgn_net.model.lgn_net import FramePredictor
from lgn_net.scores.maps import as_array, error_map, smoothed
from lgn_net.scores.score_file import VideoScores


class Scored(NamedTuple):
    """A frame; the first n frames of a video have no signals."""

    frame: Frame
    signals: dict[str, float] | None = None    # as in the score file
    error: np.ndarray | None = None            # squared error on [0, 1], (size, size)


@torch.inference_mode()
def score_frames(frames: Iterator[Frame], model: FramePredictor, config: Config, device: torch.device,
                 updating: bool = False, live: bool = False) -> Iterator[Scored]:
    """Score frames as they come, like `lgn_net.inference.loop.score_videos`.

    `frames` are those of one `Footage`; the model, on the device, stays as it is. `updating` updates a copy of the
    memory by frames whose regular score is below gamma. `live` scores each frame at once, in a batch of its own.
    """
    config = with_knobs(config, {"score.memory_update": "carry" if updating else "frozen"})
    model = for_inference(model, config)
    waiting: deque[tuple[int, Frame]] = deque()            # frames that went into the network

    def enter() -> Iterator[tuple[int, int, np.ndarray]]:
        for t, frame in enumerate(frames):
            waiting.append((t, frame))
            yield 0, t, resize(frame.image, config.data.image_size)

    batches = batched(enter(), 1 if live or updating else config.score.batch_size)
    for scored in predict(model, encode_windows(model, batches, config, device), config):
        errors = error_map(as_array(scored.predicted), as_array(scored.target))
        for signals, error in zip(scored.signals, errors):
            while waiting[0][0] < signals.frame:
                yield Scored(waiting.popleft()[1])
            peak = float(smoothed(error).max())
            yield Scored(waiting.popleft()[1], signals.columns() | {"peak_error": peak}, error)
    yield from (Scored(frame) for _, frame in waiting)


def with_alarms(frames: Iterable[tuple[Scored, float]], threshold: float, length: int,
                gap: int) -> Iterator[tuple[Scored, float, bool]]:
    """Tell of each frame, given with its normality, whether it is in an alarm, at most `length` + `gap` frames later.

    A frame is low when its normality is below the threshold; NaN never is. Low frames with at most `gap` other frames
    between them belong together. They are an alarm, from the first to the last of them, if that is `length` frames or
    more.
    """
    waiting: list[tuple[Scored, float]] = []   # undecided frames; outside an alarm the first of them is low
    lows = 0                                   # of these, the frames up to the last low one
    on = False                                 # the frame before them is in an alarm
    for frame, normality in frames:
        waiting.append((frame, normality))
        if normality < threshold:
            lows = len(waiting)
            on = on or lows >= length
            decided = on
        else:
            decided = len(waiting) - lows > gap or not (on or lows)
            on = on and not decided
        if decided:
            yield from ((*item, on) for item in waiting)
            waiting, lows = [], 0
    yield from ((*item, False) for item in waiting)


class Record:
    """The numbers of a video's scored frames, eight bytes each: a camera may run for days."""

    def __init__(self) -> None:
        self.count = 0                         # of all frames
        self.columns: dict[str, array] = defaultdict(lambda: array("d"))

    def add(self, scored: Scored, **more: float) -> None:
        """Append a frame's signals, time and `more`."""
        self.count += 1
        if scored.signals:
            for name, value in {**scored.signals, **more, "seconds": scored.frame.seconds}.items():
                self.columns[name].append(value)

    def scores(self, name: str) -> VideoScores:
        """Return the record as scores of a video of this name. UserError where no frame was scored."""
        if not self.columns:
            raise UserError(f"{name}: {self.count} frames, fewer than those of a window; nothing was scored")
        signals = {key: np.array(values) for key, values in self.columns.items()}
        frames = np.arange(self.count - len(signals["seconds"]), self.count)
        return VideoScores(name, frames, signals, np.zeros(len(frames), np.uint8))
