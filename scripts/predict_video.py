"""Score one's own video frame by frame, show where the prediction fails, and list the alarms.

    python scripts/predict_video.py --checkpoint weights/ped2_small.pt --video VIDEO.mp4
    python scripts/predict_video.py --checkpoint CKPT.pt --video VIDEO.mp4 --normal NORMAL.mp4 --out FOLDER
    python scripts/predict_video.py --checkpoint CKPT.pt --video rtsp://... --calibrate 60 --on_alarm COMMAND

Writes scores.csv, alarms.csv and events.jsonl at once; at the end annotated.mp4, curve.png, and report.html, the page
to look at. docs/own-video.md explains the numbers.
"""

import math

from lgn_net.cli import Parser, show_help

LIMITS = {"calibrate": (0, 1e6), "threshold": (-math.inf, math.inf), "false_alarms": (0, 1), "min_frames": (1, 1e6),
          "gap": (0, 1e6), "seconds": (0.001, math.inf), "patience": (0.001, math.inf), "fps": (0.001, 1000)}
PARSER = Parser(__doc__)
add, normal = PARSER.add_argument, PARSER.add_mutually_exclusive_group()
add("--checkpoint", required=True, help="made by scripts/export_weights.py, or with --normal any checkpoint")
add("--video", required=True, help="video file, folder of images, camera's number, or address of a stream")
add("--out", help="folder for the results (default: predicted_<name of the video>)")
normal.add_argument("--normal", nargs="+", metavar="VIDEO", help="normal videos of your scene, or their scores.csv")
normal.add_argument("--calibrate", type=float, default=0.0, help="or take so many seconds of --video as normal")
add("--threshold", type=float, help="normality below which a frame is low")
add("--false_alarms", type=float, default=0.01, help="or the share of normal frames that are low (default: 0.01)")
add("--min_frames", type=int, default=5, help="an alarm lasts at least so many frames (default: 5)")
add("--gap", type=int, default=2, help="so many frames that are not low do not end it (default: 2)")
add("--seconds", type=float, default=math.inf, help="stop after so many seconds of the video")
add("--patience", type=float, default=60, help="seconds that a camera or stream may stay away (default: 60)")
add("--on_alarm", metavar="COMMAND", help="run this when an alarm begins or ends, with the event as JSON on stdin")
add("--fps", type=float, help="frames a second, for a folder of images or where a file is wrong about it")
add("--no_video", action="store_true", help="do without annotated.mp4; faster")
add("--device", default="auto", help="cuda, cuda:1, mps or cpu; auto takes the first there is")
show_help(__name__, PARSER)     # before slow imports

import time
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from lgn_net import AnomalyDetector
from lgn_net.data.footage import find_footage
from lgn_net.errors import UserError
from lgn_net.files import check_writable
from lgn_net.terminal import StopOnSignal, progress, run_command
from lgn_net.video.output import Output, write_mp4
from lgn_net.video.source import FPS, Source, SourceLost


def main(argv: list[str]) -> int:
    """Score a video, write the results, print what was found."""
    args = PARSER.parse_args(argv)
    for name, (least, most) in LIMITS.items():
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            raise UserError(f"--{name} is {value:g}; give {least:g} to {most:g}")
    detector = AnomalyDetector.load(args.checkpoint, args.device, threshold=args.threshold,
                                    false_alarms=args.false_alarms, min_frames=args.min_frames, gap=args.gap)
    out = Path(args.out or f"predicted_{find_footage(args.video)[1]}")
    check_writable(out)
    if args.normal:
        detector.calibrate(*args.normal)

    # Score frame after frame, until the video, --seconds or the user's patience ends.
    started, status = time.monotonic(), 0
    with StopOnSignal() as stop:
        source = Source(args.video, detector.config.data.channels, args.fps, args.seconds, args.patience,
                        stop=lambda: bool(stop.received))
        with (progress("predict", source.length or 0, "frames") as bar,
              nullcontext() if args.no_video else write_mp4(out / "annotated.mp4", source.fps or FPS) as write):
            output = Output(out, detector, source, write, args.on_alarm)
            source.on_silence = output.end_alarm
            try:
                for frame in detector.watch(source, args.calibrate):
                    output.add(frame)
                    bar.update()
            except SourceLost as lost:
                status = 3                                                    # docs/own-video.md names it
                warnings.warn(f"{lost}; scored up to there")
            output.end_alarm()
            if not output.files:
                raise UserError(f"{source.name}: {bar.n} frames, fewer than those of a window; nothing was scored")
    if np.isnan(output.columns["normality"]).all():                           # lost while it was calibrated
        return status
    if not (source.footage.whole or source.live):
        warnings.warn(f"{source.shown} is cut off or damaged after {bar.n} frames; it was scored up to there")

    # Say what was found, and how far the threshold can be believed.
    normality, threshold = np.array(output.columns["normality"]), frame.threshold
    normal = args.normal or [f"its first {args.calibrate:g} seconds" if args.calibrate else "the training videos"]
    share = f"{100 * args.false_alarms:g} % of the normal frames are below" if args.threshold is None else "as given"
    limit = "none: another scene" if math.isnan(threshold) else f"{threshold:+.2f} ({share})"
    facts = {
        "frames": f"{bar.n + source.dropped}, of which {len(normality)} scored and {source.dropped} dropped; normality "
                  f"{np.nanmean(normality):+.2f} on average, lowest {np.nanmin(normality):+.2f}",
        "threshold": f"{limit}; normal: {detector.calibration['frames']} frames of {', '.join(normal)}",
        "alarms": f"{len(output.events)}; {100 * np.mean(normality < threshold):.1f} % of the frames are below the "
                  f"threshold",
        "speed": f"{bar.n / (time.monotonic() - started):.1f} frames a second ({detector.device.type}, "
                 f"{torch.get_num_threads()} threads)"}
    output.finish(facts)
    print("\n".join(f"{name:10} {text}" for name, text in facts.items()), f"; written into {out}", sep="")
    return 128 + stop.received if stop.received and not source.live else status


if __name__ == "__main__":
    run_command(main)
