"""Write the report of an evaluation: one page that opens from disk in any browser, with curves to hover over and zoom.

`templates/report.html` lays out the results and escapes all of them. Here are only the plots, as plotly.js takes them,
and the pictures. `report.css` gives the colours that the plots name (`--normal`), and `report.js` draws them.
"""

import base64
import hashlib
import html
from collections.abc import Sequence
from pathlib import Path

import cv2
import jinja2
import numpy as np
from plotly.offline import get_plotlyjs

from lgn_net.config import flatten
from lgn_net.files import write_atomic
from lgn_net.report.tables import comparison, frames_scored, numbers, percent
from lgn_net.scores.maps import FrameMap, heat, loud, pictures
from lgn_net.scores.metrics import AVERAGES, mistakes, roc
from lgn_net.scores.normality import SCOPES
from lgn_net.scores.protocols import PAPER, SIGMAS
from lgn_net.scores.results import OperatingPoint, Results
from lgn_net.scores.score_file import VideoScores, stretches
from lgn_net.terminal import visible

TEMPLATES = Path(__file__).parent / "templates"


def write_report(path: Path, results: Results, videos: Sequence[VideoScores], normal: Sequence[np.ndarray],
                 maps: Sequence[FrameMap]) -> None:
    """Write the page, complete in one file.

    `normal` is the normality (n_v,) of each video; `maps` are frames to show with their errors, if any.
    """
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined,
                                     finalize=lambda value: visible(value) if type(value) is str else value)
    environment.policies["json.dumps_kwargs"] = {"default": packed, "sort_keys": True}
    environment.filters |= {
        "percent": percent, "share": lambda value: "undefined" if value is None else f"{percent(value)} %",
        "sha256": lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}
    curve = roc([video.labels for video in videos], normal)
    made_from = {key: value for key, value in results.items() if isinstance(value, str | bool)}
    top = loud(maps)
    write_atomic(path, environment.get_template("report.html").render(
        style=(TEMPLATES / "report.css").read_text(), scripts=[get_plotlyjs(), (TEMPLATES / "report.js").read_text()],
        results=results, numbers=numbers(results), scored=frames_scored(results),
        compared=comparison(results["compared"]) if "compared" in results else "",
        averages=AVERAGES, scopes=SCOPES, sigmas=SIGMAS, paper=PAPER,
        provenance=[made_from | flatten({"signals": results["signals"]}), results.get("versions"),
                    flatten(results.get("config", {}))],
        curves=video_plots(videos, normal, results["at_eer"]), point=results["at_eer"],
        roc=roc_plot(*curve, results["eer"]) if curve and results["eer"] is not None else None, top=top,
        maps=[(m, {title: data_uri(picture, "png" if title == "squared error" else "jpeg")
                   for title, picture in pictures(m, top).items()}) for m in maps],
        scale=data_uri(heat(np.linspace(0, 1, 256)[None]))))


def packed(values: np.ndarray) -> dict:
    """Encode an array as plotly.js reads it, 32-bit floats in base64: shorter than digits, and read faster."""
    data = base64.b64encode(values.astype("<f4").tobytes()).decode()
    return {"dtype": "f4", "bdata": data, "shape": ", ".join(map(str, values.shape))}


def video_plots(videos: Sequence[VideoScores], normal: Sequence[np.ndarray],
                point: OperatingPoint | None = None) -> list[dict]:
    """Plot the normality over the frames of every video, on one axis; abnormal periods and mistakes are marked."""
    low, high, plots = min(0.0, *map(np.min, normal)), max(1.0, *map(np.max, normal)), []
    room = 0.03 * (high - low)
    for (_, frames, signals, labels), x in zip(videos, normal):
        # What the reader sees of a frame; plotly.js takes <...> for markup and %{...} for a variable.
        shown = {name: values for name, values in signals.items() if name != "normality"}
        lines = ["frame %{x}", "normality %{y:.4f}", "label %{text}"]
        for k, name in enumerate(shown):
            label = html.escape(visible(name).replace("_", " "), quote=False).replace("%", "&#37;")
            lines.append(f"{label} %{{customdata[{k}]:.4g}}")
        trace = {"x": frames, "y": x, "mode": "lines" if len(x) > 1 else "markers",
                 "text": np.where(labels == 1, "abnormal", "normal").tolist(),
                 "line": {"color": "--normal", "width": 1.5}, "customdata": np.stack(list(shown.values()), axis=1),
                 "hovertemplate": "<br>".join(lines) + "<extra></extra>"}
        shades = [{"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "x0": frames[first] - 0.5,
                   "x1": frames[end - 1] + 0.5, "fillcolor": "--abnormal", "opacity": 0.25, "line": {"width": 0},
                   "layer": "below"} for first, end in stretches(labels == 1)]
        if point:
            shades.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": point["threshold"],
                           "y1": point["threshold"], "line": {"color": "--faint", "width": 1, "dash": "dot"}})
        marks = [{"x": frames[wrong], "y": x[wrong], "mode": "markers", "hoverinfo": "skip",
                  "marker": {"color": "--abnormal", "size": 6, "symbol": f"triangle-{way}"}}
                 for way, wrong in zip(("up", "down"), mistakes(labels, x, point))] if point else []
        plots.append({"data": [trace, *marks], "layout": {
            "shapes": shades, "margin": {"l": 34, "r": 6, "t": 6, "b": 30}, "hovermode": "x",
            "xaxis": {"range": [frames[0] - 0.5, frames[-1] + 0.5], "tickformat": ".6~g", "nticks": 6},
            "yaxis": {"range": [low - room, high + room], "fixedrange": True, "nticks": 5}}})
    return plots


def roc_plot(false_positive: np.ndarray, true_positive: np.ndarray, eer: float) -> dict:
    """Plot the ROC curve of all frames together, with the point of the equal error rate."""
    axis = {"range": [-0.01, 1.01], "tickformat": ".0%", "dtick": 0.25, "tick0": 0}
    chance = {"x": [0, 1], "y": [0, 1], "mode": "lines", "line": {"color": "--faint", "dash": "dash", "width": 1},
              "hoverinfo": "skip"}
    line = {"x": false_positive, "y": true_positive, "mode": "lines", "line": {"color": "--normal", "width": 2},
            "hovertemplate": "false positive rate %{x:.2%}<br>true positive rate %{y:.2%}<extra></extra>"}
    point = {"x": [eer], "y": [1 - eer], "mode": "markers", "marker": {"color": "--abnormal", "size": 10},
             "hovertemplate": "equal error rate %{x:.2%}<extra></extra>"}
    titles = {"xaxis": "false positive rate", "yaxis": "true positive rate"}
    return {"data": [chance, line, point],
            "layout": {name: axis | {"title": {"text": title}} for name, title in titles.items()}}


def data_uri(image: np.ndarray, kind: str = "png") -> str:
    """Write a picture, (H, W, C) uint8 grey or BGR, as an address that holds it; `kind` is "jpeg" or "png"."""
    return f"data:image/{kind};base64,{base64.b64encode(cv2.imencode(f'.{kind}', image)[1].tobytes()).decode()}"
