"""What an evaluation found, as it stands in results.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lgn_net.errors import UserError
from lgn_net.files import to_json, write_atomic


@dataclass(frozen=True)
class VideoResult:
    """One video under the headline's protocol."""

    video: str                             # name
    frames: int                            # scored frames
    abnormal_frames: int                   # scored frames with label 1
    auc: float | None                      # a fraction; None for a video of one class
    mean_normality: float                  # mean over the scored frames


@dataclass(frozen=True)
class GridCell:
    """The AUC under one protocol and one set of labels."""

    labels: str | None                     # source of the labels; None for labels that do not ship with the project
    scope: str                             # normalisation, one of `SCOPES`
    sigma: float                           # of the Gaussian over the frames of a video; 0: none
    average: str                           # one of `AVERAGES`
    auc: float | None                      # a fraction; None where undefined or without training scores


@dataclass(frozen=True)
class MemoryUse:
    """How the queries of training frames fall on the items of one memory."""

    live_items: int                        # items that are the nearest of one query or more
    queries_of_item: list[int]             # of each item, the number of queries whose nearest item it is
    item_cosine: float                     # mean cosine between two items


@dataclass(frozen=True)
class PixelResults:
    """How well the place of the error agrees with the pixel masks; see `lgn_net.inference.observers`."""

    pixel_auc: float | None                # AUC of a pixel's error as detector of masked pixels
    pixel_level_auc: float | None          # AUC of frames: 40 % of a mask, no pixel of a normal frame
    region_on_mask: float | None           # share of the frames with a mask whose strongest region touches it
    region_on_mask_chance: float | None    # the same share, if each region lay anywhere in its frame
    frames_with_mask: int                  # frames that were compared with a mask
    abnormal_frames: int                   # those of them whose mask has a pixel set
    frames_without_mask: int               # frames that were not compared
    videos_without_masks: int              # videos without a folder of masks


@dataclass(frozen=True)
class Comparison:
    """Two files of scores on the frames that both hold."""

    other: str                             # name of the second file, and its weights where they differ
    auc: float | None                      # of the first file on the common frames, a fraction
    auc_other: float | None                # of the second file
    difference: float | None               # the first AUC minus the second one
    interval: Sequence[float] | None       # 95 % interval of the difference; None where there is one video only
    p_value: float | None                  # two-sided, by resampling videos in pairs
    videos: int                            # videos with common frames
    frames: int                            # common frames
    frames_left_out: int                   # frames that only the first file holds
    frames_left_out_other: int             # frames that only the second file holds


class ClassMeans(NamedTuple):
    """Mean of a signal over the frames of a class; None where there are none."""

    normal: float | None
    abnormal: float | None


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where scores are from; what a score file takes over from the results.json beside it."""

    dataset: str | None = None                         # name of the data set
    labels: str = "none"                               # file of the labels
    complete_benchmark: bool | None = None             # all test frames of a published data set? None: unknown
    scores: str | None = None                          # file of the scores, where no network ran
    direction: str | None = None                       # what a high score of another program means
    checkpoint: str | None = None                      # file of the network
    versions: dict[str, Any] | None = None             # of the code, its libraries and the network's device
    config: dict[str, Any] | None = None               # configuration with which the network ran
    memories: list[MemoryUse] | None = None            # of each memory, how training frames use its items
    localization: PixelResults | None = None           # comparison with pixel masks
    quality: dict[str, float | None] | None = None     # means of SSIM and LPIPS, over all and over each class


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Every number under one protocol; AUCs are fractions, and what is undefined is None."""

    auc: float | None                                  # the headline
    interval: Sequence[float] | None                   # 95 %, over resampled videos; None for a single video
    auc_of: dict[str, float | None]                    # AUC of each of several signals alone: `auc_<signal>`
    auc_copy: float | None = None                      # AUC of the PSNR of copying the last frame
    auc_linear: float | None = None                    # AUC of the PSNR of linear extrapolation, clip(2 s_t - s_(t-1))
    auc_skill: float | None = None                     # AUC of the PSNR minus that of copying the last frame
    mean_of: dict[str, ClassMeans]                     # `<signal>_normal`, `<signal>_abnormal` in the file
    eer: float | None                                  # equal error rate over all frames
    average_precision: float | None                    # of abnormal frames, over all frames
    chance: float                                      # the average precision of a detector that knows nothing
    gap: float | None                                  # mean normality of normal minus that of abnormal frames
    videos: int                                        # number of videos
    single_class_videos: int                           # videos with frames of one class only
    frames: int                                        # scored frames
    abnormal_frames: int                               # scored frames with label 1
    per_video: list[VideoResult]                       # the same of each video

    def to_dict(self) -> dict[str, Any]:
        """Give the content of results.json: the fields by name, the signals' numbers under keys of their own."""
        content = asdict(self)
        aucs, means = content.pop("auc_of"), content.pop("mean_of")
        content = {key: value for key, value in content.items() if value is not None or key not in OPTIONAL}
        content |= {f"auc_{name}": value for name, value in aucs.items()}
        return content | {f"{name}_{kind}": value for name, pair in means.items()
                          for kind, value in zip(ClassMeans._fields, pair)}


@dataclass(frozen=True, kw_only=True)
class Results(Measures, Provenance):
    """What evaluate.py and scripts/measure.py write to results.json."""

    label_source: str | None                           # which of the truths that ship; None: none of them
    protocol: str                                      # what was measured, in a line
    signals: dict[str, float]                          # weights in the normality; negative: high is abnormal
    scoring: dict[str, Any] = field(default_factory=dict)  # knobs of `score` that a score file leaves open
    memory_updates: int | None = None                  # frames that updated the memory
    grid: list[GridCell] = field(default_factory=list)                 # for every set of labels and every protocol
    padded_chance: dict[str, float] = field(default_factory=dict)         # for every set of labels, see `metrics`
    compared: Comparison | None = None                 # the comparison with a second file of scores


# Fields that are left out of the file where they are None: most evaluations have no such thing.
OPTIONAL = ("scores", "direction", "checkpoint", "versions", "config", "memories", "localization", "quality",
            "auc_copy", "auc_linear", "auc_skill", "memory_updates", "compared")
RECORDS = {"per_video": VideoResult, "grid": GridCell, "memories": MemoryUse, "localization": PixelResults,
           "compared": Comparison}                     # fields that hold one of these, or a list


def write_results(path: Path, results: Results) -> None:
    """Write results.json."""
    write_atomic(path, to_json(results.to_dict()))


def read_results(path: str | Path) -> Results:
    """Read results.json. UserError for a file that is damaged, or has other fields than `Results`."""
    try:
        return results_of(json.loads(Path(path).read_text()))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path} was not written by this version of evaluate.py, or is damaged; evaluate again, or "
                        f"move it away and give --lambda") from None


def results_of(content: Mapping[str, Any]) -> Results:
    """Turn the content of results.json into Results. TypeError or KeyError where it has other fields."""
    names, fields = list(content["signals"]), dict(content)
    fields["auc_of"] = {name: fields.pop(f"auc_{name}") for name in names if f"auc_{name}" in fields}
    fields["mean_of"] = {name: ClassMeans(*(fields.pop(f"{name}_{kind}") for kind in ClassMeans._fields))
                         for name in names}
    for key, kind in RECORDS.items():
        if value := fields.get(key):
            fields[key] = [kind(**one) for one in value] if isinstance(value, list) else kind(**value)
    return Results(**fields)


def results_beside(scores: str | Path) -> Results | None:
    """Read the results.json that an evaluation wrote beside its score file; None where there is none."""
    path = Path(scores).with_name("results.json")
    return read_results(path) if path.is_file() else None
