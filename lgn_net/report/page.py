"""Write the report of an evaluation: one page that opens from disk in any browser, with curves to hover over and zoom.

Here numbers, plots and pictures become plain values. `templates/report.html` places them and escapes all of them,
`report.css` gives the colours that the plots name (`--normal`), and `report.js` draws the plots with plotly.js.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

from lgn_net.config import flatten
from lgn_net.files import write_atomic
from lgn_net.report.optional import optional
from lgn_net.report.tables import comparison, frames_scored, numbers, percent
from lgn_net.scores.maps import FrameMap
from lgn_net.scores.metrics import AVERAGES, Roc, roc
from lgn_net.scores.normality import SCOPES
from lgn_net.scores.protocols import PAPER, SIGMAS, Protocol
from lgn_net.scores.score_file import VideoScores, stretches

TEMPLATES = Path(__file__).parent / "templates"
# Signals by name: their words beside a curve, their format (d3's) and unit.
SIGNALS = {"psnr": ("PSNR", ".2f", " dB"), "distance": ("distance", ".4g", ""),
           "regular_score": ("regular score", ".4g", "")}
# Entries of results.json that say what the results were made from; versions and configuration follow.
PROVENANCE = ("dataset", "complete_benchmark", "labels", "label_source", "protocol", "checkpoint", "scores",
              "direction")


def write_report(path: Path, results: Mapping, videos: list[VideoScores], normal: list[np.ndarray],
                 maps: Sequence[FrameMap]) -> None:
    """Write the page, complete in one file. Without plotly, warn and leave out the interactive curves.

    Args:
        path: path of the HTML file.
        results: the content of results.json.
        videos: the scored frames.
        normal: normality (n_v,) of each video.
        maps: frames to show with their error maps; may be empty.
    """
    plotly = optional("plotly.offline", "report.html has no interactive curves")
    scripts = [plotly.get_plotlyjs(), (TEMPLATES / "report.js").read_text()] if plotly else []
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["percent"] = percent
    environment.filters["share"] = share
    write_atomic(path, environment.get_template("report.html").render(
        style=Markup((TEMPLATES / "report.css").read_text()), scripts=[Markup(script) for script in scripts],
        hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
        curves=curves(videos, normal), **content(results, videos, roc([video.labels for video in videos], normal)),
        **error_maps(maps)))


def content(results: Mapping, videos: list[VideoScores], curve: Roc | None) -> dict:
    """Collect all that the template shows of results.json: no other function of this file reads the results."""
    (_, _, _, within), *others = numbers(results)
    compared, source = results.get("compared"), results.get("label_source")
    made_from = {key: results[key] for key in PROVENANCE if results.get(key) is not None}
    grids: dict = {}
    for cell in results.get("grid", ()):
        cells = grids.setdefault(cell["labels"], {})
        cells[Protocol(cell["scope"], cell["sigma"], cell["average"])] = cell["auc"]
    return {
        "name": results.get("dataset") or "scores", "auc": results["auc"], "within": within, "cards": others,
        "scored": frames_scored(results), "protocol": results["protocol"],
        "labels": source or Path(str(results["labels"])).name,
        "grids": [(labels or results["labels"], results["padded_chance"][labels or ""], cells)
                  for labels, cells in grids.items()],
        "averages": AVERAGES, "scopes": SCOPES, "sigmas": SIGMAS, "Protocol": Protocol, "paper": PAPER,
        "compared": comparison(compared, compared["other"]) if compared else "",
        "eer": results["eer"], "roc": roc_plot(curve, results["eer"]) if curve else None,
        "memory": memory_plots(results.get("memories") or [], videos),
        "videos": results["per_video"],
        "provenance": [made_from | flatten({"signals": results.get("signals", {})}), results.get("versions", {}),
                       flatten(results.get("config") or {})],
    }


def share(value: float | None) -> str:
    """Write a fraction in percent with its sign, and "undefined" for None."""
    return "undefined" if value is None else f"{percent(value)} %"


def packed(values: np.ndarray) -> dict:
    """Encode an array as plotly.js reads it, 32-bit floats in base64: shorter than digits, and read faster."""
    values = np.ascontiguousarray(values, "<f4")
    shape = ", ".join(map(str, values.shape))
    return {"dtype": "f4", "bdata": base64.b64encode(values.tobytes()).decode(), "shape": shape}


def plain(text: str) -> str:
    """Protect text from plotly, which takes <...> for markup and %{...} for a variable."""
    return escape(text, quote=False).replace("%", "&#37;")


def curves(videos: list[VideoScores], normal: list[np.ndarray]) -> list[dict]:
    """Plot every video, all with the same vertical axis."""
    low, high = min(0.0, *map(np.min, normal)), max(1.0, *map(np.max, normal))
    room = 0.03 * (high - low)
    return [video_plot(video, x, [float(low - room), float(high + room)]) for video, x in zip(videos, normal)]


def video_plot(video: VideoScores, normal: np.ndarray, limits: list[float]) -> dict:
    """Plot the normality (n,) over the frames of one video, abnormal periods shaded."""
    # What the reader sees of a frame.
    shown = [name for name in video.signals if name not in ("normality", "memory_updated")]
    lines = ["frame %{x}", "normality %{y:.4f}"]
    for k, name in enumerate(shown):
        label, digits, unit = SIGNALS.get(name, (name, ".4g", ""))
        lines.append(f"{plain(label)} %{{customdata[{k}]:{digits}}}{unit}")
    lines.append("label %{text}")
    abnormal = video.labels == 1
    trace = {"x": packed(video.frames), "y": packed(normal), "mode": "lines" if len(normal) > 1 else "markers",
             "text": np.where(abnormal, "abnormal", "normal").tolist(), "line": {"color": "--normal", "width": 1.5}}
    if shown:
        trace["customdata"] = packed(np.stack([video.signals[name] for name in shown], axis=1))
    if "memory_updated" in video.signals:
        lines.append("memory updated: %{hovertext}")
        trace["hovertext"] = np.where(video.signals["memory_updated"] == 1, "yes", "no").tolist()
    trace["hovertemplate"] = "<br>".join(lines) + "<extra></extra>"

    periods = [(int(video.frames[first]), int(video.frames[end - 1])) for first, end in stretches(abnormal)]
    return {"data": [trace], "layout": {
        "shapes": [{"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "x0": first - 0.5, "x1": last + 0.5,
                    "fillcolor": "--abnormal", "opacity": 0.25, "line": {"width": 0}, "layer": "below"}
                   for first, last in periods],
        "xaxis": {"range": [int(video.frames[0]) - 0.5, int(video.frames[-1]) + 0.5], "tickformat": ".6~g",
                  "nticks": 6},
        "yaxis": {"range": limits, "fixedrange": True, "nticks": 5},
        "margin": {"l": 34, "r": 6, "t": 6, "b": 30}, "hovermode": "x"}}


def roc_plot(curve: Roc, eer: float) -> dict:
    """Plot the ROC curve of all frames together, thinned to 500 points, with the point of the equal error rate."""
    along = curve.false_positive + curve.true_positive                                        # 0 to 2, never falling
    chosen = np.unique(np.searchsorted(along, np.linspace(0, along[-1], 500)))
    hover = "false positive rate %{x:.2%}<br>true positive rate %{y:.2%}<extra></extra>"
    rate = {"range": [-0.01, 1.01], "tickformat": ".0%", "dtick": 0.25, "tick0": 0}
    return {"data": [
        {"x": [0, 1], "y": [0, 1], "mode": "lines", "line": {"color": "--faint", "dash": "dash", "width": 1},
         "hoverinfo": "skip"},
        {"x": packed(curve.false_positive[chosen]), "y": packed(curve.true_positive[chosen]), "mode": "lines",
         "line": {"color": "--normal", "width": 2}, "hovertemplate": hover},
        {"x": [eer], "y": [1 - eer], "mode": "markers", "marker": {"color": "--abnormal", "size": 10},
         "hovertemplate": f"equal error rate {share(eer)}<extra></extra>"},
    ], "layout": {"xaxis": rate | {"title": {"text": "false positive rate"}},
                  "yaxis": rate | {"title": {"text": "true positive rate"}},
                  "margin": {"l": 62, "r": 16, "t": 8, "b": 46}, "hovermode": "closest"}}


def memory_plots(memories: Sequence[Mapping], videos: list[VideoScores]) -> list[tuple[str, str, dict]]:
    """Plot each memory's items and each distance; a title, a remark and the plot each."""
    plots = []
    for k, memory in enumerate(memories, 1):
        counts = np.array(memory["queries_of_item"])
        remark = f"{memory['live_items']} of {len(counts)} live, mean cosine between two {memory['item_cosine']:.3f}"
        plots.append((f"Memory {k}" if len(memories) > 1 else "Items", remark, items_plot(counts)))
    for name in videos[0].signals:
        if name.startswith("distance"):
            plots.append((name.replace("_", " ").capitalize(), "of normal (blue) and abnormal (orange) test frames",
                          distance_plot(name, videos)))
    return plots


def items_plot(counts: np.ndarray) -> dict:
    """Plot how the queries of training frames fall on the items; counts (M,)."""
    bars = {"type": "bar", "x": packed(np.arange(1, len(counts) + 1)), "y": packed(counts / counts.sum()),
            "marker": {"color": "--normal"}, "hovertemplate": "item %{x}: %{y:.2%} of the queries<extra></extra>"}
    return {"data": [bars], "layout": histogram_layout("item", "share of the queries", ".0%")}


def distance_plot(name: str, videos: list[VideoScores]) -> dict:
    """Plot how the distances of the normal and of the abnormal test frames are distributed."""
    labels = np.concatenate([video.labels for video in videos])
    values = np.concatenate([video.signals[name] for video in videos])
    edges, traces = np.histogram_bin_edges(values, 40), []
    for label, kind in enumerate(("normal", "abnormal")):
        heights = np.histogram(values[labels == label], edges)[0] / max((labels == label).sum(), 1)
        traces.append({"x": packed(edges), "y": packed(np.append(heights, 0)), "mode": "lines",
                       "line": {"color": f"--{kind}", "shape": "hv", "width": 2},
                       "hovertemplate": f"{kind} frames, %{{x:.4g}} and above: %{{y:.2%}}<extra></extra>"})
    return {"data": traces, "layout": histogram_layout(name, "share of the frames", ".0%")}


def histogram_layout(x: str, y: str, form: str) -> dict:
    """Give a plot its axes' titles and a vertical axis from zero in the format `form` (d3's)."""
    return {"margin": {"l": 62, "r": 8, "t": 8, "b": 46}, "xaxis": {"title": {"text": plain(x)}},
            "yaxis": {"title": {"text": y}, "tickformat": form, "rangemode": "tozero"}}


def error_maps(maps: Sequence[FrameMap]) -> dict:
    """Prepare the maps for the template by kind, all errors on one scale, with its greatest error and a colour bar."""
    top = float(np.quantile(np.concatenate([m.error.ravel() for m in maps]), 0.999)) or 1.0 if maps else 1.0
    kinds: dict[str, list] = {}
    for m in maps:
        kinds.setdefault(m.kind, []).append((m, *pictures(m, top)))
    return {"maps": kinds, "top": top, "scale": data_uri(heat(np.linspace(0, 1, 256, dtype=np.float32)[None]), ".png")}


def pictures(m: FrameMap, top: float) -> tuple[dict[str, str], dict[str, float]]:
    """Draw a map's four pictures, errors from `top` on brightest, and give its box in percent of width and height."""
    image, prediction = (np.repeat(x, 3, axis=2) if x.shape[2] == 1 else x for x in (m.image, m.prediction))
    error = np.clip(m.error / top, 0, 1)
    overlay = (image + error[..., None] * (heat(error).astype(np.float32) - image)).round().astype(np.uint8)
    (x0, y0, x1, y1), (H, W) = m.box, error.shape
    box = {"left": 100 * x0 / W, "top": 100 * y0 / H, "width": 100 * (x1 - x0) / W, "height": 100 * (y1 - y0) / H}
    return {"frame": data_uri(image, ".jpg"), "prediction": data_uri(prediction, ".jpg"),
            "squared error": data_uri(heat(error), ".png"), "error over frame": data_uri(overlay, ".jpg")}, box


def heat(values: np.ndarray) -> np.ndarray:
    """Turn values (H, W) in [0, 1] into colours (H, W, 3) uint8, BGR, of which equal steps look equally large."""
    return cv2.applyColorMap((255 * values).round().astype(np.uint8), cv2.COLORMAP_INFERNO)


def data_uri(image: np.ndarray, kind: str) -> str:
    """Write a picture, (H, W, 3) uint8 BGR, as an address that holds it; `kind` is ".jpg" or ".png"."""
    encoded = cv2.imencode(kind, image, [cv2.IMWRITE_JPEG_QUALITY, 92] if kind == ".jpg" else [])[1]
    return f"data:image/{'jpeg' if kind == '.jpg' else 'png'};base64,{base64.b64encode(encoded.tobytes()).decode()}"
