"""The files of a video that is watched; tables and events grow line by line, for the process may be killed."""

import csv
import json
import math
import subprocess
import threading
import warnings
from array import array
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from tqdm import tqdm

from lgn_net.terminal import optional
from lgn_net.video.detector import AnomalyDetector, FrameResult
from lgn_net.video.overlay import Annotator, boxes_of, marked, plot_normality
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
        self.columns = {name: array("d") for name in ("number", "seconds", "normality", "alarm")}
        self.count, self.annotator = 0, Annotator()
        self.on: list[FrameResult] = []                                   # first, last and lowest frame of an alarm
        self.events: list[dict[str, Any]] = []                            # the ends of alarms
        self.commands: list[threading.Thread] = []

    def add(self, frame: FrameResult) -> None:
        """Write what there is of a frame."""
        self.count += 1
        self.annotator.normal_peak = (self.detector.calibration or {}).get("peak_error", 1.0)
        if self.write:
            self.write(self.annotator.draw(frame), frame.seconds)
        if frame.signals:
            if not self.files:
                self.start(frame.signals)
            numbers = [int(x) if x in (0, 1) else x for x in frame.signals.values()]
            self.row("scores.csv", [self.source.name, frame.number, *numbers, frame.normality, frame.seconds])
            for name, values in self.columns.items():
                values.append(getattr(frame, name))
        if not frame.alarm:
            self.end_alarm()
        elif self.on:
            self.on = [self.on[0], frame, min(self.on[2], frame, key=lambda one: one.normality)]
        else:
            self.on = [frame] * 3
            self.tell("begin", frame)

    def end_alarm(self) -> None:
        """End the alarm that is on, if one is: at a frame outside it, at a gap, and at the end."""
        if self.on:
            event = self.tell("end", self.on[1])
            self.row("alarms.csv", [event[name] for name in ALARM])
            self.events.append(event)
            self.on = []

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

    def moment(self, frame: FrameResult) -> tuple[int, float | None, str | None]:
        """Return the number of a frame, its seconds if they are known, and the clock time of a live source."""
        clock = None
        if self.source.live:
            moment = datetime.fromtimestamp(self.source.began + frame.seconds).astimezone()
            clock = moment.isoformat(timespec="milliseconds")
        return frame.number, None if math.isnan(frame.seconds) else round(frame.seconds, 3), clock

    def tell(self, kind: str, now: FrameResult) -> dict[str, Any]:
        """Print an alarm's beginning or end, append it to events.jsonl, save its picture, start the command."""
        # The event, and its picture.
        first, last, lowest = self.on
        event: dict[str, Any] = {"event": kind, "video": self.source.name}
        for end, frame in ("start", first), ("end", last):
            event |= zip((end, f"{end}_seconds", f"{end}_time"), self.moment(frame))
        picture = f"alarm_{event['start_time'] or event['start']}.jpg".replace(":", "")
        boxes = boxes_of(lowest, self.annotator.normal_peak)
        event |= {"lowest_normality": round(lowest.normality, 4), "lowest_frame": lowest.number, "box": boxes[0],
                  "boxes": boxes, "picture": picture, "threshold": lowest.threshold,
                  "min_frames": self.detector.min_frames, "gap": self.detector.gap,
                  "checkpoint": str(self.detector.checkpoint)}
        cv2.imwrite(str(self.out / picture), marked(lowest, self.annotator.normal_peak))

        # Who hears of it.
        text = json.dumps(event) + "\n"
        self.files["events.jsonl"].write(text)
        when = ", ".join(str(x) for x in self.moment(now) if x is not None)
        tqdm.write(f"alarm {kind:5} frame, seconds, time: {when}; lowest normality {lowest.normality:+.2f}")
        print(end="", flush=True)
        if self.command:
            self.commands = [one for one in self.commands if one.is_alive()]
            self.commands.append(threading.Thread(target=self.call, args=(text,), daemon=True))
            self.commands[-1].start()
        return event

    def call(self, event: str) -> None:
        """Run the command with an event on its standard input; warn where it fails."""
        done = subprocess.run(str(self.command), shell=True, input=event, text=True, check=False)
        if done.returncode:
            warnings.warn(f"--on_alarm {self.command} ended with status {done.returncode}")

    def curve(self) -> dict[str, np.ndarray]:
        """Return number, seconds, normality and alarm of the scored frames, (n,) each."""
        return {name: np.array(values) for name, values in self.columns.items()}

    def finish(self, facts: dict[str, str]) -> None:
        """Draw curve.png, write report.html with the `facts` at its top, and close everything."""
        curve, threshold, name = self.curve(), self.annotator.threshold, self.source.name
        plot_normality(self.out / "curve", curve, threshold, name)
        if page := optional("lgn_net.video.page", "report.html is left out"):
            page.write_page(self.out, name, facts, curve, threshold, self.events,
                            self.out / "annotated.mp4" if self.write else None)
        for one in self.commands:
            one.join(10)
        for file in self.files.values():
            file.close()
