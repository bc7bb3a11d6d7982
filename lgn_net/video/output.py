"""The files of a video that is watched; tables and events grow line by line, for the process may be killed."""

import contextlib
import csv
import json
import math
import subprocess
import warnings
from array import array
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from tqdm import tqdm

from lgn_net.video.detector import AnomalyDetector, FrameResult
from lgn_net.video.overlay import Annotator, box_of, marked, plot_normality
from lgn_net.video.source import Source

ALARM = ("video", "start", "end", "start_seconds", "end_seconds", "lowest_normality")        # columns of alarms.csv


class Output:
    """Writes scores.csv, alarms.csv, events.jsonl and a picture of each alarm, and draws the annotated video.

    `write` takes the drawn pictures; `command` is a shell command that gets each event as JSON on its standard input.
    """

    def __init__(self, out: Path, detector: AnomalyDetector, source: Source, write: Callable[..., None] | None,
                 command: str | None = None):
        self.out, self.detector, self.source, self.write, self.command = out, detector, source, write, command
        self.files: dict[str, IO[str]] = {}
        self.curve = {name: array("d") for name in ("frame", "seconds", "normality", "alarm")}
        self.count = self.alarms = 0
        self.annotator = Annotator(math.nan, 1.0)
        self.on: tuple[FrameResult, ...] = ()                             # first, last and lowest frame of an alarm
        self.commands: list[subprocess.Popen] = []

    def add(self, frame: FrameResult) -> None:
        """Write what there is of a frame."""
        self.count += 1
        self.annotator.threshold = frame.threshold
        self.annotator.normal_peak = (self.detector.calibration or {}).get("peak_error", 1.0)
        if self.write:
            self.write(self.annotator.draw(frame.number, frame.picture, frame.error, frame.normality, frame.alarm),
                       frame.seconds)
        if frame.signals:
            if not self.files:
                self.start(frame.signals)
            numbers = [int(x) if x in (0, 1) else x for x in frame.signals.values()]
            self.row("scores.csv", [self.source.name, frame.number, *numbers, frame.normality, frame.seconds])
            for values, value in zip(self.curve.values(), (frame.number, frame.seconds, frame.normality, frame.alarm)):
                values.append(value)
        if not frame.alarm:
            self.end_alarm()
        elif self.on:
            self.on = self.on[0], frame, min(self.on[2], frame, key=lambda one: one.normality)
        else:
            self.on = frame, frame, frame
            self.tell("begin", "start")

    def end_alarm(self) -> None:
        """End the alarm that is on, if one is: at a frame outside it, at a gap, and at the end."""
        if self.on:
            event = self.tell("end", "end")
            self.row("alarms.csv", [event[name] for name in ALARM])
            self.on, self.alarms = (), self.alarms + 1

    def start(self, signals: dict[str, float]) -> None:
        """Open the files. Events of a live source are added to those of earlier runs."""
        self.out.mkdir(parents=True, exist_ok=True)
        for name, mode in ("scores.csv", "w"), ("alarms.csv", "w"), ("events.jsonl", "a" if self.source.live else "w"):
            self.files[name] = (self.out / name).open(mode, encoding="utf-8", newline="", buffering=1)
        self.row("scores.csv", ["video", "frame", *signals, "normality", "seconds"])
        self.row("alarms.csv", list(ALARM))

    def row(self, name: str, values: list) -> None:
        """Append a line to a table, NaN as an empty cell."""
        csv.writer(self.files[name], lineterminator="\n").writerow(["" if x != x else x for x in values])

    def moment(self, end: str, frame: FrameResult) -> dict[str, Any]:
        """Say of an alarm's start or end, its name, what frame it is, and when."""
        clock = datetime.fromtimestamp(self.source.began + frame.seconds).astimezone() if self.source.live else None
        return {end: frame.number, f"{end}_seconds": None if math.isnan(frame.seconds) else round(frame.seconds, 3),
                f"{end}_time": clock and clock.isoformat(timespec="milliseconds")}

    def tell(self, kind: str, end: str) -> dict[str, Any]:
        """Print an alarm's beginning or end, append it to events.jsonl, save its picture, start the command."""
        first, last, lowest = self.on
        error: Any = lowest.error
        event = {"event": kind, "video": self.source.name, **self.moment("start", first), **self.moment("end", last)}
        picture = f"alarm_{event['start_time'] or event['start']}.jpg".replace(":", "")
        event |= {"lowest_normality": round(lowest.normality, 4), "lowest_frame": lowest.number,
                  "box": box_of(error, *lowest.picture.shape[:2]), "picture": picture, "threshold": lowest.threshold,
                  "min_frames": self.detector.min_frames, "gap": self.detector.gap,
                  "checkpoint": str(self.detector.checkpoint)}
        cv2.imwrite(str(self.out / picture), marked(lowest.picture, error, self.annotator.normal_peak))
        text = json.dumps(event) + "\n"
        self.files["events.jsonl"].write(text)
        when = ", ".join(str(x) for x in self.moment(end, first if end == "start" else last).values() if x is not None)
        tqdm.write(f"alarm {kind:5} frame, seconds, time: {when}; lowest normality {lowest.normality:+.2f}")
        print(end="", flush=True)
        if self.command:
            process: Any = subprocess.Popen(self.command, shell=True, stdin=subprocess.PIPE, text=True)
            self.commands.append(process)
            with contextlib.suppress(BrokenPipeError), process.stdin:       # far less than a pipe holds
                process.stdin.write(text)
            self.wait_for_commands(0)
        return event

    def wait_for_commands(self, seconds: float) -> None:
        """Forget the commands that have ended, with a warning of those that failed."""
        for one in self.commands:
            with contextlib.suppress(subprocess.TimeoutExpired):
                if one.wait(seconds):
                    warnings.warn(f"--on_alarm {self.command} ended with status {one.returncode}")
        self.commands = [one for one in self.commands if one.returncode is None]

    def finish(self) -> dict[str, np.ndarray]:
        """Draw curve.png and close everything; return the columns of the curve."""
        curve = {name: np.array(values) for name, values in self.curve.items()}
        unit = "seconds" if np.isfinite(curve["seconds"]).all() else "frame"
        plot_normality(self.out / "curve", curve[unit], curve["normality"], self.annotator.threshold, curve["alarm"],
                       self.source.name, unit)
        self.wait_for_commands(10)
        for file in self.files.values():
            file.close()
        return curve
