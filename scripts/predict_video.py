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
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from lgn_net.config import Config, with_knobs
from lgn_net.data.clips import resize
from lgn_net.data.footage import Footage, Frame, find_footage, name_of, open_footage, slack
from lgn_net.device import pick_device
from lgn_net.errors import UserError
from lgn_net.files import check_writable, write_atomic
from lgn_net.inference.loop import predict
from lgn_net.inference.stream import batched, encode_windows, for_inference
from lgn_net.model.build import build_model
from lgn_net.scores.calibration import calibrate, calibrated, check_calibration, pooled, threshold_at
from lgn_net.scores.maps import as_array, error_map, smoothed
from lgn_net.scores.protocols import paper_weights
from lgn_net.scores.score_file import VideoScores, read_scores, stretches, write_scores
from lgn_net.terminal import StopOnSignal, progress, run_command
from lgn_net.training.checkpoint import load_checkpoint, load_weights
from lgn_net.video.alarms import with_alarms
from lgn_net.video.overlay import Strip, draw_box, heat, plot_normality, write_mp4

FPS = 25.0                    # of the annotated video where the frame rate of the source is unknown


def main(argv: list[str]) -> int:
    """Score a video, write the results, print what was found."""
    args = parse_arguments(argv)
    network, content = load_network(args.checkpoint, args.device)
    place, name = find_footage(args.video), name_of(args.video)
    out = Path(args.out or f"predicted_{name}")
    check_writable(out)
    if args.normal:
        normal = [video for text in args.normal for video in score_normal(text, network)]
        calibration = calibrate(normal, network.weights, pooled(normal, ["peak_error"])["peak_error"])
    else:
        calibration = check_calibration(content.get("calibration"), network.weights, args.checkpoint)
    threshold = choose_threshold(args, calibration)

    def normality_of(frame: Scored) -> float:
        return float(calibrated(frame.signals, network.weights, calibration)) if frame.signals else math.nan

    record = Record()
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_footage(place, network.config.data.channels, args.fps))
        if math.isfinite(args.seconds) and not (source.live or source.fps):
            raise UserError(f"--seconds {args.seconds:g}: the frame rate of {args.video} is unknown; give --fps, too")
        stop = stack.enter_context(StopOnSignal())
        bar = stack.enter_context(progress("predict", source.length or 0, "frames"))
        write = None if args.no_video else \
            stack.enter_context(write_mp4(out / "annotated.mp4", source.fps or FPS))
        frames = itertools.takewhile(lambda frame: not (stop.received or frame.seconds >= args.seconds), source.frames)
        scored = score_frames(frames, network, args.update_memory, source.live, name)
        started = time.monotonic()
        strip = None
        for frame, normality, alarm in with_alarms(scored, normality_of, threshold, args.min_frames, args.gap):
            if write:
                strip = strip or Strip(frame.picture.shape[1], frame.picture.shape[0], threshold)
                picture = annotate(frame, calibration["peak_error"], alarm)
                write(np.vstack([picture, strip.draw(len(record.alarm), normality, alarm)]))
            record.add(frame, normality, alarm)
            bar.update()
        speed = len(record.alarm) / max(time.monotonic() - started, 1e-9)
        check_length(record, source, network.config.model.window, args.video)
        alarms = record.write(out, name, threshold)

    report(record, alarms, calibration, threshold, args)
    print(f"speed      {speed:.1f} frames a second ({network.device.type}, {torch.get_num_threads()} threads"
          f"{'' if args.no_video else ', annotated video included'})")
    if source.fps:
        print(f"           the source has {source.fps:g}")
    for file in ("scores.csv", "alarms.csv", "curve.png", *(() if args.no_video else ("annotated.mp4",))):
        print(f"written    {out / file}")
    return 128 + stop.received if stop.received and not source.live else 0


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Read the command line. UserError for values out of range."""
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
                        help="update the memory by frames that look normal (regular score below gamma)")
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


class Network(NamedTuple):
    """The network of a checkpoint."""

    model: nn.Module
    config: Config
    device: torch.device
    weights: dict[str, float]                  # of the signals in the normality


def load_network(path: str, device_name: str) -> tuple[Network, dict]:
    """Load the network of a checkpoint; also return the file's content."""
    config, content = load_checkpoint(path)
    device = pick_device(device_name)
    model = build_model(config).to(device)
    load_weights(model, content["model"], path)
    return Network(model, config, device, paper_weights(config.score.psnr_weight, len(model.memories))), content


def choose_threshold(args: argparse.Namespace, calibration: dict) -> float:
    """Return `--threshold`, or the one that `--false_alarms` asks for."""
    if args.threshold is not None:
        return args.threshold
    if args.false_alarms * calibration["frames"] < 1:
        warnings.warn(f"--false_alarms {args.false_alarms:g} of {calibration['frames']} normal frames is less than "
                      f"one of them; the threshold is about the lowest")
    return threshold_at(calibration, args.false_alarms)


# ------------------------------------------------------------------------------------------------------------- scoring

class Scored(NamedTuple):
    """A frame and its signals, None for the first n frames."""

    picture: np.ndarray                        # uint8 (H, W, 3)
    seconds: float                             # since the beginning; NaN: unknown
    signals: dict[str, float] | None           # as in the score file
    error: np.ndarray | None                   # squared error on [0, 1], (size, size)


@torch.inference_mode()
def score_frames(frames: Iterator[Frame], network: Network, updating: bool, live: bool, name: str) -> Iterator[Scored]:
    """Score frames as they come, like `lgn_net.inference.loop.score_videos`; only a window and a batch are kept.

    Args:
        frames: of one `Footage`.
        network: scores them.
        updating: update the memory by frames whose regular score is below gamma.
        live: score each frame at once, in a batch of its own.
        name: of the video, for the UserError when a prediction is not finite.
    """
    config = with_knobs(network.config, {"score.memory_update": "carry" if updating else "frozen"})
    model, size = for_inference(network.model, config), config.data.image_size
    waiting: deque[Frame] = deque()                        # frames that went into the network

    def enter() -> Iterator[tuple[int, int, np.ndarray]]:
        for t, frame in enumerate(frames):
            waiting.append(frame)
            yield 0, t, resize(frame.image, size)

    batches = batched(enter(), 1 if live or updating else config.score.batch_size)
    left = 0                                               # index of the first waiting frame
    for scored in predict(model, encode_windows(model, batches, config, network.device), config):
        errors = error_map(as_array(scored.predicted), as_array(scored.target))
        for signals, error in zip(scored.signals, errors):
            for _ in range(signals.frame - left):
                yield unscored(waiting.popleft())
            left = signals.frame + 1
            frame, peak = waiting.popleft(), float(smoothed(error).max())
            yield Scored(frame.picture, frame.seconds, signals.columns() | {"peak_error": peak}, error)
    yield from map(unscored, waiting)


def unscored(frame: Frame) -> Scored:
    """Return a frame without signals."""
    return Scored(frame.picture, frame.seconds, None, None)


def score_normal(text: str, network: Network) -> list[VideoScores]:
    """Return the signals of a normal video, or those in its scores.csv. UserError for a camera or too few frames."""
    place = find_footage(text)
    if isinstance(place, Path) and place.suffix.lower() == ".csv":
        videos = read_scores(place, list(network.weights), labelled=False)
        if "peak_error" not in videos[0].signals:
            raise UserError(f"{text} was not written by this command (it lacks the column peak_error); give "
                            f"--normal the video")
        return videos
    if not isinstance(place, Path):
        raise UserError(f"--normal {text} is live; run this command with --video {text} --seconds 600 while all is "
                        f"normal, then give the scores.csv that it writes")
    record, config = Record(), network.config
    with open_footage(place, config.data.channels) as source, \
            progress("normal", source.length or 0, "frames") as bar:
        for frame in score_frames(source.frames, network, False, False, text):
            record.add(frame, math.nan, False)
            bar.update()
        check_length(record, source, config.model.window, text)
    return [record.scores(text)]


# ------------------------------------------------------------------------------------------------------------- results

def annotate(frame: Scored, normal_peak: float, alarm: bool) -> np.ndarray:
    """Draw the errors of a frame into its picture, and in an alarm the box around the strongest."""
    if frame.error is None:
        return frame.picture
    picture = heat(frame.picture, frame.error, normal_peak)
    if alarm:
        draw_box(picture, frame.error)
    return picture


class Record:
    """The numbers of all frames so far; some 60 bytes a frame."""

    def __init__(self) -> None:
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
        """Return the signals and the normality of the scored frames."""
        signals = {key: np.array(values) for key, values in self.signals.items()}
        frames = np.arange(len(self.alarm) - len(signals["psnr"]), len(self.alarm))
        signals["normality"] = np.array(self.normality)[frames]
        return VideoScores(name, frames, signals, np.zeros(len(frames), np.uint8))

    def alarms(self) -> list[tuple[int, int]]:
        """Return first and last frame of each alarm."""
        return [(first, end - 1) for first, end in stretches(np.array(self.alarm)).tolist()]

    def write(self, out: Path, name: str, threshold: float) -> list[tuple[int, int]]:
        """Write scores.csv, alarms.csv and curve.png; return the alarms."""
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


def check_length(record: Record, source: Footage, window: int, text: str) -> None:
    """Raise UserError when no frame was scored; warn when a file gave fewer frames than its header says."""
    count = len(record.alarm)
    if not record.signals:
        raise UserError(f"{text}: {count} frame{'s'[:count != 1]}, fewer than the {window} of a window; nothing was "
                        f"scored")
    if source.length and not source.whole and count < source.length - slack(source.length):
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
