"""A trained network over test videos: the signals of every predicted frame (paper, Section III-C)."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from lgn_net.config import Config
from lgn_net.data.clips import in_threads, long_enough
from lgn_net.data.videos import Video
from lgn_net.device import autocast
from lgn_net.distributed import rank, world_size
from lgn_net.errors import UserError
from lgn_net.inference.part import Part
from lgn_net.inference.signals import psnr, query_distance, regular_score
from lgn_net.inference.stream import SILENT, Encoded, batch_size_on, for_inference, stream_windows
from lgn_net.model.lgn_net import FramePredictor
from lgn_net.model.memory import Lookup
from lgn_net.scores.score_file import distance_names

CALM_WINDOWS = 4  # one more window is predicted at once for every so many without an update, so that few are in vain


class FrameSignals(NamedTuple):
    """What the network says of one predicted frame."""

    video: int                     # its index
    frame: int                     # index of the predicted frame within its video, from 0
    psnr: float                    # dB
    distance: tuple[float, ...]    # D of each memory: mean squared difference of queries and their nearest items
    regular_score: float           # R, on the scale of a squared error on [0, 1]
    memory_updated: bool           # whether R < gamma, and the memory was updated with this frame
    more: dict[str, float]         # PSNR in dB of `stream.baselines`, and what observers measured

    def columns(self) -> dict[str, float]:
        """Return the signals by their names in the score file."""
        return {"psnr": self.psnr, **dict(zip(distance_names(len(self.distance)), self.distance)),
                "regular_score": self.regular_score, "memory_updated": float(self.memory_updated), **self.more}


class Prediction(NamedTuple):
    """Scored windows."""

    signals: list[FrameSignals]    # of B windows
    predicted: Tensor              # (B, C, H, W) in [-1, 1]
    target: Tensor                 # the true frames, likewise
    lookups: list[Lookup]          # of each memory


def predict(model: FramePredictor, windows: Iterable[Encoded], config: Config, at_start: Sequence[Tensor] = (),
            video: int = -1, calm: int = 0) -> Iterator[Prediction]:
    """Predict and score windows in their order, and update the memory with frames that look normal.

    The signals of a frame are taken with the memory as it is before that frame's own update. When no update has come
    for a while, several windows are predicted at once; those after one that updates the memory are predicted again.
    An evaluation that goes on in the middle of a `video` gives the items that the memories had `at_start`, after the
    training, and how many frames, `calm`, have passed since the last update.
    """
    knobs, updating = config.score, config.score.memory_update != "frozen" and bool(model.memories)
    at_start = at_start or copy_items(model)
    for batch in windows:
        # With `reset` every video starts with the memory of the training.
        if knobs.memory_update == "reset" and batch.where[0][0] != video:
            restore_items(model, at_start)
        video = batch.where[0][0]
        while batch.where:
            count = max(1, calm // CALM_WINDOWS) if updating else len(batch.where)
            window = batch.part(0, count)

            # Read the prototypes (eq. 2-3) and predict the frames.
            lookups = model.read(window.queries)
            with autocast(window.target.device, knobs.precision):
                predicted = model.decode(lookups, window.context).float()

            # Compare the predictions with the frames (eq. 7-8, 13) and the queries with the items (eq. 14).
            R = regular_score(predicted, window.target)
            D = [query_distance(lookup, memory) for lookup, memory in zip(lookups, model.memories)]
            PSNR = psnr(predicted, window.target, knobs.psnr_peak)

            # The first frame whose regular score is below gamma updates the memory (eq. 4-6); those after it wait.
            updates = (knobs.gamma > R).tolist() if updating else [False] * len(R)
            if updated := True in updates:
                count = updates.index(True) + 1
                for memory, lookup in zip(model.memories, lookups):
                    memory.update_(lookup.part(count - 1, count))
            calm = 0 if updated else calm + count
            batch = batch.part(count)
            yield Prediction(to_signals(window, PSNR, R, D, updates)[:count], predicted[:count], window.target[:count],
                             [lookup.part(0, count) for lookup in lookups])


def to_signals(window: Encoded, PSNR: Tensor, R: Tensor, D: list[Tensor], updates: list[bool]) -> list[FrameSignals]:
    """Gather the signals (B,) of scored windows, frame by frame. UserError where one is not finite."""
    rows = torch.stack([PSNR, R, *D, *window.baselines.values()], dim=1).tolist()        # one transfer
    signals = []
    for (video, frame), (p, r, *others), updated in zip(window.where, rows, updates):
        if not math.isfinite(p + r + sum(others)):
            raise UserError(f"video number {video + 1}, frame {frame}: the prediction is not finite; the checkpoint's "
                            f"weights are damaged")
        distance, more = tuple(others[:len(D)]), dict(zip(window.baselines, others[len(D):]))
        signals.append(FrameSignals(video, frame, p, distance, r, updated, more))
    return signals


def copy_items(model: FramePredictor) -> list[Tensor]:
    """Copy the items of each memory."""
    return [memory.items.clone() for memory in model.memories]


def restore_items(model: FramePredictor, items: Iterable[Tensor]) -> None:
    """Give each memory the items that `copy_items` returned."""
    for memory, values in zip(model.memories, items):
        memory.items.copy_(values)


@torch.inference_mode()
def score_videos(model: FramePredictor, videos: list[Video], config: Config, device: torch.device,
                 bar: tqdm = SILENT, observers: Sequence[Callable] = (),
                 part: Part | None = None) -> Iterator[FrameSignals]:
    """Score every frame but the first n of each video, in order. The model's own memory stays as it is.

    Several processes divide the videos. What `observers` measure becomes signals: they are called with the index of the
    video, of the frame, predicted and true frame (C, H, W), by `data.workers` threads, and return numbers by name. A
    `part` keeps the signals as they come; those that it has already are yielded from there.
    """
    model = for_inference(model, config)
    at_start, done, calm = copy_items(model), (-1, -1), 0     # video and frame scored last, frames since an update
    ranges = [(v, range(len(videos[v].frames))) for v in videos_of_process(videos, config)]

    # What an evaluation that was killed has left.
    for row in part.resume([memory.items for memory in model.memories]) if part else ():
        signals = FrameSignals(*row)
        done, calm = signals[:2], 0 if signals.memory_updated else calm + 1
        yield signals
        bar.update()

    # Leave out the frames that the windows after it do not need; batches stay what they were.
    batch = batch_size_on(device, config)
    before = sum(len(frames) for v, frames in ranges if v < done[0]) + done[1] + 1
    skipped = max(0, before // batch - -(-(config.model.window - 1) // batch)) * batch
    for k, (v, whole) in enumerate(ranges):
        ranges[k] = v, whole[skipped:]
        skipped = max(0, skipped - len(whole))

    # Score the others.
    windows = stream_windows(model, videos, ranges, config, device)
    to_come = (batch.part(bisect_right(batch.where, done)) for batch in windows if batch.where[-1] > done)
    for scored in predict(model, to_come, config, at_start, done[0], calm):
        frames = zip(scored.signals, scored.predicted, scored.target)
        for signals in in_threads(partial(observe, observers), frames, config.data.workers if observers else 0):
            yield signals
            bar.update()
        if part:
            part.add(scored.signals)
    if part:
        part.save()


def observe(observers: Sequence[Callable], frame: tuple[FrameSignals, Tensor, Tensor]) -> FrameSignals:
    """Add what observers measure of a frame, predicted and true, to its signals."""
    signals, predicted, target = frame
    for observer in observers:
        signals.more.update(observer(signals.video, signals.frame, predicted, target))
    return signals


def videos_of_process(videos: list[Video], config: Config) -> list[int]:
    """Return the indices of the videos that this process scores; of all long enough ones where it is alone."""
    longest_first = sorted(long_enough(videos, config.model.window), key=lambda v: -len(videos[v].frames))
    return sorted(longest_first[rank()::world_size()])
