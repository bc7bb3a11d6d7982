"""A scored video to look at: errors as heat, the box of an alarm, normality over time. Pictures are uint8 BGR."""

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from lgn_net.files import replacing
from lgn_net.report.figures import BLUE, PAGE, RED, STYLE, save_figure
from lgn_net.scores.maps import smoothed, strongest_region

HEAT = (1, 3)                    # times the greatest error in a normal frame: where heat begins, and where it ends
BOX = (255, 200, 0)              # light blue: unlike the heat, for colour-blind eyes, too
LINE, LIMIT, ALARM, GROUND = (235, 235, 235), (60, 190, 255), (40, 40, 150), (28, 28, 28)     # of the strip
TICKS = 90000                    # of a video's clock, a second
H264 = {"preset": "veryfast", "crf": "20"}        # hardly slower than drawing, and lines and letters stay clear


class Annotator:
    """Draws the frames of a video: heat over the picture, the box in alarms, and a strip below it.

    The strip holds a line of text, and the normality of the last frames, newest at the right. It reaches from 4 below
    the threshold to 2 above it (or above 0, the mean of normal frames). Two pixels are a frame.
    """

    def __init__(self, threshold: float, normal_peak: float):
        """`normal_peak`: mean of the maximum of the smoothed error maps of normal frames."""
        self.threshold, self.normal_peak = threshold, normal_peak
        self.shown: deque[tuple[float, bool]] = deque()

    def draw(self, t: int, picture: np.ndarray, error: np.ndarray | None, normality: float, alarm: bool) -> np.ndarray:
        """Draw frame t (H, W, 3) with its error map (h, w); without a score it has none, and its normality is NaN."""
        # Heat, and a box around the strongest region.
        H, W, _ = picture.shape
        if error is not None:
            picture = marked(picture, error, self.normal_peak) if alarm else heat(picture, error, self.normal_peak)

        # The strip.
        self.shown.append((normality, alarm))
        if len(self.shown) > W // 2:
            self.shown.popleft()
        scale = max(0.35, H / 720)                                                                   # of the letters
        strip = np.full((round(40 * scale) + max(16, H // 6), W, 3), GROUND, np.uint8)
        self.plot(strip[round(40 * scale):])
        text = f"frame {t}   {'no score yet' if math.isnan(normality) else f'normality {normality:+.2f}'}"
        longest = cv2.getTextSize(text + "   ALARM", cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0]
        cv2.putText(strip, text + "   ALARM" * alarm, (4, round(28 * scale)), cv2.FONT_HERSHEY_SIMPLEX,
                    scale * min(1, (W - 8) / longest), LINE, max(1, round(1.5 * scale)), cv2.LINE_AA)
        return np.vstack([picture, strip])

    def plot(self, strip: np.ndarray) -> None:
        """Plot threshold, normality and alarms of the last frames into a strip (h, W, 3)."""
        h, W, _ = strip.shape
        normality, alarms = np.array(self.shown).T
        x = W - 2 * np.arange(len(normality), 0, -1)
        for left in x[alarms == 1]:
            strip[:, left:left + 2] = ALARM
        threshold = 0.0 if math.isnan(self.threshold) else self.threshold
        reach = min(threshold, 0) - 4, max(threshold, 0) + 2
        limit, *y = np.interp([threshold, *normality], reach, (h - 2, 1)).round()
        cv2.line(strip, (0, int(limit)), (W, int(limit)), LIMIT, 1)
        points = np.stack([x + 1, y], axis=1)[~np.isnan(normality)]
        if len(points):
            cv2.polylines(strip, [points.astype(int)], False, LINE, 1, cv2.LINE_AA)


def box_of(error: np.ndarray, H: int, W: int) -> tuple[int, int, int, int]:
    """Find the strongest region of an error map (h, w) in a picture of H x W pixels: x0, y0, and x1, y1 outside it."""
    (h, w), (x0, y0, x1, y1) = error.shape, strongest_region(error)[1]
    return x0 * W // w, y0 * H // h, x1 * W // w, y1 * H // h


def marked(picture: np.ndarray, error: np.ndarray, normal_peak: float) -> np.ndarray:
    """Draw heat, and the box of an alarm."""
    H, W, _ = picture.shape
    x0, y0, x1, y1 = box_of(error, H, W)
    return cv2.rectangle(heat(picture, error, normal_peak), (x0, y0), (x1 - 1, y1 - 1), BOX, max(2, round(H / 150)))


def heat(picture: np.ndarray, error: np.ndarray, normal_peak: float) -> np.ndarray:
    """Lay an error map (h, w) over a picture (H, W, 3): clear where it is normal, then red, then yellow."""
    excess = np.clip((smoothed(error) / normal_peak - HEAT[0]) / (HEAT[1] - HEAT[0]), 0, 1)
    strength = cv2.resize(excess, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)[..., None]
    colour = cv2.applyColorMap((255 * strength).astype(np.uint8), cv2.COLORMAP_AUTUMN)
    opacity = 0.55 * np.sqrt(strength)
    return (picture + opacity * (colour.astype(np.float32) - picture)).round().astype(np.uint8)


@contextlib.contextmanager
def write_mp4(path: Path, fps: float) -> Iterator[Callable[..., None]]:
    """Write an H.264 video that browsers play; it takes its name when it is complete, UserError when it cannot be.

    Yields a function that adds a picture, uint8 (H, W, 3), and its time in seconds, or where that is NaN the next one
    by `fps`. All pictures get the size of the first one. H.264 needs even sizes: an odd last column or row is repeated.
    """
    with replacing(path) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(65535), options=H264)
        stream.pix_fmt, stream.codec_context.time_base, last = "yuv420p", Fraction(1, TICKS), -1

        def write(picture: Any, seconds: float = math.nan) -> None:
            nonlocal last
            H, W = picture.shape[:2]
            if not stream.codec_context.is_open:
                stream.height, stream.width = H + H % 2, W + W % 2
            picture = np.pad(picture, ((0, H % 2), (0, W % 2), (0, 0)), "edge")
            if picture.shape[:2] != (stream.height, stream.width):
                picture = cv2.resize(picture, (stream.width, stream.height))
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            ticks = round(TICKS * seconds) if math.isfinite(seconds) else last + round(TICKS / fps) if last >= 0 else 0
            frame.pts = last = max(ticks, last + 1)
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))

        yield write
        container.mux(stream.encode())


@matplotlib.rc_context(STYLE)  # type: ignore[arg-type]
def plot_normality(path: Path, x: np.ndarray, normality: np.ndarray, threshold: float, alarm: np.ndarray, title: str,
                   unit: str) -> None:
    """Plot the normality (n,) of a video at the times x (n,) as `path`.png, frames with `alarm` (n,) shaded."""
    figure = Figure(figsize=(PAGE, 2.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(x, normality, color=BLUE, linewidth=0.8, label="normality")
    if not math.isnan(threshold):
        axes.axhline(threshold, color="black", linestyle="--", linewidth=0.8, label=f"threshold {threshold:.2f}")
    axes.fill_between(x, 0, 1, where=alarm > 0, step="mid", transform=axes.get_xaxis_transform(), color=RED, alpha=0.25,
                      linewidth=0, label="alarm")
    axes.set(xlabel=unit, ylabel="normality", xlim=(x[0], max(x[-1], x[0] + 1e-3)), title=title)
    figure.legend(loc="outside lower center", ncols=3)
    save_figure(figure, path, dpi=150, kinds=("png",))
