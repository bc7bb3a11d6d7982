"use strict";
/* Draw every plot with the page's font and colours, again when the reader's colour scheme changes. Between two plots
   the browser may scroll: hundreds take seconds. */
function draw() {
  const style = getComputedStyle(document.body), colour = name => style.getPropertyValue(name).trim();
  const named = (key, value) => /color$/.test(key) ? colour(value) : value;
  const font = {family: style.fontFamily, size: 13, color: colour("--text")};
  const axis = own => ({gridcolor: colour("--line"), linecolor: colour("--faint"), tickcolor: colour("--faint"),
                        ticks: "outside", ticklen: 3, zeroline: false, ...own, title: {font, ...own.title}});
  const common = {font, margin: {l: 62, r: 16, t: 8, b: 46}, showlegend: false, dragmode: "zoom",
                  plot_bgcolor: "transparent", paper_bgcolor: "transparent",
                  hoverlabel: {bgcolor: colour("--page"), bordercolor: colour("--faint"), align: "left", font}};
  document.querySelectorAll(".plot").forEach(plot => setTimeout(() => {
    const {data, layout} = JSON.parse(plot.previousElementSibling.textContent, named);
    const axes = {xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis)};
    Plotly.react(plot, data, {...common, ...layout, ...axes}, {responsive: true, displayModeBar: false});
  }));
}
draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
