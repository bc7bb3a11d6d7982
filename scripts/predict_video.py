"""Score one's own video frame by frame, show where the prediction fails, and list the alarms.

    python scripts/predict_video.py --checkpoint weights/ped2_small.pt --video VIDEO.mp4
    python scripts/predict_video.py --checkpoint CKPT.pt --video VIDEO.mp4 --normal NORMAL.mp4 --out FOLDER
    python scripts/predict_video.py --checkpoint CKPT.pt --video 0 --seconds 600

A frame's score depends on the frames before it only. Normality is 0 on an average normal frame, negative where the
network does worse; below the threshold a frame is low, and low frames that stay make an alarm. Writes scores.csv,
alarms.csv, curve.png and annotated.mp4. docs/video.md says what the numbers mean.
"""

import argparse
import csv
import io
import math
import time
import warnings
from array import array
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from lgn_net import AnomalyDetector
from lgn_net.data.footage import find_footage
from lgn_net.errors import UserError
from lgn_net.files import check_writable, write_atomic
from lgn_net.scores.score_file import VideoScores, stretches, write_scores
from lgn_net.terminal import StopOnSignal, progress, run_command
from lgn_net.video.overlay import Annotator, plot_normality, write_mp4
from lgn_net.video.source import FPS


def main(argv: list[str]) -> int:
    """Score a video, write the results, print what was found."""
    args = parse_arguments(argv)
    detector = AnomalyDetector.load(args.checkpoint, args.device, threshold=args.threshold,
                                    false_alarms=args.false_alarms, min_frames=args.min_frames, gap=args.gap)
    out = Path(args.out or f"predicted_{find_footage(args.video)[1]}")
    check_writable(out)
    if args.normal:
        detector.calibrate(*args.normal)
    threshold, calibration = detector.limit(), detector.calibration

    # Score frame after frame, until the video, --seconds or the user's patience ends.
    columns: dict[str, array] = defaultdict(lambda: array("d"))
    annotator, started, count = Annotator(threshold, calibration["peak_error"]), time.monotonic(), 0
    with StopOnSignal() as stop:
        source = detector.open(args.video, fps=args.fps, seconds=args.seconds, stop=lambda: bool(stop.received))
        with (progress("predict", source.length or 0, "frames") as bar,
              nullcontext() if args.no_video else write_mp4(out / "annotated.mp4", source.fps or FPS) as write):
            for frame in detector.watch(source, args.update_memory):
                if write:
                    write(annotator.draw(frame.number, frame.picture, frame.error, frame.normality, frame.alarm))
                if frame.signals:
                    for name, value in {**frame.signals, "normality": frame.normality, "alarm": frame.alarm,
                                        "seconds": frame.seconds, "frame": frame.number}.items():
                        columns[name].append(value)
                bar.update()
                count += 1
            if not columns:
                raise UserError(f"{source.name}: {count} frames, fewer than those of a window; nothing was scored")
    if not source.footage.whole:
        warnings.warn(f"{args.video} is cut off or damaged after {count} frames; it was scored up to there")
    signals = {name: np.array(values) for name, values in columns.items()}
    frames = signals.pop("frame").astype(int)
    scores = VideoScores(source.name, frames, signals, np.zeros(len(frames), np.uint8))
    report(out, scores, calibration, threshold, args)
    print(f"speed      {count / (time.monotonic() - started):.1f} frames a second ({detector.device.type}, "
          f"{torch.get_num_threads()} threads{'' if args.no_video else ', annotated video included'}); written into "
          f"{out}")
    return 128 + stop.received if stop.received and not source.live else 0


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True,
                        help="of scripts/export_weights.py, or with --normal any checkpoint")
    parser.add_argument("--video", required=True,
                        help="video file, folder of images, number of a camera, or address of a stream (rtsp://...)")
    parser.add_argument("--out", help="folder for the results (default: predicted_<name of the video>)")
    parser.add_argument("--normal", nargs="+", metavar="VIDEO",
                        help="videos or folders of your scene with nothing abnormal in them, or scores.csv of such, "
                             "which say what is normal in place of the checkpoint's training frames")
    parser.add_argument("--threshold", type=float, help="normality below which a frame is low")
    parser.add_argument("--false_alarms", type=float, default=0.01, metavar="SHARE",
                        help="or the threshold below which this share of the normal frames lies (default: 0.01)")
    parser.add_argument("--min_frames", type=int, default=5, help="an alarm lasts at least so many frames (default: 5)")
    parser.add_argument("--gap", type=int, default=2, help="so many frames that are not low do not end it (default: 2)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so many seconds of the video")
    parser.add_argument("--fps", type=float,
                        help="frames a second, for a folder of images or where a file is wrong about it")
    parser.add_argument("--update_memory", action="store_true",
                        help="update the memory by frames that look normal (regular score below gamma)")
    parser.add_argument("--no_video", action="store_true", help="do without annotated.mp4; faster")
    parser.add_argument("--device", default="auto", help="cuda, cuda:1, mps or cpu; auto takes the first there is")
    return parser.parse_args(argv)


def report(out: Path, scores: VideoScores, calibration: dict, threshold: float, args: argparse.Namespace) -> None:
    """Write scores.csv, alarms.csv and curve.png; print what was found, and how far the threshold can be believed."""
    name, frames, columns, _ = scores
    normality, seconds, alarm = (columns.pop(key) for key in ("normality", "seconds", "alarm"))
    write_scores(out / "scores.csv", [scores._replace(signals=columns | {"normality": normality})], labelled=False)
    timed, alarms = np.isfinite(seconds).all(), stretches(alarm) - [0, 1]            # first and last row of each
    plot_normality(out / "curve", seconds if timed else frames, normality, threshold, alarm, name,
                   "seconds" if timed else "frame")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "start", "end", "start_seconds", "end_seconds", "lowest_normality"])
    for first, last in alarms:
        moments = [f"{seconds[k]:.3f}" if timed else "" for k in (first, last)]
        writer.writerow([name, frames[first], frames[last], *moments, f"{normality[first:last + 1].min():.4f}"])
    write_atomic(out / "alarms.csv", text.getvalue())

    where = ", ".join(args.normal or ["the checkpoint's training videos"])
    share = f"{100 * args.false_alarms:g} % of the normal frames are below" if args.threshold is None else "as given"
    print(f"frames     {frames[-1] + 1}, of which {len(frames)} scored; normality {normality.mean():+.2f} on average, "
          f"lowest {normality.min():+.2f} at frame {frames[normality.argmin()]}\n"
          f"threshold  {threshold:+.2f} ({share}); normal: {calibration['frames']} frames of {where}\n"
          f"alarms     {len(alarms)}, listed in alarms.csv; {100 * np.mean(normality < threshold):.1f} % of the frames "
          f"are below the threshold")
    for first, last in alarms[:10]:
        print(f"           frames {frames[first]} to {frames[last]}")
    lowest, *_, highest = calibration["normality"]
    if not args.normal and np.mean((normality < lowest) | (normality > highest)) > 0.5:
        warnings.warn("most frames are more or less normal than any training frame was: this is another scene, and "
                      "threshold and alarms mean nothing; give --normal VIDEO, a stretch of it with nothing abnormal")


if __name__ == "__main__":
    run_command(main)
