"""Write the report, one page that opens from disk: report.html escapes the results, report.js draws numbers."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from plotly.offline import get_plotlyjs

from lgn_net.config import flatten
from lgn_net.files import write_atomic
from lgn_net.report.tables import ENVIRONMENT, TEMPLATES, WORDS
from lgn_net.scores.maps import FrameMap, heat, loud, pictures, strong_regions
from lgn_net.scores.metrics import Arrays, mistakes, roc
from lgn_net.scores.results import Results
from lgn_net.scores.score_file import Videos, stretches
from lgn_net.terminal import visible


def write_report(path: Path, results: Results, videos: Videos, normal: Arrays, maps: Sequence[FrameMap]) -> None:
    """Write the page; `normal` is the normality (n_v,) of each video, `maps` are frames to show with their errors."""
    # The plots' numbers, and the pictures of frames on one scale of errors.
    labels, point = [video.labels for video in videos], results["at_eer"]
    low, high = min(0.0, *map(np.min, normal)), max(1.0, *map(np.max, normal))
    curves = []
    for (_, frames, columns, y), x in zip(videos, normal):
        signals = {visible(name).replace("_", " "): values for name, values in columns.items() if name != "normality"}
        curves.append({
            "frames": frames, "normality": x, "labels": np.where(y == 1, "abnormal", "normal").tolist(),
            "names": [*signals], "signals": np.stack([*signals.values()], axis=1), "ends": (low, high),
            "range": (int(frames[0]), int(frames[-1])),
            "abnormal": [(frames[first] - 0.5, frames[end - 1] + 0.5) for first, end in stretches(y == 1)],
            "wrong": [{"x": frames[wrong], "y": x[wrong]} for wrong in mistakes(y, x, point)] if point else [],
            "threshold": point["threshold"] if point else None})
    curve, top = roc(labels, normal), loud(maps)
    drawn = [(m, {title: data_uri(picture, "png" if title == "squared error" else "jpeg")
                  for title, picture in pictures(m, top).items()}, [box for _, box in strong_regions(m.error)])
             for m in maps]

    made_from = {key: value for key, value in results.items() if isinstance(value, str | bool) and key != "identity"}
    write_atomic(path, ENVIRONMENT.get_template("report.html").render(
        style=(TEMPLATES / "report.css").read_text(), scripts=[get_plotlyjs(), (TEMPLATES / "report.js").read_text()],
        results=results, scored=WORDS.scored(results), within=WORDS.within(results),
        compared=WORDS.comparison(results["compared"]) if "compared" in results else "",
        provenance=[made_from | flatten({"signals": results["signals"]}), results.get("versions"),
                    flatten(results.get("config", {}))],
        curves=curves, point=point, top=top, maps=drawn, scale=data_uri(heat(np.linspace(0, 1, 256)[None])),
        roc={"curve": curve, "eer": results["eer"]} if curve and results["eer"] is not None else None))


def packed(values: np.ndarray) -> dict:
    """Encode an array as plotly.js reads it, 32-bit floats in base64: shorter than digits, and read faster."""
    data = base64.b64encode(values.astype("<f4").tobytes()).decode()
    return {"dtype": "f4", "bdata": data, "shape": ", ".join(map(str, values.shape))}


ENVIRONMENT.policies["json.dumps_kwargs"] = {"default": packed, "sort_keys": True}
ENVIRONMENT.filters["sha256"] = lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def data_uri(image: np.ndarray, kind: str = "png") -> str:
    """Write a picture, (H, W, C) uint8 grey or BGR, as an address that holds it; `kind` is "jpeg" or "png"."""
    return f"data:image/{kind};base64,{base64.b64encode(cv2.imencode(f'.{kind}', image)[1].tobytes()).decode()}"
