"""Write numbers as aligned text: tables that read well in a terminal and are Markdown, to be pasted."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lgn_net.scores.normality import SCOPES
from lgn_net.scores.protocols import PAPER, RESAMPLES, SIGMAS
from lgn_net.scores.results import Compared, Results


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


def grid_table(cells: Iterable[Mapping[str, Any]]) -> str:
    """Lay out the AUC % of the grid's cells for one set of labels; the paper's protocol in bold."""
    rows: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        bold = "**" * (tuple(cell[key] for key in PAPER._fields) == PAPER)
        rows.setdefault((cell["average"], SCOPES[cell["scope"]]), []).append(f"{bold}{percent(cell['auc'])}{bold}")
    header = ["average", "normalisation", *(f"sigma {sigma:g}" if sigma else "unsmoothed" for sigma in SIGMAS)]
    return markdown(header, [[*names, *values] for names, values in rows.items()], left=2)


def numbers(results: Results) -> list[tuple[str, str, str, str]]:
    """List the headline and what belongs to it: name, value, unit, remark; values that are not defined are dashes."""
    # The headline, and what it is to be read beside.
    alone: Mapping[str, Any] = results                                       # for keys that are made of a signal's name
    within = "no interval: one video cannot be resampled, or the frames are of one class"
    if results["interval"]:
        low, high = results["interval"]
        within = f"95 % interval {percent(low, 1)} to {percent(high, 1)}, {RESAMPLES:,} resamples of the videos"
    rows = [("AUC", percent(results["auc"]), "%", within)]
    if "auc_copy" in results:
        linear, skill = percent(results.get("auc_linear")), percent(results.get("auc_skill"))
        rows.append(("AUC, last frame copied", percent(results["auc_copy"]), "%",
                     f"linear extrapolation {linear} %, PSNR minus that of copying {skill} %"))
    rows += [(f"AUC, {'PSNR' if name == 'psnr' else name} only", percent(alone[f"auc_{name}"]), "%", "")
             for name in results["signals"] if f"auc_{name}" in results]
    # Other measures of the same normality.
    gap = "-" if results["gap"] is None else f"{results['gap']:.3f}"
    points = {"threshold, equal errors": results["at_eer"],
              f"threshold, {100 * results['wanted_false_positive_rate']:g} % false alarms": results["at_wanted"]}
    rows += [("equal error rate", percent(results["eer"]), "%", "over all frames"),
             *((name, f"{point['threshold']:.4f}", "", f"abnormal up to it: {percent(point['true_positive_rate'])} % "
                f"found, {percent(point['false_positive_rate'])} % false alarms")
               for name, point in points.items() if point),
             ("average precision", percent(results["average_precision"]), "%",
              f"chance {percent(results['chance'])} %"),
             ("gap score", gap, "", "mean normality of normal minus abnormal frames")]
    rows += [(f"mean PSNR, {kind} frames", f"{alone[f'psnr_{kind}']:.2f}", "dB", "")
             for kind in ("normal", "abnormal") if alone.get(f"psnr_{kind}") is not None]
    # What the network's run left.
    if "memory_updates" in results:
        rows.append(("memory updates", f"{results['memory_updates']:,}", "", ""))
    memories = results.get("memories", [])
    rows += [("live items" if len(memories) == 1 else f"live items, memory {k}", f"{memory['live_items']}", "",
              f"of {len(memory['queries_of_item'])}, on training frames; mean cosine between items "
              f"{memory['item_cosine']:.3f}") for k, memory in enumerate(memories, 1)]
    if found := results.get("localization"):
        rows += [("pixel AUC", percent(found["pixel_auc"]), "%",
                  f"every pixel of {found['frames_with_mask']:,} frames with masks"),
                 ("pixel-level AUC", percent(found["pixel_level_auc"]), "%",
                  "40 % of a mask, no pixel of a normal frame; chance is near 0"),
                 ("strongest region on mask", percent(found["region_on_mask"]), "%",
                  f"of {found['abnormal_frames']:,} abnormal frames; placed at random "
                  f"{percent(found['region_on_mask_chance'])} %")]
    quality = results.get("quality", {})
    for key in (key for key in ("ssim", "lpips") if quality.get(key) is not None):
        of_class = {kind: quality[f"{key}_{kind}"] for kind in ("normal", "abnormal")}
        rows.append((key.upper(), f"{quality[key]:.4f}", "",
                     ", ".join(f"{kind} {mean:.4f}" for kind, mean in of_class.items() if mean is not None)))
    return rows


def frames_scored(results: Results) -> str:
    """Say how much was scored, in a sentence."""
    videos, single = results["videos"], results["single_class_videos"]
    one_class = f" ({single} with frames of one class only)" if single else ""
    return (f"{videos} video{'s'[:videos != 1]}{one_class}, {results['frames']:,} frames scored, "
            f"{results['abnormal_frames']:,} abnormal")


def everything(results: Results) -> str:
    """Write the headline and what belongs to it, the AUCs under every protocol, those of the videos, the comparison."""
    source = f" ({results['label_source']})" if results["label_source"] else ""
    parts = [f"{results['dataset'] or 'scores'}: {frames_scored(results)}\nprotocol: {results['protocol']}\n"
             f"labels:   {results['labels']}{source}",
             "\n".join(f"  {name:<28}{value:>9} {unit:<2}  {remark}".rstrip()
                       for name, value, unit, remark in numbers(results))]
    for name, chance in results["padded_chance"].items():
        cells = [cell for cell in results["grid"] if cell["labels"] == (name or None)]
        parts.append(f"AUC % under other protocols, labels: {name or results['labels']} (bold: the paper's)\n\n"
                     f"{grid_table(cells)}\n"
                     f"padded is biased: scores drawn at random reach {percent(chance, 1)} % there")
    if results["grid"]:
        parts.append(markdown(["video", "frames", "abnormal", "AUC %", "mean normality"],
                              [[row["video"], str(row["frames"]), str(row["abnormal_frames"]), percent(row["auc"]),
                                f"{row['mean_normality']:.3f}"] for row in results["per_video"]]))
    if "compared" in results:
        parts.append(comparison(results["compared"]))
    return "\n\n".join(parts)


def comparison(result: Compared) -> str:
    """Write the comparison of two score files."""
    if result["difference"] is None:
        return f"compared with {result['other']}: undefined, the common frames are of one class"
    within = "no interval: one video cannot be resampled"
    if result["interval"]:
        low, high = result["interval"]
        within = (f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}, p = {result['p_value']:.3f}; "
                  f"{result['videos']} videos resampled in pairs, {RESAMPLES:,} times")
    return (f"compared with {result['other']}: AUC {percent(result['auc'])} against {percent(result['auc_other'])} %, "
            f"difference {100 * result['difference']:+.2f} points\n  ({within}; left out, as only one of the two holds "
            f"them: {result['frames_left_out']} frames here, {result['frames_left_out_other']} there)")
