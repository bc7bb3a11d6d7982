"""Frames as they come, with their signals; only a window and a batch of pictures are kept."""

from array import array
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from lgn_net.config import Config, with_knobs
from lgn_net.data.clips import resize
from lgn_net.data.footage import Frame
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
def score_frames(frames: Iterator[Frame], model: FramePredictor, config: Config, device: torch.device, updating: bool,
                 live: bool) -> Iterator[Scored]:
    """Score frames as they come, like `lgn_net.inference.loop.score_videos`.

    Args:
        frames: of one `Footage`.
        model: on the device; stays as it is.
        config: of the network and the scoring.
        device: of the network.
        updating: update a copy of the memory by frames whose regular score is below gamma.
        live: score each frame at once, in a batch of its own.
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

    def column(self, name: str) -> np.ndarray:
        """Return one number of each scored frame, (n,)."""
        return np.array(self.columns[name])

    def scores(self, name: str) -> VideoScores:
        """Return all but the times and alarms as scores of a video of this name."""
        signals = {key: np.array(values) for key, values in self.columns.items() if key not in ("seconds", "alarm")}
        frames = np.arange(self.count - len(signals["psnr"]), self.count)
        return VideoScores(name, frames, signals, np.zeros(len(frames), np.uint8))
