"""A scored video to look at: errors as heat, the box of an alarm, normality over time. Pictures are uint8 BGR."""

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lgn_net.files import replacing
from lgn_net.report.figures import BLUE, PAGE, RED, STYLE
from lgn_net.scores.maps import smoothed, strongest_region

HEAT = (1, 3)                    # times the greatest error in a normal frame: where heat begins, and where it ends
BOX = (255, 200, 0)              # light blue: unlike the heat, for colour-blind eyes, too
LINE, LIMIT, ALARM, GROUND = (235, 235, 235), (60, 190, 255), (40, 40, 150), (28, 28, 28)     # of the strip
H264 = {"preset": "veryfast", "crf": "20"}        # hardly slower than drawing, and lines and letters stay clear


def heat(picture: np.ndarray, error: np.ndarray, normal_peak: float) -> np.ndarray:
    """Lay an error map (h, w) over a picture (H, W, 3): clear where it is normal, then red, then yellow.

    `normal_peak` is the mean of the maximum of the smoothed maps of normal frames.
    """
    excess = np.clip((smoothed(error) / normal_peak - HEAT[0]) / (HEAT[1] - HEAT[0]), 0, 1)
    strength = cv2.resize(excess, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)[..., None]
    colour = cv2.applyColorMap((255 * strength).astype(np.uint8), cv2.COLORMAP_AUTUMN)
    opacity = 0.55 * np.sqrt(strength)
    return (picture + opacity * (colour.astype(np.float32) - picture)).round().astype(np.uint8)


def draw_box(picture: np.ndarray, error: np.ndarray) -> None:
    """Draw the box around the strongest region of an error map (h, w) into a picture of any size."""
    (H, W), (h, w) = picture.shape[:2], error.shape
    x0, y0, x1, y1 = strongest_region(error)[1]
    cv2.rectangle(picture, (x0 * W // w, y0 * H // h), (x1 * W // w - 1, y1 * H // h - 1), BOX, max(2, round(H / 150)))


class Strip:
    """A band below the picture: a line of text, and the normality of the last frames, newest at the right.

    It reaches from 4 below the threshold to 2 above it (or above 0, the mean of normal frames); what lies outside runs
    along its edge. Two pixels are a frame. W and H are the size of the picture.
    """

    def __init__(self, W: int, H: int, threshold: float):
        self.scale = max(0.35, H / 720) if W >= 200 else 0.0                  # of the letters; a small picture has none
        self.text_height = round(40 * self.scale)
        self.width, self.height = W, self.text_height + max(16, H // 6)
        self.threshold, self.low, self.high = threshold, min(threshold, 0) - 4, max(threshold, 0) + 2
        self.shown: deque[tuple[float, bool]] = deque(maxlen=max(2, W // 2))

    def row(self, normality: float) -> int:
        """Return the row in which a normality is drawn."""
        return round(np.interp(normality, (self.low, self.high), (self.height - 2, self.text_height + 1)))

    def draw(self, frame: int, normality: float, alarm: bool) -> np.ndarray:
        """Add a frame, its normality NaN where it has no score, and draw the strip: (height, W, 3)."""
        self.shown.append((normality, alarm))
        strip = np.full((self.height, self.width, 3), GROUND, np.uint8)
        left = self.width - 2 * len(self.shown)
        for k, (_, alarmed) in enumerate(self.shown):
            if alarmed:
                strip[self.text_height:, max(0, left + 2 * k):left + 2 * k + 2] = ALARM
        cv2.line(strip, (0, self.row(self.threshold)), (self.width, self.row(self.threshold)), LIMIT, 1)
        points = [(left + 2 * k + 1, self.row(x)) for k, (x, _) in enumerate(self.shown) if not math.isnan(x)]
        if points:
            cv2.polylines(strip, [np.array(points)], False, LINE, 1, cv2.LINE_AA)
        if self.scale:
            text = "no score yet" if math.isnan(normality) else f"normality {normality:+.2f}"
            cv2.putText(strip, f"frame {frame}   {text}{'   ALARM' if alarm else ''}", (4, round(28 * self.scale)),
                        cv2.FONT_HERSHEY_SIMPLEX, self.scale, LINE, max(1, round(1.5 * self.scale)), cv2.LINE_AA)
        return strip


@contextlib.contextmanager
def write_mp4(path: Path, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Write an H.264 video that browsers play; it takes its name when it is complete, UserError when it cannot be.

    Yields a function that adds a picture, uint8 (H, W, 3); all have the size of the first one. H.264 needs even sizes:
    an odd last column or row is repeated.
    """
    with replacing(path) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(65535), options=H264)
        stream.pix_fmt = "yuv420p"

        def write(picture: np.ndarray) -> None:
            H, W = picture.shape[:2]
            if not stream.codec_context.is_open:
                stream.height, stream.width = H + H % 2, W + W % 2
            picture = np.pad(picture, ((0, H % 2), (0, W % 2), (0, 0)), "edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))

        yield write
        container.mux(stream.encode())


@matplotlib.rc_context(STYLE)  # type: ignore[arg-type]
def plot_normality(path: Path, x: np.ndarray, normality: np.ndarray, threshold: float,
                   alarms: Sequence[tuple[float, float]], title: str, unit: str) -> None:
    """Plot the normality (n,) of a video at the times x (n,) as PNG; `alarms` holds first and last time of each."""
    figure = Figure(figsize=(PAGE, 2.6), layout="constrained")
    axes = figure.add_subplot()
    for first, last in alarms:
        axes.axvspan(first, last, color=RED, alpha=0.25, linewidth=0)
    axes.plot(x, normality, color=BLUE, linewidth=0.8, label="normality")
    axes.axhline(threshold, color="black", linestyle="--", linewidth=0.8, label=f"threshold {threshold:.2f}")
    axes.set(xlabel=unit, ylabel="normality", xlim=(x[0], max(x[-1], x[0] + 1e-3)), title=title)
    figure.legend(handles=[*axes.lines, Patch(color=RED, alpha=0.25, linewidth=0, label="alarm")],
                  loc="outside lower center", ncols=3)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150)
