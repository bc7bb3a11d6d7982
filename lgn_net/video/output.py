"""The files of a video that is watched; all but the drawn ones grow line by line, for the process may be killed."""

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
        self.frames, self.seconds, self.normality, self.alarm = (array("d") for _ in range(4))      # of the curve
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
                self.start([*frame.signals])
            numbers = [int(x) if x in (0, 1) else x for x in frame.signals.values()]
            self.row("scores.csv", [self.source.name, frame.number, *numbers, frame.normality, frame.seconds])
            for values, value in zip((self.frames, self.seconds, self.normality, self.alarm),
                                     (frame.number, frame.seconds, frame.normality, frame.alarm)):
                values.append(value)
        if not frame.alarm:
            self.end_alarm()
        elif self.on:
            self.on = self.on[0], frame, min(self.on[2], frame, key=lambda one: one.normality)
        else:
            self.on = frame, frame, frame
            self.tell("begin")

    def end_alarm(self) -> None:
        """End the alarm that is on, if one is: at a frame outside it, at a gap, and at the end."""
        if self.on:
            event = self.tell("end")
            self.row("alarms.csv", [event[name] for name in ALARM])
            self.on, self.alarms = (), self.alarms + 1

    def start(self, signals: list[str]) -> None:
        """Open the files. Events of a live source are added to those of earlier runs."""
        self.out.mkdir(parents=True, exist_ok=True)
        for name in "scores.csv", "alarms.csv", "events.jsonl":
            mode = "a" if self.source.live and name == "events.jsonl" else "w"
            self.files[name] = (self.out / name).open(mode, encoding="utf-8", newline="")
        self.row("scores.csv", ["video", "frame", *signals, "normality", "seconds"])
        self.row("alarms.csv", list(ALARM))

    def row(self, name: str, values: list) -> None:
        """Append a line to a table, NaN as an empty cell."""
        csv.writer(self.files[name], lineterminator="\n").writerow(["" if x != x else x for x in values])
        self.files[name].flush()

    def tell(self, kind: str) -> dict[str, Any]:
        """Print the beginning or end of the alarm, append it to events.jsonl, save its picture, start the command."""
        ends, lowest, live = dict(zip(("start", "end"), self.on)), self.on[2], self.source.live
        error: Any = lowest.error
        clock = {name: datetime.fromtimestamp(self.source.began + one.seconds).astimezone()
                 for name, one in ends.items() if live}
        seconds = {name: None if math.isnan(one.seconds) else round(one.seconds, 3) for name, one in ends.items()}
        picture = f"alarm_{clock['start']:%Y%m%d_%H%M%S}.jpg" if live else f"alarm_{ends['start'].number}.jpg"
        event = {"event": kind, "video": self.source.name} | {
            name: one.number for name, one in ends.items()} | {
            f"{name}_seconds": seconds[name] for name in ends} | {
            f"{name}_time": clock[name].isoformat(timespec="milliseconds") if live else None for name in ends} | {
            "lowest_normality": round(lowest.normality, 4), "lowest_frame": lowest.number,
            "box": box_of(error, *lowest.picture.shape[:2]), "picture": picture, "threshold": lowest.threshold,
            "min_frames": self.detector.min_frames, "gap": self.detector.gap,
            "checkpoint": str(self.detector.checkpoint)}
        cv2.imwrite(str(self.out / picture), marked(lowest.picture, error, self.annotator.normal_peak))
        text = json.dumps(event)
        self.files["events.jsonl"].write(text + "\n")
        self.files["events.jsonl"].flush()
        name = "start" if kind == "begin" else "end"
        when = [f"frame {event[name]}", f"{seconds[name]} s" if seconds[name] is not None else "",
                f"{clock[name]:%Y-%m-%d %H:%M:%S}" if live else "", f"lowest normality {lowest.normality:+.2f}"]
        tqdm.write(f"alarm {kind:5} " + ", ".join(filter(None, when)))
        print(end="", flush=True)
        if self.command:
            self.check_commands()
            process: Any = subprocess.Popen(self.command, shell=True, stdin=subprocess.PIPE, text=True)
            self.commands.append(process)
            with contextlib.suppress(BrokenPipeError), process.stdin:       # far less than a pipe holds
                process.stdin.write(text + "\n")
        return event

    def check_commands(self) -> None:
        """Forget the commands that have ended; warn of those that failed."""
        for one in self.commands:
            if one.poll():
                warnings.warn(f"--on_alarm {self.command} ended with status {one.returncode}")
        self.commands = [one for one in self.commands if one.returncode is None]

    def finish(self, title: str) -> dict[str, np.ndarray]:
        """Draw curve.png, wait for the last commands, close the files; return the columns of the curve."""
        curve = {name: np.array(getattr(self, name)) for name in ("frames", "seconds", "normality", "alarm")}
        timed = np.isfinite(curve["seconds"]).all()
        plot_normality(self.out / "curve", curve["seconds" if timed else "frames"], curve["normality"],
                       self.annotator.threshold, curve["alarm"], title, "seconds" if timed else "frame")
        for one in self.commands:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.wait(10)
        self.check_commands()
        for file in self.files.values():
            file.close()
        return curve
