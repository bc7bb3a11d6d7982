"""Numbers as aligned text: tables that read well in a terminal and are Markdown, to be pasted."""

from collections.abc import Mapping, Sequence

import numpy as np

from lgn_net.scores.metrics import AVERAGES
from lgn_net.scores.normality import SCOPES
from lgn_net.scores.protocols import PAPER, RESAMPLES, SIGMAS, Protocol


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """An aligned Markdown table; the first `left` columns are text, the others numbers."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) if k < left else cell.rjust(width)
                                 for k, (cell, width) in enumerate(zip(cells, widths))) + " |"

    rules = ["-" * (width + 2) if k < left else "-" * (width + 1) + ":" for k, width in enumerate(widths)]
    rule = "|" + "|".join(rules) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in percent; a dash for None."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def grid_table(values: Mapping[Protocol, float | None]) -> str:
    """AUC % of every protocol; the paper's in bold."""
    rows = []
    for average in AVERAGES:
        for scope, meaning in SCOPES.items():
            cells = [percent(values[Protocol(scope, sigma, average)]) for sigma in SIGMAS]
            if (scope, average) == (PAPER.scope, PAPER.average):
                cells[SIGMAS.index(PAPER.sigma)] = f"**{cells[SIGMAS.index(PAPER.sigma)]}**"
            rows.append([average, meaning, *cells])
    header = ["average", "normalisation", *(f"sigma {sigma:g}" if sigma else "unsmoothed" for sigma in SIGMAS)]
    return markdown(header, rows, left=2)


def video_table(results: Mapping) -> str:
    """AUC of each video."""
    return markdown(["video", "frames", "abnormal", "AUC %", "mean normality"],
                    [[row["video"], str(row["frames"]), str(row["abnormal_frames"]), percent(row["auc"]),
                      f"{row['mean_normality']:.3f}"] for row in results["per_video"]])


def numbers(results: Mapping) -> list[tuple[str, str, str, str]]:
    """The headline and what belongs to it: name, value, unit, remark. Values that are not defined are dashes."""
    interval = results["interval"]
    if interval:
        within = (f"95 % interval {percent(interval[0], 1)} to {percent(interval[1], 1)}, {RESAMPLES:,} resamples of "
                  f"the videos")
    else:
        within = "no interval: " + ("one video cannot be resampled" if results["videos"] == 1 else
                                    "frames of one class only")
    gap = "-" if results["gap"] is None else f"{results['gap']:.3f}"
    rows = [("AUC", percent(results["auc"]), "%", within),
            *((f"AUC, {'PSNR' if key == 'auc_psnr' else key.removeprefix('auc_')} only", percent(results[key]), "%", "")
              for key in results if key.startswith("auc_")),
            ("equal error rate", percent(results["eer"]), "%", "over all frames"),
            ("average precision", percent(results["average_precision"]), "%", f"chance {percent(results['chance'])} %"),
            ("gap score", gap, "", "mean normality of normal minus abnormal frames")]
    for kind in ("normal", "abnormal"):
        if results.get(f"psnr_{kind}") is not None:
            rows.append((f"mean PSNR, {kind} frames", f"{results[f'psnr_{kind}']:.2f}", "dB", ""))
    if "memory_updates" in results:
        rows.append(("memory updates", f"{results['memory_updates']:,}", "", ""))
    for k, memory in enumerate(results.get("memories") or [], 1):
        name = f"live items, memory {k}" if len(results["memories"]) > 1 else "live items"
        rows.append((name, f"{memory['live_items']}", "",
                     f"of {len(memory['queries_of_item'])}, on training frames; mean cosine between items "
                     f"{memory['item_cosine']:.3f}"))
    if found := results.get("localization"):
        chance = percent(found["region_on_mask_chance"])
        rows += [("pixel AUC", percent(found["pixel_auc"]), "%",
                  f"every pixel of {found['frames_with_mask']:,} frames with masks"),
                 ("pixel-level AUC", percent(found["pixel_level_auc"]), "%",
                  "40 % of a mask, no pixel of a normal frame; chance is near 0"),
                 ("strongest region on mask", percent(found["region_on_mask"]), "%",
                  f"of {found['abnormal_frames']:,} abnormal frames; placed at random {chance} %")]
    for key, name in (("ssim", "SSIM"), ("lpips", "LPIPS")):
        if (quality := results.get("quality") or {}).get(key) is not None:
            classes = [f"{kind} {quality[f'{key}_{kind}']:.4f}" for kind in ("normal", "abnormal")
                       if quality[f"{key}_{kind}"] is not None]
            rows.append((name, f"{quality[key]:.4f}", "", ", ".join(classes)))
    return rows


def frames_scored(results: Mapping) -> str:
    """How much was scored, in a sentence."""
    count = results["single_class_videos"]
    one_class = f" ({count} with frames of one class only)" if count else ""
    return (f"{results['videos']} video{'s'[:results['videos'] != 1]}{one_class}, {results['frames']:,} frames scored, "
            f"{results['abnormal_frames']:,} abnormal")


def summary(results: Mapping) -> str:
    """The headline and what belongs to it, as text."""
    return "\n".join([
        f"{results['dataset'] or 'scores'}: {frames_scored(results)}",
        f"protocol: {results['protocol']}",
        f"labels:   {results['labels']}" + (f" ({results['label_source']})" if results["label_source"] else ""),
        "",
        *(f"  {name:<28}{value:>9} {unit:<2}  {remark}".rstrip() for name, value, unit, remark in numbers(results)),
    ])


def comparison(result: Mapping, other: str) -> str:
    """Two score files by what `lgn_net.scores.protocols.compare` returns; `other` is the name of the second."""
    interval = result["interval"]
    counts = ((result["frames_left_out"], "this one"), (result["frames_left_out_other"], other))
    left_out = " and ".join(f"{count} frames that only {which} holds" for count, which in counts if count)
    if result["difference"] is None:
        return f"compared with {other}: undefined, the common frames are of one class"
    within = (f", 95 % interval {100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}, p = {result['p_value']:.3f}\n"
              f"  ({result['videos']} videos resampled in pairs, {RESAMPLES:,} times" if interval else
              "\n  (no interval: one video cannot be resampled")
    return (f"compared with {other}: AUC {percent(result['auc'])} against {percent(result['auc_other'])} %, difference "
            f"{100 * result['difference']:+.2f} points{within}" + (f"; left out: {left_out})" if left_out else ")"))


def padded_chance(labels: Sequence[np.ndarray]) -> float:
    """What scores drawn at random reach on average under the padded protocol, a fraction; labels (n_v,) per video."""
    counts = [(int(np.sum(y == 0)), int(np.sum(y == 1))) for y in labels]
    return float(np.mean([(n * p / 2 + n + p + 1) / ((n + 1) * (p + 1)) for n, p in counts]))
