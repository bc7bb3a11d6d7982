"""The library: a trained network that says of each frame of a video how normal it is, and where alarms are."""

import itertools
import math
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import cv2
import numpy as np
import torch

from lgn_net.config import Config, with_knobs
from lgn_net.data.clips import resize
from lgn_net.data.footage import Frame, open_footage
from lgn_net.device import pick_device, set_kernels, settle_precision
from lgn_net.errors import UserError
from lgn_net.inference.loop import predict
from lgn_net.inference.stream import batched, encode_windows, for_inference
from lgn_net.model.build import build_model
from lgn_net.scores.maps import error_map, smoothed
from lgn_net.scores.normality import calibrate, calibrated
from lgn_net.scores.protocols import paper_weights
from lgn_net.scores.score_file import read_scores
from lgn_net.terminal import progress
from lgn_net.training.checkpoint import load_checkpoint, load_weights
from lgn_net.video.source import FPS, Numbered, Source, SourceLost

FIRST = 50                    # scored frames by which a scene is known, or that `calibrate_seconds` takes at least


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


class Scores(NamedTuple):
    """What the detector says of T frames; fields as in `FrameResult`."""

    normality: np.ndarray              # float64 (T,), NaN for the first frames, before a window is full
    alarm: np.ndarray                  # bool (T,)
    signals: dict[str, np.ndarray]     # float64 (T,) each, likewise


@dataclass
class AnomalyDetector:
    """A network, and what is normal to it; `load` makes one.

    A frame is low when its normality is below `threshold`, or where that is None below the normality of the share
    `false_alarms` (0 to 1) of the normal frames. Low frames with at most `gap` others between them, `min_frames` or
    more from first to last, are an alarm.
    """

    model: Any                         # a `FramePredictor` made ready by `for_inference`
    config: Config
    calibration: dict | None           # see `lgn_net.scores.normality.calibrate`
    device: torch.device
    checkpoint: str | Path
    _: KW_ONLY
    threshold: float | None = None
    false_alarms: float = 0.01
    min_frames: int = 5
    gap: int = 2
    of_training: bool = True           # the calibration is the checkpoint's: right for the scene of the training only

    def __post_init__(self) -> None:
        self.weights = paper_weights(self.config.score.psnr_weight, len(self.model.memories))

    @classmethod
    def load(cls, checkpoint: str | Path, device: str = "auto", knobs: dict | None = None, **settings: Any) -> Self:
        """Load a checkpoint, with these knobs changed; `settings`: threshold, false_alarms, min_frames, gap.

        One of scripts/export_weights.py says what is normal; any other needs `calibrate`.
        """
        (config, content), place = load_checkpoint(checkpoint), pick_device(device)
        config = with_knobs(config, {"score.memory_update": "frozen"} | (knobs or {}))
        config = settle_precision(config, "score", place)
        set_kernels(config.score.precision)
        model: Any = build_model(config).to(place)
        load_weights(model, content["model"], checkpoint)
        return cls(for_inference(model, config), config, content.get("calibration"), place, checkpoint, **settings)

    def calibrate(self, *normal: str | Path) -> Self:
        """Take these videos, folders of images, or scores.csv of such, as what is normal; returns the detector."""
        videos = []
        for path in map(Path, normal):
            if path.suffix.lower() == ".csv":
                videos += [video.signals for video in read_scores(path, [*self.weights, "peak_error"], labelled=False)]
                continue
            found: list[dict[str, float]] = []
            with open_footage(path, self.config.data.channels) as footage, \
                    progress("normal", footage.length or 0, "frames") as bar:
                for one in self.score_frames(enumerate(footage.frames)):
                    found += [one.signals] if one.signals else []
                    bar.update()
            if not found:
                raise UserError(f"{path}: {bar.n} frames, fewer than those of a window; nothing was scored")
            videos.append({name: np.array([signals[name] for signals in found]) for name in found[0]})
        self.calibration, self.of_training = calibrate(videos, self.weights), False
        return self

    def limit(self) -> float:
        """Return the normality below which a frame is low. UserError where it is not known what is normal."""
        if self.calibration is None:
            raise UserError(f"{self.checkpoint} does not say how it scores normal frames; give it --normal VIDEO, a "
                            f"normal stretch of your scene, or a checkpoint of scripts/export_weights.py")
        limit = np.interp(self.false_alarms, self.calibration["shares"], self.calibration["normality"])
        return float(limit) if self.threshold is None else self.threshold

    def score(self, frames: Iterable[np.ndarray]) -> Scores:
        """Score consecutive frames, uint8 (H, W, 3) blue-green-red, or (H, W) grey; they are one video of their own."""
        found = [(one.normality, one.alarm, one.signals) for one in self.watch(enumerate(map(self.to_frame, frames)))]
        normality, alarm, signals = zip(*found) if found else ((), (), ())
        return Scores(np.array(normality), np.array(alarm, bool),
                      {name: np.array([one.get(name, math.nan) for one in signals])
                       for name in max(signals, key=len, default={})})

    def to_frame(self, picture: np.ndarray) -> Frame:
        """Make the network's frame of a picture as `score` takes it. UserError for other pictures."""
        if picture.dtype != np.uint8 or picture.shape[2:] not in ((), (3,)):
            raise UserError(f"frames are {picture.dtype} {picture.shape}; give uint8 (H, W, 3) or (H, W)")
        picture = picture if picture.ndim == 3 else cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
        grey = self.config.data.channels == 1
        return Frame(picture, cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)[..., None] if grey else picture, math.nan)

    def watch(self, video: str | Path | int | Iterable[Numbered | None], calibrate_seconds: float = 0.0,
              **how: Any) -> Iterator[FrameResult]:
        """Score a video, each frame by those before it alone, and yield all frames in order.

        `video` is a file, a folder of images, a stream's address or a camera's number (`how`: see `Source`), or what a
        `Source` yields; what follows a gap starts anew. A frame comes at most `min_frames` + `gap` frames late. Where
        the calibration is the checkpoint's and no `threshold` is given, the first FIRST come when they show whether
        this is the scene of the training; if not, a warning says so, and there are no alarms. `calibrate_seconds`: take
        so many seconds of the beginning, and FIRST scored frames or more, as what is normal, by median and median
        absolute deviation. UserError for too short a video; SourceLost where a live one stays away.
        """
        source = Source(video, self.config.data.channels, **how) if isinstance(video, str | Path | int) else video
        scored, learned = self.score_frames(source, getattr(source, "live", False)), list[dict[str, float]]()

        # Take the beginning as normal: its frames get no normality.
        for one in scored if calibrate_seconds else ():
            yield one
            learned += [one.signals] if one.signals else []
            seconds = one.number / FPS if math.isnan(one.seconds) else one.seconds
            if seconds >= calibrate_seconds and len(learned) >= FIRST:
                normal = {name: np.array([signals[name] for signals in learned]) for name in learned[0]}
                self.calibration, self.of_training = calibrate([normal], self.weights, robust=True), False
                break
        else:
            if calibrate_seconds:
                lost = getattr(source, "lost", None)
                raise (SourceLost if lost else UserError)(
                    f"{lost or 'the video ended'} before {calibrate_seconds:g} seconds and {FIRST} scored frames could "
                    f"be taken as normal ({len(learned)} were); give fewer seconds, or --normal VIDEO")

        # Hold the first frames until they show which scene this is: another one is far from all training frames.
        limit, held = self.limit(), list[FrameResult]()
        if self.of_training and self.threshold is None:
            for one in scored:
                held.append(one)
                if sum(bool(frame.signals) for frame in held) == FIRST:
                    break
            lowest, *_, highest = (self.calibration or {})["normality"]
            middle = float(np.median([self.normality(one) for one in held if one.signals] or [0.0]))
            if not 2 * lowest - highest <= middle <= 2 * highest - lowest:
                limit = math.nan
                warnings.warn(f"this is another scene than the checkpoint's, so there are no alarms: normality is "
                              f"{middle:.1f} in the first frames (median), {lowest:.1f} to {highest:.1f} in training; "
                              f"give --normal VIDEO of the scene with nothing abnormal, or --calibrate SECONDS")

        judged = (one._replace(normality=self.normality(one), threshold=limit) for one in itertools.chain(held, scored))
        yield from with_alarms(judged, self.min_frames, self.gap)
        if lost := getattr(source, "lost", None):
            raise lost

    @torch.inference_mode()
    def score_frames(self, frames: Iterable[Numbered | None], at_once: bool = False) -> Iterator[FrameResult]:
        """Score consecutive frames as they come, like `lgn_net.inference.loop.score_videos`; normality comes later.

        What follows None, a gap, starts anew. `at_once` scores each frame when it comes, in a batch of its own.
        """
        waiting: deque[tuple[int, FrameResult]] = deque()      # frames that went into the network

        def enter() -> Iterator[tuple[int, int, np.ndarray]]:
            for t, item in enumerate(frames):                  # a gap has an index, too
                if item:
                    number, frame = item
                    waiting.append((t, FrameResult(number, frame.seconds, frame.picture)))
                    yield 0, t, resize(frame.image, self.config.data.image_size)

        batches = batched(enter(), 1 if at_once else self.config.score.batch_size)
        for scored in predict(self.model, encode_windows(self.model, batches, self.config, self.device), self.config):
            errors = error_map(scored.predicted, scored.target)
            for signals, error in zip(scored.signals, errors):
                while waiting[0][0] < signals.frame:
                    yield waiting.popleft()[1]
                columns = signals.columns() | {"peak_error": float(smoothed(error).max())}
                yield waiting.popleft()[1]._replace(signals=columns, error=error)
        yield from (one for _, one in waiting)

    def normality(self, one: FrameResult) -> float:
        """Compute the normality of a frame, NaN where it has no score."""
        signals: Any = one.signals
        return float(calibrated(signals, self.weights, self.calibration or {})) if signals else math.nan


def with_alarms(frames: Iterable[FrameResult], length: int, gap: int) -> Iterator[FrameResult]:
    """Tell of each frame with a normality whether it is in an alarm, at most `length` + `gap` frames later.

    `AnomalyDetector` says what an alarm is; NaN is never low, and a frame without a score ends an alarm.
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
            decided = len(waiting) - lows > gap or not (on or lows) or not frame.signals
            on = on and not decided
        if decided:
            yield from (one._replace(alarm=on) for one in waiting)
            waiting, lows = [], 0
    yield from waiting
