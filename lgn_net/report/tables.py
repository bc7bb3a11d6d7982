"""Write numbers as aligned text: tables that read well in a terminal and are Markdown, to be pasted."""

from collections.abc import Mapping, Sequence
from typing import Any

from lgn_net.scores.metrics import AVERAGES
from lgn_net.scores.normality import SCOPES
from lgn_net.scores.protocols import PAPER, RESAMPLES, SIGMAS
from lgn_net.scores.results import Comparison, Results, results_of


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Lay out an aligned Markdown table; the first `left` columns are text, the others numbers."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) if k < left else cell.rjust(width)
                                 for k, (cell, width) in enumerate(zip(cells, widths))) + " |"

    rules = ["-" * (width + 2) if k < left else "-" * (width + 1) + ":" for k, width in enumerate(widths)]
    return "\n".join([line(header), "|" + "|".join(rules) + "|", *map(line, rows)])


def percent(value: float | None, digits: int = 2) -> str:
    """Write a fraction in percent; a dash for None."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def grid_table(values: Mapping[Any, float | None]) -> str:
    """Lay out the AUC % of every protocol, (scope, sigma, average); the paper's in bold."""
    rows = []
    for average in AVERAGES:
        for scope, meaning in SCOPES.items():
            cells = [percent(values[scope, sigma, average]) for sigma in SIGMAS]
            if (scope, average) == (PAPER.scope, PAPER.average):
                cells[SIGMAS.index(PAPER.sigma)] = f"**{cells[SIGMAS.index(PAPER.sigma)]}**"
            rows.append([average, meaning, *cells])
    header = ["average", "normalisation", *(f"sigma {sigma:g}" if sigma else "unsmoothed" for sigma in SIGMAS)]
    return markdown(header, rows, left=2)


def numbers(results: Results | Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """List the headline and what belongs to it: name, value, unit, remark; values that are not defined are dashes."""
    results = as_results(results)
    # The headline, and what it is to be read beside.
    within = "no interval: one video cannot be resampled, or the frames are of one class"
    if results.interval:
        low, high = results.interval
        within = f"95 % interval {percent(low, 1)} to {percent(high, 1)}, {RESAMPLES:,} resamples of the videos"
    rows = [("AUC", percent(results.auc), "%", within)]
    if results.auc_copy is not None:
        rows.append(("AUC, last frame copied", percent(results.auc_copy), "%",
                     f"linear extrapolation {percent(results.auc_linear)} %, PSNR minus that of copying "
                     f"{percent(results.auc_skill)} %"))
    rows += [(f"AUC, {'PSNR' if name == 'psnr' else name} only", percent(value), "%", "")
             for name, value in results.auc_of.items()]
    # Other measures of the same normality.
    gap = "-" if results.gap is None else f"{results.gap:.3f}"
    rows += [("equal error rate", percent(results.eer), "%", "over all frames"),
             ("average precision", percent(results.average_precision), "%", f"chance {percent(results.chance)} %"),
             ("gap score", gap, "", "mean normality of normal minus abnormal frames")]
    if means := results.mean_of.get("psnr"):
        rows += [(f"mean PSNR, {kind} frames", f"{value:.2f}", "dB", "")
                 for kind, value in zip(means._fields, means) if value is not None]
    # What the network's run left.
    if results.memory_updates is not None:
        rows.append(("memory updates", f"{results.memory_updates:,}", "", ""))
    memories = results.memories or []
    rows += [("live items" if len(memories) == 1 else f"live items, memory {k}", f"{memory.live_items}", "",
              f"of {len(memory.queries_of_item)}, on training frames; mean cosine between items "
              f"{memory.item_cosine:.3f}") for k, memory in enumerate(memories, 1)]
    if found := results.localization:
        rows += [("pixel AUC", percent(found.pixel_auc), "%",
                  f"every pixel of {found.frames_with_mask:,} frames with masks"),
                 ("pixel-level AUC", percent(found.pixel_level_auc), "%",
                  "40 % of a mask, no pixel of a normal frame; chance is near 0"),
                 ("strongest region on mask", percent(found.region_on_mask), "%",
                  f"of {found.abnormal_frames:,} abnormal frames; placed at random "
                  f"{percent(found.region_on_mask_chance)} %")]
    for key in ("ssim", "lpips"):
        if results.quality and (value := results.quality[key]) is not None:
            classes = {kind: results.quality[f"{key}_{kind}"] for kind in ("normal", "abnormal")}
            rows.append((key.upper(), f"{value:.4f}", "",
                         ", ".join(f"{kind} {mean:.4f}" for kind, mean in classes.items() if mean is not None)))
    return rows


def as_results(results: Results | Mapping[str, Any]) -> Results:
    """Take the content of results.json as Results."""
    return results if isinstance(results, Results) else results_of(results)


def frames_scored(results: Results | Mapping[str, Any]) -> str:
    """Say how much was scored, in a sentence."""
    results = as_results(results)
    one_class = f" ({results.single_class_videos} with frames of one class only)" * bool(results.single_class_videos)
    return (f"{results.videos} video{'s'[:results.videos != 1]}{one_class}, {results.frames:,} frames scored, "
            f"{results.abnormal_frames:,} abnormal")


def everything(results: Results) -> str:
    """Write the headline and what belongs to it, the AUCs under every protocol, those of the videos, the comparison."""
    source = f" ({results.label_source})" if results.label_source else ""
    rows = [f"  {name:<28}{value:>9} {unit:<2}  {remark}".rstrip() for name, value, unit, remark in numbers(results)]
    parts = ["\n".join([f"{results.dataset or 'scores'}: {frames_scored(results)}", f"protocol: {results.protocol}",
                        f"labels:   {results.labels}{source}", "", *rows])]
    grids: dict[str | None, dict] = {}
    for cell in results.grid:
        grids.setdefault(cell.labels, {})[cell.scope, cell.sigma, cell.average] = cell.auc
    for name, values in grids.items():
        chance = percent(results.padded_chance[name or ""], 1)
        parts.append(f"AUC % under other protocols, labels: {name or results.labels} (bold: the paper's)\n\n"
                     f"{grid_table(values)}\npadded is biased: scores drawn at random reach {chance} % there")
    if grids:
        parts.append(markdown(["video", "frames", "abnormal", "AUC %", "mean normality"],
                              [[row.video, str(row.frames), str(row.abnormal_frames), percent(row.auc),
                                f"{row.mean_normality:.3f}"] for row in results.per_video]))
    if results.compared:
        parts.append(comparison(results.compared))
    return "\n\n".join(parts)


def comparison(result: Comparison | Mapping[str, Any], other: str = "") -> str:
    """Write the comparison of two score files; `other` is a name for the second in place of the comparison's own."""
    result = result if isinstance(result, Comparison) else Comparison(**result)
    other = other or result.other
    if result.difference is None:
        return f"compared with {other}: undefined, the common frames are of one class"
    within = "\n  (no interval: one video cannot be resampled"
    if result.interval:
        low, high = result.interval
        within = (f", 95 % interval {100 * low:+.1f} to {100 * high:+.1f}, p = {result.p_value:.3f}\n"
                  f"  ({result.videos} videos resampled in pairs, {RESAMPLES:,} times")
    left_out = ""
    if result.frames_left_out or result.frames_left_out_other:
        left_out = (f"; left out, as only one of the two holds them: {result.frames_left_out} frames here, "
                    f"{result.frames_left_out_other} there")
    return (f"compared with {other}: AUC {percent(result.auc)} against {percent(result.auc_other)} %, difference "
            f"{100 * result.difference:+.2f} points{within}{left_out})")
