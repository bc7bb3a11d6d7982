"""Score one's own video frame by frame, show where the prediction fails, and list the alarms.

    python scripts/predict_video.py --checkpoint weights/ped2_small.pt --video VIDEO.mp4
    python scripts/predict_video.py --checkpoint CKPT.pt --video VIDEO.mp4 --normal NORMAL.mp4 --out FOLDER
    python scripts/predict_video.py --checkpoint CKPT.pt --video 0 --seconds 600

A frame's score depends on the frames before it only. Normality is 0 on an average normal frame, negative where the
network does worse; below the threshold a frame is low, and low frames that stay make an alarm. Writes scores.csv,
alarms.csv, curve.png and annotated.mp4. docs/video.md says what the numbers mean.
"""

import argparse
import contextlib
import csv
import io
import itertools
import math
import time
import warnings
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from lgn_net.config import Config
from lgn_net.data.clips import resize
from lgn_net.data.footage import Footage, Frame, find_footage, name_of, open_footage, slack
from lgn_net.device import pick_device
from lgn_net.errors import UserError
from lgn_net.files import check_writable, write_atomic
from lgn_net.inference.localize import as_array, error_map, smoothed
from lgn_net.inference.loop import as_float32, judge, update_memories
from lgn_net.inference.stream import WindowEncoder, for_inference
from lgn_net.model.build import build_model
from lgn_net.scores.calibration import calibrate, calibrated, check_calibration, pooled, threshold_at
from lgn_net.scores.protocols import distance_names, paper_weights
from lgn_net.scores.score_file import VideoScores, read_scores, stretches, write_scores
from lgn_net.terminal import StopOnSignal, progress, run_command
from lgn_net.training.checkpoint import load_checkpoint, load_weights
from lgn_net.video.overlay import Strip, VideoFile, draw_box, heat, plot_normality

FPS = 25.0                    # of the annotated video where nothing is known


def main(argv: list[str]) -> int:
    args = parse_arguments(argv)
    config, content = load_checkpoint(args.checkpoint)
    config = replace(config, score=replace(config.score, memory_update="carry" if args.update_memory else "off"))
    device = pick_device(args.device)
    model = build_model(config).to(device)
    load_weights(model, content["model"], args.checkpoint)
    weights = paper_weights(config.score.psnr_weight, len(model.memories))
    place, name = find_footage(args.video), name_of(args.video)
    out = Path(args.out or f"predicted_{name}")
    check_writable(out)
    if args.normal:
        normal = [video for text in args.normal for video in score_normal(text, model, config, weights, device)]
        calibration = calibrate(normal, weights, pooled(normal, ["peak_error"])["peak_error"])
    else:
        calibration = check_calibration(content.get("calibration"), weights, args.checkpoint)
    threshold = threshold_at(calibration, args.false_alarms) if args.threshold is None else args.threshold
    if args.threshold is None and args.false_alarms * calibration["frames"] < 1:
        warnings.warn(f"--false_alarms {args.false_alarms:g} of {calibration['frames']} normal frames is less than "
                      f"one of them; the threshold is about the lowest")

    record, strip = Record(), None
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_footage(place, config.data.channels, args.fps))
        if math.isfinite(args.seconds) and not (source.live or source.fps):
            raise UserError(f"--seconds {args.seconds:g}: how fast {args.video} goes is not known; give --fps as well")
        stop = stack.enter_context(StopOnSignal())
        bar = stack.enter_context(progress("predict", source.length, "frames"))
        video = None if args.no_video else stack.enter_context(VideoFile(out / "annotated.mp4", source.fps or FPS))
        frames = until(source.frames, lambda seconds: stop.received or seconds >= args.seconds)
        scored = score_frames(frames, model, config, device, source.live, name)
        started = time.monotonic()
        normality_of = partial(calibrated, weights=weights, calibration=calibration)
        for frame, normality, alarm in with_alarms(scored, normality_of, threshold, args.min_frames, args.gap):
            if video:
                picture = frame.picture
                if frame.error is not None:
                    picture = heat(picture, frame.error, calibration["peak_error"])
                if alarm:
                    draw_box(picture, frame.error)
                strip = strip or Strip(picture.shape[1], picture.shape[0], threshold)
                video.write(np.vstack([picture, strip.draw(len(record.alarm), normality, alarm)]))
            record.add(frame, normality, alarm)
            bar.update()
        speed = len(record.alarm) / max(time.monotonic() - started, 1e-9)
        check_length(record, source, config.model.window, stop.received, args.video)
        alarms = record.write(out, name, threshold)

    report(record, alarms, calibration, threshold, args)
    print(f"speed      {speed:.1f} frames a second ({device.type}, {torch.get_num_threads()} threads"
          f"{'' if args.no_video else ', annotated video included'})")
    if source.fps:
        print(f"           the source has {source.fps:g}")
    for file in ("scores.csv", "alarms.csv", "curve.png", *(() if args.no_video else ("annotated.mp4",))):
        print(f"written    {out / file}")
    return 128 + stop.received if stop.received and not source.live else 0


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The command line; UserError for values out of range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True,
                        help="of scripts/export_weights.py, or with --normal any checkpoint")
    parser.add_argument("--video", required=True,
                        help="video file, folder of images, number of a camera, or address of a stream (rtsp://...)")
    parser.add_argument("--out", help="folder for the results (default: predicted_<name of the video>)")
    parser.add_argument("--normal", nargs="+", metavar="VIDEO",
                        help="videos or folders of your scene with nothing abnormal in them, or scores.csv of such, "
                             "which say what is normal in place of the checkpoint's training frames")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--threshold", type=float, help="normality below which a frame is low")
    limit.add_argument("--false_alarms", type=float, default=0.01, metavar="SHARE",
                       help="threshold below which this share of the normal frames lies (default: 0.01)")
    parser.add_argument("--min_frames", type=int, default=5, help="an alarm lasts at least so many frames (default: 5)")
    parser.add_argument("--gap", type=int, default=2, help="so many frames that are not low do not end it (default: 2)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so many seconds of the video")
    parser.add_argument("--fps", type=float,
                        help="frames a second, for a folder of images or where a file is wrong about it")
    parser.add_argument("--update_memory", action="store_true",
                        help="let the memory learn from frames that look normal (regular score below gamma)")
    parser.add_argument("--no_video", action="store_true", help="do without annotated.mp4; faster")
    parser.add_argument("--device", default="auto", help="cuda, cuda:1, mps or cpu; auto takes the first there is")
    args = parser.parse_args(argv)
    for flag, ok, range_ in (("false_alarms", 0 <= args.false_alarms < 1, "0 or more, and below 1"),
                             ("min_frames", 1 <= args.min_frames <= 1000, "1 to 1000"),
                             ("gap", 0 <= args.gap <= 1000, "0 to 1000"),
                             ("threshold", args.threshold is None or math.isfinite(args.threshold), "a number"),
                             ("seconds", args.seconds > 0, "above 0"),
                             ("fps", args.fps is None or 0 < args.fps <= 1000, "above 0, and at most 1000")):
        if not ok:
            raise UserError(f"--{flag} {getattr(args, flag)}: give {range_}")
    return args


# ------------------------------------------------------------------------------------------------------------- scoring

class Scored(NamedTuple):
    """A frame and what the network says of it; of the first n it says nothing."""

    picture: np.ndarray                        # uint8 (H, W, 3)
    seconds: float                             # since the beginning; NaN: unknown
    signals: dict[str, float] | None           # as in the score file
    error: np.ndarray | None                   # squared error on [0, 1], (size, size)


@torch.inference_mode()
def score_frames(frames: Iterator[Frame], model: nn.Module, config: Config, device: torch.device, live: bool,
                 name: str) -> Iterator[Scored]:
    """Score the frames of a `Footage` as `lgn_net.inference.loop.score_videos` does; only a window and a batch are kept.

    A batch is one frame where frames are live or the memory learns. UserError when a prediction is not finite.
    """
    model, gamma = for_inference(model, config), as_float32(config.score.gamma)
    encode, size = WindowEncoder(model, config, device), config.data.image_size
    updating = config.score.memory_update != "off" and bool(model.memories)
    count = 1 if live or updating else config.score.batch_size
    for start in itertools.count(step=count):
        if not (batch := list(itertools.islice(frames, count))):
            return
        encoded = encode([(0, start + k) for k in range(len(batch))], [resize(image, size) for _, image, _ in batch])
        rows = []
        if encoded:
            predicted, numbers = judge(model, encoded.queries, encoded.context, encoded.targets, config)
            errors = error_map(as_array(predicted), as_array(encoded.targets))
            for (p, r, *d), error in zip(numbers.tolist(), errors):
                if not all(map(math.isfinite, (p, r, *d))):
                    raise UserError(f"{name}: a prediction is not finite; the checkpoint's weights are damaged")
                learns = updating and r < gamma
                rows.append(({"psnr": p, **dict(zip(distance_names(len(d)), d)), "regular_score": r,
                              "memory_updated": float(learns), "peak_error": float(smoothed(error).max())}, error))
                if learns:
                    update_memories(model, encoded.queries)
        unscored = [(None, None)] * (len(batch) - len(rows))
        for (picture, _, seconds), (signals, error) in zip(batch, unscored + rows):
            yield Scored(picture, seconds, signals, error)


def until(frames: Iterator[Frame], ended: Callable[[float], bool]) -> Iterator[Frame]:
    """Frames up to the one at whose time something says that it has ended."""
    return itertools.takewhile(lambda frame: not ended(frame[2]), frames)


def score_normal(text: str, model: nn.Module, config: Config, weights: dict[str, float], device: torch.device) \
        -> list[VideoScores]:
    """The signals of a normal video, or those in its scores.csv. UserError for a camera, and for too few frames."""
    place = find_footage(text)
    if isinstance(place, Path) and place.suffix.lower() == ".csv":
        videos = read_scores(place, list(weights), labelled=False)
        if "peak_error" not in videos[0].signals:
            raise UserError(f"{text} was not written by this command (it lacks the column peak_error); give "
                            f"--normal the video")
        return videos
    if not isinstance(place, Path):
        raise UserError(f"--normal {text} is live; run this command with --video {text} --seconds 600 while all is "
                        f"normal, then give the scores.csv that it writes")
    config, record = replace(config, score=replace(config.score, memory_update="off")), Record()
    with open_footage(place, config.data.channels, None) as source, progress("normal", source.length, "frames") as bar:
        for frame in score_frames(source.frames, model, config, device, False, text):
            record.add(frame, math.nan, False)
            bar.update()
        check_length(record, source, config.model.window, None, text)
    return [record.scores(text)]


# -------------------------------------------------------------------------------------------------------------- alarms

class Alarms:
    """Decides of every frame whether it is in an alarm, some frames later: at most `length` + `gap`.

    Low frames with at most `gap` others between them belong together; from the first to the last they are an alarm
    where that is `length` frames or more.
    """

    def __init__(self, length: int, gap: int):
        self.length, self.gap = length, gap
        self.undecided = self.after = 0        # frames up to the last low one; frames behind it
        self.on = False

    def add(self, low: bool) -> list[bool]:
        """Take a frame, and return what is decided now: of the frames in their order, from the first undecided one."""
        if low:
            self.undecided, self.after = self.undecided + self.after + 1, 0
            self.on = self.on or self.undecided >= self.length
            decided = [True] * self.undecided * self.on
            self.undecided -= len(decided)
            return decided
        self.after += 1
        return [] if (self.on or self.undecided) and self.after <= self.gap else self.finish()

    def finish(self) -> list[bool]:
        """No low frame comes any more: what is undecided is in no alarm."""
        decided = [False] * (self.undecided + self.after)
        self.undecided, self.after, self.on = 0, 0, False
        return decided


def with_alarms(frames: Iterator[Scored], normality_of: Callable[[dict[str, float]], float], threshold: float,
                length: int, gap: int) -> Iterator[tuple[Scored, float, bool]]:
    """Each frame with its normality, NaN without signals, and whether it is in an alarm."""
    alarms, waiting = Alarms(length, gap), deque()
    for frame in frames:
        normality = normality_of(frame.signals) if frame.signals else math.nan
        waiting.append((frame, normality))
        for alarm in alarms.add(normality < threshold):
            yield *waiting.popleft(), alarm
    for alarm in alarms.finish():
        yield *waiting.popleft(), alarm


# ------------------------------------------------------------------------------------------------------------- results

class Record:
    """The numbers of all frames so far; some 60 bytes a frame."""

    def __init__(self):
        self.signals: dict[str, array] = {}    # of the scored frames, all but the first ones
        self.normality, self.seconds, self.alarm = array("d"), array("d"), array("b")      # of every frame

    def add(self, frame: Scored, normality: float, alarm: bool) -> None:
        """Append a frame."""
        for name, value in (frame.signals or {}).items():
            self.signals.setdefault(name, array("d")).append(value)
        self.normality.append(normality)
        self.seconds.append(frame.seconds)
        self.alarm.append(alarm)

    def scores(self, name: str) -> VideoScores:
        """The scored frames."""
        signals = {key: np.array(values) for key, values in self.signals.items()}
        frames = np.arange(len(self.alarm) - len(signals["psnr"]), len(self.alarm))
        signals["normality"] = np.array(self.normality)[frames]
        return VideoScores(name, frames, signals, np.zeros(len(frames), np.uint8))

    def alarms(self) -> list[tuple[int, int]]:
        """First and last frame of each alarm."""
        return [(first, end - 1) for first, end in stretches(np.array(self.alarm)).tolist()]

    def write(self, out: Path, name: str, threshold: float) -> list[tuple[int, int]]:
        """Write scores.csv, alarms.csv and curve.png; returns the alarms."""
        scores, alarms = self.scores(name), self.alarms()
        normality, seconds = np.array(self.normality), np.array(self.seconds)
        timed = bool(np.isfinite(seconds).all())
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["video", "start", "end", "start_seconds", "end_seconds", "lowest_normality"])
        for first, last in alarms:
            moments = [f"{seconds[k]:.3f}" if timed else "" for k in (first, last)]
            writer.writerow([name, first, last, *moments, f"{np.nanmin(normality[first:last + 1]):.4f}"])
        write_scores(out / "scores.csv", [scores], labelled=False)
        write_atomic(out / "alarms.csv", text.getvalue())
        x = seconds if timed else np.arange(len(normality))
        plot_normality(out / "curve.png", x[scores.frames], normality[scores.frames], threshold,
                       [(x[first], x[last]) for first, last in alarms], name, "seconds" if timed else "frame")
        return alarms


def check_length(record: Record, source: Footage, window: int, stopped: int | None, text: str) -> None:
    """UserError when no frame was scored; a warning when a file gave fewer frames than it says it has."""
    count = len(record.alarm)
    if not record.signals:
        raise UserError(f"{text}: {count} frame{'s'[:count != 1]}, fewer than the {window} of a window; nothing was "
                        f"scored")
    if source.length and not stopped and count < source.length - slack(source.length):
        warnings.warn(f"{text}: {count} of {source.length} frames could be decoded; it is cut off or damaged, and "
                      f"scored up to there")


def report(record: Record, alarms: list[tuple[int, int]], calibration: dict, threshold: float,
           args: argparse.Namespace) -> None:
    """Print what was found, and how far the threshold can be believed."""
    scores = record.scores("")
    normality = scores.signals["normality"]
    low = int((normality < threshold).sum())
    where = ", ".join(args.normal) if args.normal else "the checkpoint's training videos"
    print(f"frames     {len(record.alarm)}, of which {len(normality)} scored; normality {normality.mean():+.2f} on "
          f"average, lowest {normality.min():+.2f} at frame {scores.frames[normality.argmin()]}")
    share = f"{100 * args.false_alarms:g} % of the normal frames are below" if args.threshold is None else "as given"
    print(f"threshold  {threshold:+.2f} ({share}); normal: {calibration['frames']} frames of {where}")
    print(f"alarms     {len(alarms)}; {low} frames ({100 * low / len(normality):.1f} %) are below the threshold")
    for first, last in alarms[:10]:
        when = f", {record.seconds[first]:.1f} to {record.seconds[last]:.1f} s"
        print(f"           frames {first} to {last}{when if math.isfinite(record.seconds[last]) else ''}")
    if alarms[10:]:
        print(f"           and {len(alarms) - 10} more, in alarms.csv")
    if args.normal:
        return
    print("note       if this is another scene than the checkpoint's (another camera, place or light), the threshold "
          "means little: give --normal VIDEO, a stretch of your scene with nothing abnormal in it")
    outside = np.mean((normality < calibration["normality"][0]) | (normality > calibration["normality"][-1]))
    if outside > 0.5:
        warnings.warn(f"{100 * outside:.0f} % of the frames are more or less normal than any training frame was: the "
                      f"network was trained on another scene, and threshold and alarms mean nothing; give --normal")


if __name__ == "__main__":
    run_command(main)
