"use strict";
/* Draw every plot with the page's font and colours, again when the reader's colour scheme changes. Between two plots
   the browser may scroll: hundreds take seconds. */
const shape = own => ({line: {width: 0}, layer: "below", ...own});

/* The normality over the frames of a video, abnormal periods shaded, false alarms and misses marked. */
function curvePlot(video, colour) {
  // plotly.js takes <...> in a name for markup and %{...} for a variable.
  const safe = name => name.replace(/[<>&%]/g, sign => `&#${sign.charCodeAt(0)};`);
  const [low, high] = video.ends, room = 0.03 * (high - low), [first, last] = video.range;
  const says = ["frame %{x}", "normality %{y:.4f}", "label %{text}",
                ...video.names.map((name, k) => `${safe(name)} %{customdata[${k}]:.4g}`)];
  const line = {x: video.frames, y: video.normality, text: video.labels, customdata: video.signals,
                mode: first < last ? "lines" : "markers", line: {color: colour("--normal"), width: 1.5},
                hovertemplate: says.join("<br>") + "<extra></extra>"};
  const marks = video.wrong.map((wrong, k) => ({...wrong, mode: "markers", hoverinfo: "skip", marker: {
    color: colour("--abnormal"), size: 6, symbol: ["triangle-up", "triangle-down"][k]}}));
  const shades = video.abnormal.map(([x0, x1]) => shape({
    type: "rect", yref: "paper", y0: 0, y1: 1, x0, x1, fillcolor: colour("--abnormal"), opacity: 0.25}));
  if (video.threshold !== null)
    shades.push({type: "line", xref: "paper", x0: 0, x1: 1, y0: video.threshold, y1: video.threshold,
                 line: {color: colour("--faint"), width: 1, dash: "dot"}});
  return {data: [line, ...marks], layout: {
    shapes: shades, margin: {l: 34, r: 6, t: 6, b: 30}, hovermode: "x",
    xaxis: {range: [first - 0.5, last + 0.5], tickformat: ".6~g", nticks: 6},
    yaxis: {range: [low - room, high + room], fixedrange: true, nticks: 5}}};
}

/* The ROC curve of all frames together, with the point of the equal error rate. */
function rocPlot({curve: [x, y], eer}, colour) {
  const axis = text => ({range: [-0.01, 1.01], tickformat: ".0%", dtick: 0.25, tick0: 0, title: {text}});
  const chance = {x: [0, 1], y: [0, 1], mode: "lines", hoverinfo: "skip",
                  line: {color: colour("--faint"), dash: "dash", width: 1}};
  const line = {x, y, mode: "lines", line: {color: colour("--normal"), width: 2},
                hovertemplate: "false positive rate %{x:.2%}<br>true positive rate %{y:.2%}<extra></extra>"};
  const point = {x: [eer], y: [1 - eer], mode: "markers", marker: {color: colour("--abnormal"), size: 10},
                 hovertemplate: "equal error rate %{x:.2%}<extra></extra>"};
  return {data: [chance, line, point],
          layout: {xaxis: axis("false positive rate"), yaxis: axis("true positive rate")}};
}

function draw() {
  const style = getComputedStyle(document.body), colour = name => style.getPropertyValue(name).trim();
  const font = {family: style.fontFamily, size: 13, color: colour("--text")};
  const axis = own => ({gridcolor: colour("--line"), linecolor: colour("--faint"), tickcolor: colour("--faint"),
                        ticks: "outside", ticklen: 3, zeroline: false, ...own, title: {font, ...own.title}});
  const common = {font, margin: {l: 62, r: 16, t: 8, b: 46}, showlegend: false, dragmode: "zoom",
                  plot_bgcolor: "transparent", paper_bgcolor: "transparent",
                  hoverlabel: {bgcolor: colour("--page"), bordercolor: colour("--faint"), align: "left", font}};
  document.querySelectorAll(".plot").forEach(plot => setTimeout(() => {
    const numbers = JSON.parse(plot.previousElementSibling.textContent);
    const {data, layout} = (plot.id === "roc" ? rocPlot : curvePlot)(numbers, colour);
    const axes = {xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis)};
    Plotly.react(plot, data, {...common, ...layout, ...axes}, {responsive: true, displayModeBar: false});
  }));
}
draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
