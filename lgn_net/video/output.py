"""The files of a video that is watched; tables and events grow line by line, for the process may be killed."""

import base64
import csv
import io
import json
import math
import subprocess
import threading
import warnings
from array import array
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any

import av
import cv2
import jinja2
from tqdm import tqdm

from lgn_net.files import write_atomic
from lgn_net.video.detector import AnomalyDetector, FrameResult
from lgn_net.video.overlay import Annotator, boxes_of, marked, plot_normality
from lgn_net.video.source import FPS, Source

SHOWN = 50                    # alarms on the page, the least normal ones
PAGES = jinja2.Environment(loader=jinja2.PackageLoader("lgn_net.report"), autoescape=True)
PAGES.filters["base64"] = lambda content: base64.b64encode(content).decode()
LEAD, LONGEST = 1.0, 10.0     # seconds of a clip before and after its alarm, and of the alarm at most
ALARM = ("video", "start", "end", "start_seconds", "end_seconds", "lowest_normality")        # columns of alarms.csv


class Output:
    """Writes scores.csv, alarms.csv, events.jsonl and a picture of each alarm, and draws the annotated video.

    `write` takes the drawn pictures; `command` is a shell command that gets each event as JSON on its standard input.
    """

    def __init__(self, out: Path, detector: AnomalyDetector, source: Source, write: Callable[..., None] | None,
                 command: str | None = None):
        self.out, self.detector, self.source, self.write, self.command = out, detector, source, write, command
        self.files: dict[str, IO[str]] = {}
        self.columns = {name: array("d") for name in ("number", "seconds", "normality", "alarm")}     # of scored frames
        self.annotator, self.peak, self.threshold = Annotator(), 1.0, math.nan
        self.on: list[FrameResult] = []                                   # first, last and lowest frame of an alarm
        self.events: list[dict[str, Any]] = []                            # the ends of alarms
        self.commands: list[threading.Thread] = []

    def add(self, frame: FrameResult) -> None:
        """Write what there is of a frame."""
        self.peak, self.threshold = (self.detector.calibration or {}).get("peak_error", 1.0), frame.threshold
        if self.write:
            self.write(self.annotator.draw(frame, self.peak), frame.seconds)
        if frame.signals:
            if not self.files:
                self.open(frame.signals)
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
            self.tell("begin")

    def end_alarm(self) -> None:
        """End the alarm that is on, if one is: at a frame outside it, at a gap, and at the end."""
        if self.on:
            event = self.tell("end")
            self.row("alarms.csv", [event[name] for name in ALARM])
            self.events.append(event)
            self.on = []

    def open(self, signals: dict[str, float]) -> None:
        """Open the files. Events of a live source are added to those of earlier runs."""
        self.out.mkdir(parents=True, exist_ok=True)
        for name, mode in ("scores.csv", "w"), ("alarms.csv", "w"), ("events.jsonl", "a" if self.source.live else "w"):
            self.files[name] = (self.out / name).open(mode, encoding="utf-8", newline="", buffering=1)
        self.row("scores.csv", ["video", "frame", *signals, "normality", "seconds"])
        self.row("alarms.csv", list(ALARM))

    def row(self, name: str, values: list) -> None:
        """Append a line to a table, NaN as an empty cell."""
        csv.writer(self.files[name], lineterminator="\n").writerow(["" if x != x else x for x in values])

    def tell(self, kind: str) -> dict[str, Any]:
        """Print an alarm's beginning or end, append it to events.jsonl, save its picture, start the command."""
        # The event, and its picture.
        first, last, lowest = self.on
        event: dict[str, Any] = {"event": kind, "video": self.source.name}
        for end, frame in ("start", first), ("end", last):
            clock = datetime.fromtimestamp(self.source.began + frame.seconds).astimezone() if self.source.live else None
            event |= {end: frame.number, f"{end}_seconds": None if math.isnan(frame.seconds) else
                      round(frame.seconds, 3), f"{end}_time": clock and clock.isoformat(timespec="milliseconds")}
        picture = f"alarm_{event['start_time'] or event['start']}.jpg".replace(":", "")
        boxes = boxes_of(lowest, self.peak)
        event |= {"lowest_normality": round(lowest.normality, 4), "lowest_frame": lowest.number, "box": boxes[0],
                  "boxes": boxes, "picture": picture, "threshold": lowest.threshold,
                  "min_frames": self.detector.min_frames, "gap": self.detector.gap,
                  "checkpoint": str(self.detector.checkpoint)}
        cv2.imwrite(str(self.out / picture), marked(lowest, self.peak))

        # Who hears of it.
        text, end = json.dumps(event) + "\n", "start" if kind == "begin" else "end"
        self.files["events.jsonl"].write(text)
        when = ", ".join(str(event[end + what]) for what in ("", "_seconds", "_time") if event[end + what] is not None)
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

    def finish(self, facts: dict[str, str]) -> None:
        """Draw curve.png, write report.html with the `facts` at its top, and close everything."""
        plot_normality(self.out / "curve", self.columns, self.threshold, self.source.name)
        write_page(self.out, self.source.name, facts, self.events, self.out / "annotated.mp4" if self.write else None)
        for one in self.commands:
            one.join(10)
        for file in self.files.values():
            file.close()


def write_page(out: Path, name: str, facts: dict[str, str], events: list[dict], video: Path | None) -> None:
    """Write report.html: facts, curve.png, and the ends of alarms with their pictures, and clips of the `video`."""
    alarms, lowest = [], sorted(events, key=lambda event: event["lowest_normality"])[:SHOWN]
    for event in sorted(lowest, key=lambda event: event["start"]):
        start, end = (event[k] / FPS if event[f"{k}_seconds"] is None else event[f"{k}_seconds"]
                      for k in ("start", "end"))
        clip = video and cut(video, start - LEAD, min(end, start + LONGEST) + LEAD)
        alarms.append(event | {"snapshot": (out / event["picture"]).read_bytes(), "clip": clip,
                               "times": [timedelta(seconds=int(moment)) for moment in (start, end)]})
    write_atomic(out / "report.html", PAGES.get_template("video.html").render(
        name=name, facts=facts, alarms=alarms, count=len(events), curve=(out / "curve.png").read_bytes()))


def cut(video: Path, start: float, end: float) -> bytes:
    """Cut seconds `start` to `end` out of a video, from the key frame before them, without coding them anew."""
    file = io.BytesIO()
    with av.open(str(video)) as source, av.open(file, "w", format="mp4") as target:
        copy, first = target.add_stream_from_template(source.streams.video[0]), 0
        source.seek(max(0, round(start * av.time_base)))
        for packet in source.demux(video=0):
            moved: Any = packet
            if packet.dts is None or packet.dts * packet.time_base > end:
                break
            first = first or packet.dts
            moved.dts, moved.pts, moved.stream = moved.dts - first, moved.pts - first, copy
            target.mux(moved)
    return file.getvalue()
