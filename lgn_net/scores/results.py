"""The content of results.json. AUCs and rates are fractions, 0 to 1; what is undefined is None, in the file null."""

from typing import Any, TypedDict

# A "threshold" of the normality, up to which a frame is called abnormal; "false_positive_rate", "true_positive_rate".
OperatingPoint = dict[str, float]


class Compared(TypedDict, total=False):
    """The comparison with a second score file, on the frames that both hold."""

    other: str                          # the second file, with its weights where they differ
    auc: float | None                   # of the first file, on these frames
    auc_other: float | None             # of the second file
    difference: float | None            # auc minus auc_other, -1 to 1
    interval: tuple[float, float] | None       # 95 % of the difference; None with one video
    p_value: float | None               # two-sided, above 0
    videos: int                         # number of videos that both hold
    frames: int                         # number of frames that both hold
    frames_left_out: int                # number of frames of the first file alone
    frames_left_out_other: int          # likewise of the second file


class Usage(TypedDict):
    """How the training frames use a memory."""

    live_items: int                     # number of items that are the nearest of some query
    queries_of_item: list[int]          # number of queries whose nearest item each is
    item_cosine: float                  # mean cosine between items


class Results(TypedDict, total=False):
    """Everything; the keys of other signals (distance_1 ..., score) are made like those of psnr and distance."""

    identity: str                       # a line: system, size, knobs not published, checkpoint, data, labels, protocol
    dataset: str | None                 # name of the data set
    labels: str                         # file or folder of the labels
    label_source: str | None            # which of the truths that ship these are
    complete_benchmark: bool | None     # whether these are all test frames of a published data set; None: unknown
    scores: str                         # file of the scores, where no network ran
    scores_crc32: int                   # checksum of the scores.csv beside this file
    direction: str                      # what a high score of another program means
    checkpoint: str                     # file of the network
    parameters: int                     # number of weights of the network
    published: float | None             # AUC of the system on this data set, at its published size
    versions: dict[str, Any]            # of the code and its libraries, and the device
    config: dict[str, Any]              # the configuration, section by section
    protocol: str                       # what was measured, in a line
    scoring: dict[str, Any]             # the knobs of section `score` that a score file leaves open, see SCORING
    signals: dict[str, float]           # weight of each signal, -1 to 1; negative: high is abnormal
    auc: float | None                   # the headline
    interval: tuple[float, float] | None       # 95 % of auc; None with one video
    auc_psnr: float | None              # of a signal alone (auc_<signal>), where there are several
    auc_distance: float | None
    psnr_normal: float | None           # mean over the normal frames, in dB (<signal>_normal)
    psnr_abnormal: float | None         # mean over the abnormal frames, in dB (<signal>_abnormal)
    distance_normal: float | None       # mean distance of a query to its nearest item, 0 up
    distance_abnormal: float | None
    auc_copy: float | None              # of the PSNR of copying the last frame
    auc_linear: float | None            # of the PSNR of linear extrapolation
    auc_skill: float | None             # of the network's PSNR minus that of copying
    eer: float | None                   # equal error rate over all frames
    at_eer: OperatingPoint | None       # where false positives and misses are the closest; column decision follows it
    wanted_false_positive_rate: float
    at_wanted: OperatingPoint | None    # where there are as many false positives as wanted, or a few less
    average_precision: float | None
    chance: float                       # average precision of random scores: the share of abnormal frames
    gap: float | None                   # mean normality of normal minus that of abnormal frames
    gap_psnr: float | None              # gap of the PSNR alone, at lambda 1: comparable with systems without memory
    videos: int                         # number of scored videos
    single_class_videos: int            # number of videos whose frames are of one class
    frames: int                         # number of scored frames
    abnormal_frames: int                # number of scored frames labelled abnormal
    per_video: list                     # dictionaries of video (its name), frames, abnormal_frames, auc, mean_normality
    grid: list                          # dictionaries of labels (their source), auc, and fields of protocols.Protocol
    padded_chance: dict[str, float]     # AUC of random scores under the padded average, by the source of the labels
    compared: Compared
    memory_updates: int                 # number of frames that updated the memory
    memories: list[Usage]               # of each memory
    localization: dict[str, float | None]      # errors against pixel masks (`Localization.results` in observers.py)
    quality: dict[str, float | None]    # means of ssim (-1 to 1) and lpips (0 up): over all frames, over each class
