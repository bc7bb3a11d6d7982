"""The report of an evaluation: one page that opens from disk in any browser, with curves to hover over and zoom."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from lgn_net.config import flatten
from lgn_net.files import write_atomic
from lgn_net.inference.localize import FrameMap
from lgn_net.report.tables import comparison, frames_scored, numbers, percent
from lgn_net.scores.metrics import AVERAGES, Roc, roc
from lgn_net.scores.normality import SCOPES
from lgn_net.scores.protocols import PAPER, SIGMAS
from lgn_net.scores.score_file import VideoScores, stretches

NORMAL, ABNORMAL, BOX = "#0072b2", "#d55e00", "#56b4e9"            # Okabe and Ito: colour-blind readers tell them apart
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"

# Signals by name: how they are called beside a curve, their format (d3's) and unit.
SIGNALS = {"psnr": ("PSNR", ".2f", " dB"), "distance": ("distance", ".4g", ""),
           "regular_score": ("regular score", ".4g", "")}
# Headings of the kinds of a FrameMap.
KINDS = {"miss": "Worst misses: abnormal, but they look normal",
         "false alarm": "Worst false alarms: normal, but they look abnormal",
         "top": "Least normal frames", "chosen": "Chosen frames"}
# Entries of results.json that say what it was made from; versions and configuration follow.
PROVENANCE = ("dataset", "complete_benchmark", "labels", "label_source", "protocol", "checkpoint", "scores",
              "direction")

STYLE = """
html { overflow-y: scroll; }
body { margin: 0 auto; padding: 1rem clamp(.8rem, 2vw, 2rem) 3rem; max-width: 90rem; background: #fff; color: #1a1a1a;
       font: 15px/1.45 FONT; overflow-wrap: anywhere; }
h1 { font-size: 1.2rem; margin: 0; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .4rem; }
h3 { font-size: 1rem; margin: .4rem 0; }
p { margin: .4rem 0; max-width: 64rem; }
a { color: #0072b2; }
nav { display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; margin: 1rem 0 0; }
.note, dt, h3 small { color: #555; font-size: 13px; font-weight: normal; }

.auc { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 .8rem; margin: .2rem 0; }
.auc b { font-size: 2.4rem; line-height: 1.2; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .6rem; margin: 1rem 0 0; }
.cards div { display: flex; flex-direction: column; padding: .5rem .7rem;
             border: 1px solid #ddd; border-radius: 6px; }
dd { margin: 0; font-size: 1.2rem; }

.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap;
         overflow-wrap: normal; }
th { font-weight: 600; vertical-align: bottom; }
tbody + tbody { border-top: 2px solid #aaa; }
.text { text-align: left; }
.long td { white-space: normal; min-width: 10.5rem; overflow-wrap: anywhere; }

figure { margin: 0; min-width: 0; outline-offset: 3px; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1rem 1.4rem; }
.few { grid-template-columns: minmax(0, 1fr); }
.curves h3 { margin: 0; }
.plot { height: 13rem; }
.roc { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 28rem)); gap: 0 2rem;
       align-items: center; }
.roc .plot { height: min(28rem, 94vw); }
.nowrap { white-space: nowrap; margin-right: .8rem; }
.key { display: inline-block; width: 1.6rem; height: .8rem; margin-right: .3rem; vertical-align: -.05rem; }

.map { display: grid; grid-template-columns: 11rem repeat(4, minmax(0, 16rem)); gap: .6rem; margin: .6rem 0 1rem; }
.map img { width: 100%; display: block; background: #eee; }
.map span { color: #555; font-size: 13px; }
.scale { width: 12rem; height: .9rem; vertical-align: -.1rem; margin: 0 .4rem; }

@media (max-width: 50rem) {
  .map { grid-template-columns: 1fr 1fr; }
  .map figcaption { grid-column: 1 / -1; }
  th, td { padding: .2rem .4rem; }
  th, .text { white-space: normal; }
}
/* A finger on a plot scrolls the page until the plot is chosen by a tap. */
@media (pointer: coarse) {
  figure:not(:focus-within) .nsewdrag { pointer-events: none !important; }
  figure:focus-within .plot { outline: 2px solid #0072b2; }
}
"""


def write_report(path: Path, results: Mapping, videos: list[VideoScores], normal: list[np.ndarray],
                 maps: Sequence[FrameMap]) -> None:
    """Write the page, complete in one file: nothing is loaded from anywhere else.

    Args:
        path: of the HTML file.
        results: the numbers, as in results.json.
        videos: the scored frames.
        normal: their normality, an array (n_v,) per video.
        maps: frames to show with their error maps; may be empty.
    """
    curve = roc([video.labels for video in videos], normal)
    sections = {
        "AUC under every protocol": protocols(results),
        "Normality of every frame": curves(results, videos, normal),
        "ROC curve": roc_plot(results, curve),
        "Frames and their error maps": frame_maps(maps),
        "Memory": memory_plots(results, videos),
        "Videos": video_table(results),
        "Configuration and provenance": provenance(results),
    }
    sections = {title: body for title, body in sections.items() if body}
    links = "".join(f'<a href="#s{k}">{title}</a>' for k, title in enumerate(sections))
    body = "".join(f'<section id="s{k}"><h2>{title}</h2>{content}</section>\n'
                   for k, (title, content) in enumerate(sections.items()))
    write_atomic(path, f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{escape(name_of(results))}: AUC {auc_text(results)}</title>
<style>{STYLE.replace("FONT", FONT)}</style>
</head>
<body>
{headline(results)}
<nav>{links}</nav>
<script>{get_plotlyjs()}</script>
{body}</body>
</html>
""")


def name_of(results: Mapping) -> str:
    """The data set, where it is known."""
    return results.get("dataset") or "scores"


def auc_text(results: Mapping) -> str:
    """The headline's number."""
    return "undefined" if results["auc"] is None else f"{percent(results['auc'])} %"


def headline(results: Mapping) -> str:
    """Data set, AUC with its interval, what was measured, and the other numbers as cards."""
    (_, _, _, within), *others = numbers(results)
    cards = "".join(f"<div><dt>{escape(name)}</dt><dd>{'undefined' if value == '-' else f'{value} {unit}'}</dd>"
                    f"<dt>{escape(remark)}</dt></div>" for name, value, unit, remark in others)
    return f"""<header>
<h1>{escape(name_of(results))}</h1>
<p class="auc"><b>AUC {auc_text(results)}</b><span>{within}</span></p>
<p>{frames_scored(results)}</p>
<p>Protocol: {escape(results["protocol"])}<br>Labels: {escape(str(results["labels"]))}{
    f" ({escape(results['label_source'])})" if results.get("label_source") else ""}</p>
<dl class="cards">{cards}</dl>
</header>"""


def share(value: float | None) -> str:
    """A fraction in percent with its sign; "undefined" for None."""
    return "undefined" if value is None else f"{percent(value)} %"


def table(header: Sequence[str], groups: Sequence[Sequence[Sequence[str]]], text: int = 1, kind: str = "") -> str:
    """A table that scrolls in its own box where it is too wide; the first `text` columns are text, the others numbers.

    Cells are HTML; what comes from files must be escaped. `groups` of rows are set apart by a line.
    """
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}{' class=text' if k < text else ''}>{cell}</{tag}>"
                                for k, cell in enumerate(cells)) + "</tr>"

    bodies = "".join("<tbody>" + "".join(row(cells, "td") for cells in rows) + "</tbody>" for rows in groups)
    head = f"<thead>{row(header, 'th')}</thead>" if header else ""
    return f'<div class="wide"><table class="{kind}">{head}{bodies}</table></div>'


def protocols(results: Mapping) -> str:
    """AUC under every protocol, a table per label set, and the comparison with other scores."""
    values = {}
    for cell in results.get("grid", ()):
        values.setdefault(cell["labels"], {})[cell["scope"], cell["sigma"], cell["average"]] = percent(cell["auc"])
    tables = []
    for labels, cells in values.items():
        paper = (PAPER.scope, PAPER.sigma, PAPER.average)
        cells[paper] = f"<b>{cells[paper]}</b>"
        tables.append(f"<h3>Labels: {escape(str(labels or results['labels']))}</h3>" + table(
            ["average", "normalisation", *(f"sigma {sigma:g}" if sigma else "unsmoothed" for sigma in SIGMAS)],
            [[[average, meaning, *(cells[scope, sigma, average] for sigma in SIGMAS)]
              for scope, meaning in SCOPES.items()] for average in AVERAGES], text=2)
            + f"<p>⚠ <b>padded</b> is biased: scores drawn at random reach "
              f"{percent(results['padded_chance'][labels or ''], 1)} % there.</p>")
    if tables:
        meanings = "; ".join(f"<b>{average}</b>: {meaning}" for average, meaning in AVERAGES.items())
        tables.insert(0, "<p>AUC in %; the paper's protocol in bold. Sigma: Gaussian smoothing over the frames of a "
                         "video.</p>")
        tables.append(f'<p class="note">{meanings}.</p>')
    if compared := results.get("compared"):
        tables.append(f"<p>{escape(comparison(compared, compared['other']))}</p>")
    return "\n".join(tables)


def curves(results: Mapping, videos: list[VideoScores], normal: list[np.ndarray]) -> str:
    """A plot per video; all have the same vertical axis."""
    low, high = min(0.0, *map(np.min, normal)), max(1.0, *map(np.max, normal))
    limits = [low - 0.03 * (high - low), high + 0.03 * (high - low)]
    plots = []
    for v, (video, x, row) in enumerate(zip(videos, normal, results["per_video"])):
        kind = "all abnormal" if row["abnormal_frames"] else "all normal"
        plots.append(f'<figure id="v{v}" tabindex="-1"><h3>{escape(video.name)} <small>'
                     f"{kind if row['auc'] is None else 'AUC ' + share(row['auc'])}</small></h3>"
                     f'<div class="plot">{draw(video_plot(video, x, limits), f"curve{v}")}</div></figure>')
    return f"""<p>
<span class="nowrap"><i class="key" style="background:{NORMAL};height:.15rem;vertical-align:.25rem"></i>normality,
high is normal</span>
<span class="nowrap"><i class="key" style="background:{ABNORMAL};opacity:.3"></i>labelled abnormal</span></p>
<p class="note">Point at a curve for the values of its frame; drag along it to zoom in, double-click to see all of it
again. On a touch screen, first tap a plot to choose it.</p>
<div class="curves{" few" if len(plots) < 3 else ""}">{"".join(plots)}</div>"""


def video_plot(video: VideoScores, normal: np.ndarray, limits: list[float]) -> go.Figure:
    """Normality (n,) over the frames of one video, abnormal periods shaded.

    The arrays go into the page as 32-bit floats in base64: shorter than digits, and read faster.
    """
    shown = [name for name in video.signals if name not in ("normality", "memory_updated")]
    lines = ["frame %{x}", "normality %{y:.4f}"]
    for k, name in enumerate(shown):
        label, digits, unit = SIGNALS.get(name, (name, ".4g", ""))
        lines.append(f"{plain(label)} %{{customdata[{k}]:{digits}}}{unit}")
    lines.append("label %{text}")
    updated = None
    if "memory_updated" in video.signals:
        lines.append("memory updated: %{hovertext}")
        updated = np.where(video.signals["memory_updated"] == 1, "yes", "no").tolist()
    edges = stretches(video.labels == 1)
    figure = go.Figure(go.Scatter(
        x=video.frames, y=normal.astype(np.float32), mode="lines" if len(normal) > 1 else "markers",
        text=np.where(video.labels == 1, "abnormal", "normal").tolist(), hovertext=updated,
        customdata=np.stack([video.signals[name] for name in shown], axis=1).astype(np.float32) if shown else None,
        line={"color": NORMAL, "width": 1.5}, hovertemplate="<br>".join(lines) + "<extra></extra>"))
    figure.update_layout(
        shapes=[{"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "x0": video.frames[first] - 0.5,
                 "x1": video.frames[end - 1] + 0.5, "fillcolor": ABNORMAL, "opacity": 0.22, "line": {"width": 0},
                 "layer": "below"} for first, end in edges.tolist()],
        xaxis={"range": [video.frames[0] - 0.5, video.frames[-1] + 0.5], "tickformat": ".6~g", "nticks": 6},
        yaxis={"range": limits, "fixedrange": True, "nticks": 5},
        margin={"l": 34, "r": 6, "t": 6, "b": 30}, hovermode="x")
    return figure


def plain(text: str) -> str:
    """Text that plotly shows as it is: it would take <...> for markup and %{...} for a variable."""
    return escape(text, quote=False).replace("%", "&#37;")


def draw(figure: go.Figure, name: str) -> str:
    """A plot as HTML that fills its box; `name` is its id."""
    axis = {"gridcolor": "#e4e4e4", "zeroline": False, "linecolor": "#999", "ticks": "outside", "tickcolor": "#999",
            "ticklen": 3}
    figure.update_layout(template="none", font={"family": FONT, "size": 13, "color": "#333"}, showlegend=False,
                         plot_bgcolor="rgba(0,0,0,0)", paper_bgcolor="rgba(0,0,0,0)", dragmode="zoom",
                         hoverlabel={"bgcolor": "#fff", "bordercolor": "#555", "align": "left",
                                     "font": {"family": FONT, "color": "#1a1a1a", "size": 13}})
    figure.update_xaxes(axis)
    figure.update_yaxes(axis)
    return figure.to_html({"responsive": True, "displayModeBar": False}, full_html=False, include_plotlyjs=False,
                          div_id=name)


def roc_plot(results: Mapping, curve: Roc | None) -> str:
    """The ROC curve of all frames together."""
    if curve is None:
        return "<p>Undefined: all scored frames are of one class.</p>"
    along = curve.false_positive + curve.true_positive            # 0 to 2, never falling: 500 points of it
    chosen = np.unique(np.searchsorted(along, np.linspace(0, along[-1], 500)))
    eer = results["eer"]
    hover = "false positive rate %{x:.2%}<br>true positive rate %{y:.2%}<extra></extra>"
    figure = go.Figure([
        go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line={"color": "#888", "dash": "dash", "width": 1},
                   hoverinfo="skip"),
        go.Scatter(x=curve.false_positive[chosen].astype(np.float32), y=curve.true_positive[chosen].astype(np.float32),
                   mode="lines", line={"color": NORMAL, "width": 2}, hovertemplate=hover),
        go.Scatter(x=[eer], y=[1 - eer], mode="markers", marker={"color": ABNORMAL, "size": 10},
                   hovertemplate=f"equal error rate {share(eer)}<extra></extra>"),
    ])
    figure.update_layout(margin={"l": 62, "r": 16, "t": 8, "b": 46}, hovermode="closest")
    for update, title in ((figure.update_xaxes, "false positive rate"), (figure.update_yaxes, "true positive rate")):
        update(title={"text": title, "font": {"size": 13}}, range=[-0.01, 1.01], tickformat=".0%", dtick=0.25, tick0=0)
    return f"""<div class="roc"><figure tabindex="-1"><div class="plot">{draw(figure, "roc")}</div></figure>
<div><p>All frames together, as the threshold on the normality rises: the share of abnormal frames found over the share
of normal frames called abnormal.</p>
<p><i class="key" style="background:{ABNORMAL};width:.8rem;border-radius:50%"></i>equal error rate,
{share(eer)}: as many normal frames are called abnormal as abnormal ones are missed.</p>
<p class="note">Dashed: a detector that knows nothing.</p></div></div>"""


def memory_plots(results: Mapping, videos: list[VideoScores]) -> str:
    """How the queries of training frames fall on the items, and how the distances of test frames are distributed."""
    plots = []
    for k, memory in enumerate(results.get("memories") or [], 1):
        counts = np.array(memory["queries_of_item"])
        figure = go.Figure(go.Bar(x=np.arange(1, len(counts) + 1), y=counts / counts.sum(), marker={"color": NORMAL},
                                  hovertemplate="item %{x}: %{y:.2%} of the queries<extra></extra>"))
        title = f"Memory {k}" if len(results["memories"]) > 1 else "Items"
        remark = (f"{memory['live_items']} of {len(counts)} live, mean cosine between two "
                  f"{memory['item_cosine']:.3f}")
        plots.append((title, remark, figure, "item", "share of the queries", ".0%"))
    labels = np.concatenate([video.labels for video in videos])
    for name in (name for name in videos[0].signals if name.startswith("distance")):
        values = np.concatenate([video.signals[name] for video in videos])
        edges = np.histogram_bin_edges(values, 40)
        figure = go.Figure([go.Scatter(
            x=edges, y=np.append(np.histogram(values[labels == label], edges)[0] / max((labels == label).sum(), 1), 0),
            mode="lines", line={"color": colour, "shape": "hv", "width": 2},
            hovertemplate=f"{kind} frames, %{{x:.4g}} and above: %{{y:.2%}}<extra></extra>")
            for label, kind, colour in ((0, "normal", NORMAL), (1, "abnormal", ABNORMAL))])
        plots.append((name.replace("_", " ").capitalize(), "of normal (blue) and abnormal (orange) test frames",
                      figure, name, "share of the frames", ".0%"))
    figures = []
    for k, (title, remark, figure, x, y, form) in enumerate(plots):
        figure.update_layout(margin={"l": 62, "r": 8, "t": 8, "b": 46})
        figure.update_xaxes(title={"text": x, "font": {"size": 13}})
        figure.update_yaxes(title={"text": y, "font": {"size": 13}}, tickformat=form, rangemode="tozero")
        figures.append(f'<figure tabindex="-1"><h3>{title} <small>{remark}</small></h3><div class="plot">'
                       f'{draw(figure, f"memory{k}")}</div></figure>')
    return f'<div class="curves">{"".join(figures)}</div>' if figures else ""


def frame_maps(maps: Sequence[FrameMap]) -> str:
    """Frame, prediction, error and both with a box around the largest error, a line per map; all on one scale."""
    if not maps:
        return ""
    top = float(np.quantile(np.concatenate([m.error.ravel() for m in maps]), 0.999)) or 1.0
    bar = data_uri(heat(np.linspace(0, 1, 256, dtype=np.float32)[None]), ".png")
    parts = [f"""<p>Squared error of the prediction (pixels on [0, 1], mean over the channels), one scale for all:
<span class="nowrap">0<img class="scale" src="{bar}" alt="from dark to bright">{top:.2g} or more</span></p>"""]
    for kind in dict.fromkeys(m.kind for m in maps):
        parts.append(f"<h3>{escape(KINDS.get(kind, kind))}</h3>")
        parts += [frame_map(m, top) for m in maps if m.kind == kind]
    return "\n".join(parts)


def frame_map(m: FrameMap, top: float) -> str:
    """One map; errors from `top` on are the brightest."""
    image, prediction = (np.repeat(x, 3, axis=2) if x.shape[2] == 1 else x for x in (m.image, m.prediction))
    error = np.clip(m.error / top, 0, 1)
    overlay = (image + error[..., None] * (heat(error).astype(np.float32) - image)).round().astype(np.uint8)
    (x0, y0, x1, y1), width = m.box, max(1, image.shape[1] // 128)
    colour = tuple(int(BOX[k:k + 2], 16) for k in (5, 3, 1))                                     # blue, green, red
    cv2.rectangle(overlay, (x0, y0), (x1 - 1, y1 - 1), colour, width)
    where = f"video {escape(m.video)}, frame {m.frame}"
    panels = {"frame": data_uri(image, ".jpg"), "prediction": data_uri(prediction, ".jpg"),
              "squared error": data_uri(heat(error), ".png"), "error over frame": data_uri(overlay, ".jpg")}
    images = "".join(f'<div><img src="{uri}" alt="{name}, {where}"><span>{name}</span></div>'
                     for name, uri in panels.items())
    return (f'<figure class="map"><figcaption><b>{where}</b><br>normality {m.normality:.3f}'
            f"<br>labelled {'abnormal' if m.label else 'normal'}</figcaption>{images}</figure>")


def heat(values: np.ndarray) -> np.ndarray:
    """(H, W) in [0, 1] -> colours (H, W, 3), BGR: equal steps look equally large."""
    return cv2.applyColorMap((255 * values).round().astype(np.uint8), cv2.COLORMAP_INFERNO)


def data_uri(image: np.ndarray, kind: str) -> str:
    """A picture, (H, W, 3) uint8 BGR, as part of the page."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, 92] if kind == ".jpg" else []
    content = base64.b64encode(cv2.imencode(kind, image, quality)[1].tobytes()).decode()
    return f"data:image/{'jpeg' if kind == '.jpg' else 'png'};base64,{content}"


def video_table(results: Mapping) -> str:
    """AUC of each video; the name leads to the curve."""
    return table(["video", "frames", "abnormal", "AUC %", "mean normality"], [[
        [f'<a href="#v{v}">{escape(row["video"])}</a>', str(row["frames"]), str(row["abnormal_frames"]),
         percent(row["auc"]), f"{row['mean_normality']:.3f}"] for v, row in enumerate(results["per_video"])]])


def provenance(results: Mapping) -> str:
    """What the numbers were made from."""
    groups = [{key: results[key] for key in PROVENANCE if results.get(key) is not None} | flatten(
        {"signals": results.get("signals", {})}), results.get("versions", {}), flatten(results.get("config", {}))]
    rows = [[[escape(str(cell)) for cell in row] for row in group.items()] for group in groups if group]
    return ("<details><summary>What these numbers were made from</summary>"
            f"{table([], rows, text=2, kind='long')}</details>")
