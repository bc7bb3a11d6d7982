"""The page of a watched video: one file with its curve, and its alarms to look at and to play."""

import base64
import io
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import av
import numpy as np

from lgn_net.files import write_atomic
from lgn_net.report.page import render
from lgn_net.scores.score_file import stretches
from lgn_net.video.overlay import thinned
from lgn_net.video.source import FPS

SHOWN = 50                    # alarms on the page, the least normal ones
LEAD, LONGEST = 1.0, 10.0     # seconds of a clip before and after its alarm, and of the alarm at most


def write_page(out: Path, name: str, facts: dict[str, str], curve: dict[str, np.ndarray], threshold: float,
               events: list[dict], video: Path | None) -> None:
    """Write report.html: facts, the curve (see `thinned`), the ends of alarms with snapshot and clip of the `video`."""
    # The curve: its lowest and highest values where frames were joined, alarms, the threshold.
    x, lowest, highest, alarm, unit = thinned(curve, 2000)
    x, timed = x.astype(str).tolist(), unit != "frame"                     # dates as text, for plotly.js
    shapes = [{"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "x0": x[first], "x1": x[end - 1],
               "fillcolor": "--abnormal", "opacity": 0.3, "line": {"color": "--abnormal", "width": 1}, "layer": "below"}
              for first, end in stretches(alarm > 0)]
    if not math.isnan(threshold):
        shapes.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": threshold, "y1": threshold,
                       "line": {"color": "--faint", "width": 1, "dash": "dot"}})
    plot = {"data": [{"x": x, "y": y, "mode": "lines", "line": {"color": colour, "width": 1.5},
                      "hovertemplate": f"%{{x{'|%H:%M:%S.%L' if timed else ''}}}<br>%{{y:.2f}}<extra></extra>"}
                     for y, colour in ((highest, "--faint"), (lowest, "--normal"))],
            "layout": {"shapes": shapes, "yaxis": {"title": {"text": "normality"}, "fixedrange": True},
                       "xaxis": {"type": "date" if timed else "linear", "tickformat": "%H:%M:%S" if timed else "",
                                 "title": {"text": unit}, "nticks": 6}}}

    # The alarms.
    alarms = []
    for event in sorted(sorted(events, key=lambda one: one["lowest_normality"])[:SHOWN], key=lambda one: one["start"]):
        start, end = (event[k] / FPS if event[f"{k}_seconds"] is None else event[f"{k}_seconds"]
                      for k in ("start", "end"))
        snapshot = base64.b64encode((out / event["picture"]).read_bytes()).decode()
        clip = video and base64.b64encode(cut(video, start - LEAD, min(end, start + LONGEST) + LEAD)).decode()
        times = [str(timedelta(seconds=int(moment))) for moment in (start, end)]
        alarms.append(event | {"snapshot": snapshot, "clip": clip, "times": times})
    write_atomic(out / "report.html", render("video.html", name=name, facts=facts, plot=plot, alarms=alarms,
                                             joined=len(x) < len(curve["number"]), count=len(events)))


def cut(video: Path, start: float, end: float) -> bytes:
    """Cut seconds `start` to `end` out of a video, from the key frame before them, without coding them anew."""
    file = io.BytesIO()
    first: Any = None
    with av.open(str(video)) as source, av.open(file, "w", format="mp4") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        source.seek(max(0, round(start * av.time_base)))
        for packet in source.demux(video=0):
            dts, pts, second = packet.dts, packet.pts, packet.time_base
            if dts is None or pts is None or dts * second > end:
                break
            first = dts if first is None else first
            packet.dts, packet.pts, packet.stream = dts - first, pts - first, copy
            target.mux(packet)
    return file.getvalue()
