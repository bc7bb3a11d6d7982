"""Write results as text: tables for a terminal, for Markdown and for LaTeX, and the words of the templates."""

import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from lgn_net.scores.metrics import AVERAGES
from lgn_net.scores.normality import SCOPES
from lgn_net.scores.protocols import PAPER, RESAMPLES, SIGMAS
from lgn_net.scores.results import Results
from lgn_net.terminal import visible

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]           # caption, header, rows
TEMPLATES = Path(__file__).parent / "templates"
PUBLISHED: dict[str, dict[str, float]] = yaml.safe_load((TEMPLATES / "published.yaml").read_text())
# LaTeX's own characters, and how they are written.
LATEX = str.maketrans({"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    c: f"\\{c}" for c in "&%$#_{}"})


def terminal_width() -> int:
    """Return the columns of the terminal; no limit where the output goes to a file or to another program."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, width: int = sys.maxsize) -> str:
    """Lay out an aligned Markdown table; the first `left` columns are text, the others numbers.

    What is wider than `width` characters becomes several tables, each with the first columns again.
    """
    # Each table takes as many columns as fit, one at least beside the first ones.
    widths = [max(2, *map(len, column)) for column in zip(header, *rows)]                  # 2: for the rule -:
    first = list(range(max(left, 1)))
    tables = [first.copy()]
    for k in range(len(first), len(widths)):
        if len(tables[-1]) > len(first) and sum(widths[j] + 3 for j in [*tables[-1], k]) + 1 > width:
            tables.append(first.copy())
        tables[-1].append(k)

    def line(cells: Sequence[str], columns: Sequence[int]) -> str:
        return "| " + " | ".join(cells[k].ljust(widths[k]) if k < left else cells[k].rjust(widths[k])
                                 for k in columns) + " |"

    rules = ["-" * widths[k] if k < left else "-" * (widths[k] - 1) + ":" for k in range(len(widths))]
    return "\n\n".join("\n".join(line(cells, columns) for cells in (header, rules, *rows)) for columns in tables)


def latex(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, label: str) -> str:
    """Write a table for LaTeX, as wide as the page, with the packages booktabs and graphicx; see `markdown`."""
    lines = [" & ".join(cell.translate(LATEX) for cell in cells) + r" \\" for cells in (header, *rows)]
    return "\n".join([r"\begin{table*}", rf"\caption{{{caption.translate(LATEX)}}}",
                      rf"\label{{tab:{label}}}", r"\resizebox{\textwidth}{!}{",
                      rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule", lines[0], r"\midrule",
                      *lines[1:], r"\bottomrule", r"\end{tabular}}", r"\end{table*}", ""])


def percent(value: float | None, digits: int = 2) -> str:
    """Write a fraction in percent; a dash for None."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def fill(text: str, width: int, indent: int) -> str:
    """Break each line of a text after `width` characters at most; what follows is indented."""
    return "\n".join(textwrap.fill(line, width, subsequent_indent=" " * indent) for line in text.splitlines())


# In HTML files every value is escaped.
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=jinja2.select_autoescape(["html"]), trim_blocks=True,
    lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    finalize=lambda value: visible(value) if type(value) is str else value)
ENVIRONMENT.filters |= {"percent": percent, "fill": fill,
                        "share": lambda value: "undefined" if value is None else f"{percent(value)} %"}
ENVIRONMENT.globals |= {"resamples": RESAMPLES, "averages": AVERAGES, "scopes": SCOPES, "sigmas": SIGMAS,
                        "paper": PAPER}
WORDS: Any = ENVIRONMENT.get_template("words.txt").module                  # its macros, as functions
comparison = WORDS.comparison                                              # of two score files


def grid_table(cells: Iterable[Mapping[str, Any]], width: int) -> str:
    """Lay out the AUC % of the grid's cells for one set of labels; the paper's protocol in bold."""
    rows: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        bold = "**" * (tuple(cell[key] for key in PAPER._fields) == PAPER)
        rows.setdefault((cell["average"], SCOPES[cell["scope"]]), []).append(f"{bold}{percent(cell['auc'])}{bold}")
    header = ["average", "normalisation", *(f"sigma {sigma:g}" if sigma else "unsmoothed" for sigma in SIGMAS)]
    return markdown(header, [[*names, *values] for names, values in rows.items()], left=2, width=width)


def everything(results: Results, files: Mapping[str, Path]) -> str:
    """Write what the terminal shows of an evaluation: identity, numbers, tables, the `files` by name, headline."""
    width = terminal_width()
    grids = [(name, grid_table((cell for cell in results["grid"] if cell["labels"] == (name or None)), width), chance)
             for name, chance in results["padded_chance"].items()]
    videos = markdown(["video", "frames", "abnormal", "AUC %", "mean normality"],
                      [[row["video"], str(row["frames"]), str(row["abnormal_frames"]), percent(row["auc"]),
                        f"{row['mean_normality']:.3f}"] for row in results["per_video"]], width=width)
    return ENVIRONMENT.get_template("terminal.txt").render(results=results, grids=grids, videos=videos, files=files,
                                                           width=width)
