"""What is made of a watched video: tables and events line by line, for the process may be killed; BGR pictures."""

import base64
import contextlib
import csv
import io
import json
import math
import subprocess
import warnings
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import cv2
import numpy as np
from tqdm import tqdm

from lgn_net.files import replacing, write_atomic
from lgn_net.report.figures import plot_normality
from lgn_net.report.tables import ENVIRONMENT
from lgn_net.scores.maps import smoothed
from lgn_net.scores.score_file import safe
from lgn_net.video.detector import AnomalyDetector, FrameResult
from lgn_net.video.source import FPS, Source

ENVIRONMENT.filters["base64"] = lambda content: base64.b64encode(content).decode()
BURNS = 2                     # times the greatest error of normal frames
SHOWN = 50                    # alarms on the page, the least normal ones
LEAD, LONGEST = 1.0, 10.0     # seconds of a clip before and after its alarm, and of the alarm at most
ALARM = ("video", "start", "end", "start_seconds", "end_seconds", "lowest_normality")        # columns of alarms.csv
BOX = (255, 200, 0)           # light blue: unlike the heat, for colour-blind eyes, too
LINE, LIMIT, SHADE, GROUND = (235, 235, 235), (60, 190, 255), (40, 40, 150), (28, 28, 28)     # of the strip
OLD = "%Y-%m-%dT%H%M%S.%f"     # when an older table was last written to, for its new name
TICKS = 90000                 # of a video's clock, a second
HANGS = 60.0                  # seconds after which the command of --on_alarm is ended


class Output:
    """Writes scores.csv, alarms.csv, events.jsonl and a picture of each alarm, and draws the annotated video.

    `write` takes the drawn pictures; `command` is a shell command that gets each event as JSON on its standard input.
    """

    def __init__(self, out: Path, detector: AnomalyDetector, source: Source, write: Callable[..., None] | None,
                 command: str | None = None):
        self.out, self.detector, self.source, self.write, self.command = out, detector, source, write, command
        self.files: dict[str, IO[str]] = {}
        self.columns = {name: array("d") for name in ("number", "seconds", "normality", "alarm")}     # of scored frames
        self.peak, self.threshold = 1.0, math.nan
        self.shown: list[tuple[float, bool]] = []                         # normality and alarm of the strip's frames
        self.on: list[FrameResult] = []                                   # first, last and lowest frame of an alarm
        self.events: list[dict[str, Any]] = []                            # the ends of alarms
        self.calls = ThreadPoolExecutor(1)                                # of the command, one after the other

    def add(self, frame: FrameResult) -> None:
        """Write what there is of a frame."""
        # Its picture, and its line of scores.
        self.peak, self.threshold = (self.detector.calibration or {}).get("peak_error", 1.0), frame.threshold
        if self.write:
            self.write(self.draw(frame), frame.seconds)
        if frame.signals:
            if not self.files:                                            # those of a camera's earlier runs stay
                self.out.mkdir(parents=True, exist_ok=True)
                for name in "scores.csv", "alarms.csv", "events.jsonl":
                    path, appended = self.out / name, self.source.live and name == "events.jsonl"
                    if self.source.live and not appended and path.exists():
                        path.rename(path.with_stem(f"{path.stem}_{datetime.fromtimestamp(path.stat().st_mtime):{OLD}}"))
                    self.files[name] = path.open("a" if appended else "w", encoding="utf-8", newline="", buffering=1)
                self.row("scores.csv", ["video", "frame", *frame.signals, "normality", "seconds"])
                self.row("alarms.csv", list(ALARM))
            numbers = [int(x) if x in (0, 1) else x for x in frame.signals.values()]
            self.row("scores.csv", [self.source.name, frame.number, *numbers, frame.normality, frame.seconds])
            for name, values in self.columns.items():
                values.append(getattr(frame, name))

        # The alarm that it begins, continues or ends.
        if not frame.alarm:
            self.end_alarm()
        elif self.on:
            self.on = [self.on[0], frame, min(self.on[2], frame, key=lambda one: one.normality)]
        else:
            self.on = [frame] * 3
            self.tell("begin")

    def row(self, name: str, values: list) -> None:
        """Append a line to a table, NaN as an empty cell."""
        csv.writer(self.files[name], lineterminator="\n").writerow(["" if x != x else safe(x) for x in values])

    def end_alarm(self) -> None:
        """End the alarm that is on, if one is: at a frame outside it, and at the end."""
        if self.on:
            self.events.append(self.tell("end"))
            self.row("alarms.csv", [self.events[-1][name] for name in ALARM])
            self.on = []

    def tell(self, kind: str) -> dict[str, Any]:
        """Print an alarm's beginning or end, append it to events.jsonl, save its picture, start the command."""
        first, last, lowest = self.on
        event: dict[str, Any] = {"event": kind, "video": self.source.name}
        for end, frame in ("start", first), ("end", last):
            clock = datetime.fromtimestamp(self.source.began + frame.seconds).astimezone() if self.source.live else None
            event |= {end: frame.number, f"{end}_seconds": None if math.isnan(frame.seconds) else
                      round(frame.seconds, 3), f"{end}_time": clock and clock.isoformat(timespec="milliseconds")}
        picture = f"alarm_{event['start_time'] or first.number}.jpg".replace(":", "")
        boxes = boxes_of(lowest, self.peak)
        event |= {"lowest_normality": round(lowest.normality, 4), "lowest_frame": lowest.number, "box": boxes[0],
                  "boxes": boxes, "picture": picture, "threshold": lowest.threshold,
                  "min_frames": self.detector.min_frames, "gap": self.detector.gap,
                  "checkpoint": str(self.detector.checkpoint)}
        (self.out / picture).write_bytes(cv2.imencode(".jpg", marked(lowest, self.peak))[1].tobytes())
        text = json.dumps(event) + "\n"
        self.files["events.jsonl"].write(text)
        moment = "" if math.isnan(last.seconds) else f", {event['end_time'] or f'{last.seconds:.2f} s'}"
        tqdm.write(f"alarm {kind:5} at frame {last.number}{moment}; lowest normality {lowest.normality:+.2f}")
        print(end="", flush=True)
        if self.command:
            self.calls.submit(self.call, text, f"--on_alarm, at the {kind} of an alarm, frame {last.number}:")
        return event

    def call(self, event: str, who: str) -> None:
        """Run the command with an event on its standard input; warn, without its words, where it fails or hangs."""
        try:
            subprocess.run(str(self.command), shell=True, input=event, text=True, timeout=HANGS, check=True,
                           start_new_session=True)
        except subprocess.SubprocessError as error:
            status = getattr(error, "returncode", f"none after {HANGS:g} seconds, and was ended")
            warnings.warn(f"{who} the command has status {status}")

    def draw(self, frame: FrameResult) -> np.ndarray:
        """Draw a frame, and below it a line of text and the curve of the last frames' normality, two pixels a frame."""
        H, W, _ = frame.picture.shape
        picture = frame.picture if frame.error is None else marked(frame, self.peak)

        # A line of text, which narrow pictures get in smaller letters.
        scale, font = max(0.35, H / 720), cv2.FONT_HERSHEY_SIMPLEX
        band = np.full((round(40 * scale), W, 3), GROUND, np.uint8)
        score = "no score yet" if math.isnan(frame.normality) else f"normality {frame.normality:+.2f}"
        text = f"frame {frame.number}   {score}"
        longest = cv2.getTextSize(text + "   ALARM", font, scale, 1)[0][0]
        cv2.putText(band, text + "   ALARM" * frame.alarm, (4, round(28 * scale)), font,
                    scale * min(1, (W - 8) / longest), LINE, max(1, round(1.5 * scale)), cv2.LINE_AA)

        # The curve, its newest frame at the right, from 2 above the threshold (or 0, the mean) to 4 below it or lower.
        h, limit = max(16, H // 6), 0.0 if math.isnan(frame.threshold) else frame.threshold
        curve = np.full((h, W, 3), GROUND, np.uint8)
        self.shown = [*self.shown, (frame.normality, frame.alarm)][-(W // 2):]
        normality, alarm = np.array(self.shown).T
        x = W - 2 * np.arange(len(normality), 0, -1)
        for left in x[alarm == 1]:
            curve[:, left:left + 2] = SHADE
        reach = np.fmin.reduce([min(limit, 0) - 4, *normality]), max(limit, 0) + 2
        low, *y = np.interp([limit, *normality], reach, (h - 2, 1)).round()
        curve[int(low)] = LIMIT
        points = np.stack([x + 1, y], axis=1)[~np.isnan(normality)]
        if len(points):
            cv2.polylines(curve, [points.astype(int)], False, LINE, 1, cv2.LINE_AA)
        return np.vstack([picture, band, curve])

    def finish(self, facts: dict[str, str]) -> None:
        """Draw curve.png, write report.html with the `facts` at its top, and close everything."""
        plot_normality(self.out / "curve", self.columns, self.threshold, self.source.name)
        alarms = []
        for event in sorted(self.events, key=lambda event: event["lowest_normality"])[:SHOWN]:
            start, end = (event[k] / FPS if event[f"{k}_seconds"] is None else event[f"{k}_seconds"]
                          for k in ("start", "end"))
            alarms.append(event | {"snapshot": (self.out / event["picture"]).read_bytes(),
                                   "clip": self.write and cut(self.out / "annotated.mp4", start - LEAD,
                                                              min(end, start + LONGEST) + LEAD),
                                   "times": [timedelta(seconds=int(moment)) for moment in (start, end)]})
        write_atomic(self.out / "report.html", ENVIRONMENT.get_template("video.html").render(
            name=self.source.name, facts=facts, alarms=alarms, count=len(self.events),
            curve=(self.out / "curve.png").read_bytes()))
        for file in self.files.values():
            file.close()
        self.calls.shutdown()


def cut(video: Path, start: float, end: float) -> bytes:
    """Cut seconds `start` to `end` out of a video, from the key frame before them, without coding them anew."""
    file, first = io.BytesIO(), None
    with av.open(str(video)) as source, av.open(file, "w", format="mp4") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        source.seek(max(0, round(start * av.time_base)))
        for packet in source.demux(video=0):
            moved: Any = packet
            if packet.dts is None or packet.dts * packet.time_base > end:
                break
            first = packet.dts if first is None else first
            moved.dts, moved.pts, moved.stream = moved.dts - first, moved.pts - first, copy
            target.mux(moved)
    return file.getvalue()


def boxes_of(frame: FrameResult, normal_peak: float) -> list[list[int]]:
    """Find what burns in a frame: x0, y0, and x1, y1 outside it, in pixels of its picture; up to five, strongest first.

    A region is where the smoothed error is above the greatest of normal frames, or half of its maximum. The strongest
    burns, and others with BURNS times that somewhere. A box is around half of its region's own maximum or more.
    """
    (H, W, _), error = frame.picture.shape, smoothed(np.asarray(frame.error))
    boxes: list[list[int]] = []
    warm = (error >= min(error.max() / 2, normal_peak)).astype(np.uint8)
    regions, (h, w) = cv2.connectedComponents(warm, connectivity=8)[1], error.shape
    for k in 1 + np.argsort(-np.bincount(regions.ravel(), error.ravel())[1:])[:5]:
        own = np.where(regions == k, error, 0)
        if not boxes or own.max() >= BURNS * normal_peak:
            x, y, dx, dy = cv2.boundingRect((own >= own.max() / 2).astype(np.uint8))
            boxes.append([x * W // w, y * H // h, (x + dx) * W // w, (y + dy) * H // h])
    return boxes


def marked(frame: FrameResult, normal_peak: float) -> np.ndarray:
    """Lay a frame's errors over its picture as heat, and in an alarm boxes.

    Heat is clear up to the greatest error of normal frames, then red; yellow from three times that.
    """
    excess = np.clip((smoothed(np.asarray(frame.error)) / normal_peak - 1) / 2, 0, 1)
    strength = cv2.resize(excess, frame.picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)[..., None]
    colour = cv2.applyColorMap((255 * strength).astype(np.uint8), cv2.COLORMAP_AUTUMN).astype(np.float32)
    picture = (frame.picture + 0.55 * np.sqrt(strength) * (colour - frame.picture)).round().astype(np.uint8)
    for x0, y0, x1, y1 in boxes_of(frame, normal_peak) if frame.alarm else ():
        cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), BOX, max(2, round(len(picture) / 150)))
    return picture


@contextlib.contextmanager
def write_mp4(path: Path, fps: float) -> Iterator[Callable[..., None]]:
    """Write an H.264 video that browsers play; it takes its name when it is complete.

    Yields a function that adds a picture, uint8 (H, W, 3), and its time in seconds, or where that is NaN the next one
    by `fps`. All get the size of the first one; H.264 needs even sizes: an odd last column or row is repeated.
    """
    for left in path.parent.glob(f".{path.name}.*"):                                         # by runs that were killed
        left.unlink()
    with replacing(path) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(65535),
                                      options={"preset": "veryfast", "crf": "20"})     # lines and letters stay clear
        stream.pix_fmt, stream.codec_context.time_base, last = "yuv420p", Fraction(1, TICKS), -1
        stream.gop_size = max(1, round(2 * fps))           # where one may jump to, and clips of the page begin

        def write(picture: Any, seconds: float = math.nan) -> None:
            nonlocal last
            H, W = picture.shape[:2]
            if not stream.codec_context.is_open:
                stream.height, stream.width = H + H % 2, W + W % 2
            picture = np.pad(picture, ((0, H % 2), (0, W % 2), (0, 0)), "edge")
            picture = cv2.resize(picture, (stream.width, stream.height))
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            ticks = round(TICKS * seconds) if math.isfinite(seconds) else last + round(TICKS / fps) if last >= 0 else 0
            frame.pts = last = max(ticks, last + 1)
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))

        yield write
        container.mux(stream.encode())
