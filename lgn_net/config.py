"""Every knob once: its type, its default and its meaning, which `lgn_net.cli` makes into flags and their help."""

import math
import re
from dataclasses import asdict, dataclass, replace
from typing import Literal

import yaml

from lgn_net.errors import UserError


@dataclass(frozen=True)
class DataConfig:
    """Frames and how they are read."""

    dataset: str = "ped2"
    """Name of the data set's folder: ped2, avenue, shanghaitech, toy, or your own."""
    label_source: Literal["auto", "official", "ano_pred"] = "auto"
    """Test labels: auto, a file beside the frames or else those that ship; official; ano_pred (Avenue's
    re-annotation)."""
    image_size: int = 256
    """Height and width, in pixels, that every frame is resized to, whatever its shape; a multiple of 8."""
    channels: Literal[1, 3] = 3
    """3: blue, green, red as OpenCV reads them; 1: grey."""
    shuffle: bool = True
    """Train on the windows in a new random order every epoch; false: video after video."""
    workers: int = 2
    """Threads that decode frames ahead, in training and scoring; 0: none. Packed frames need none."""
    cache: str | None = None
    """Folder for packed training frames, decoded and resized once, then read many times faster; null: decode anew."""
    on_device: Literal["auto", "yes", "no"] = "auto"
    """Keep the training frames in the device's memory, as bytes; auto: on a GPU, where they take at most half of what
    is free."""


@dataclass(frozen=True)
class ModelConfig:
    """The network, its sizes, and the switches of docs/differences.md."""

    name: Literal["lgn_net", "lgn_st", "loc_net", "glo_net", "mnad_pred", "mnad_recon", "msn_net"] = "lgn_net"
    """LGN-Net or a relative (docs/differences.md). `--model.name X` also reads configs/family/X.yaml, its
    hyper-parameters."""
    memory: bool = True
    """false: the control without memory; the decoder gets the queries, and frames are scored by PSNR alone."""
    input_frames: int = 4
    """n: the frames from which the next one is predicted; 1 for mnad_recon, which predicts that very frame."""
    base_width: int = 64
    """Feature maps at full resolution; the memory items are 8 times as deep."""
    hidden_width: int = 128
    """Feature maps of the states of the ST-LSTM, or of the ConvLSTM of lgn_st and loc_net."""
    lstm_layers: int = 4
    """Stacked ST-LSTM (ConvLSTM) cells."""
    memory_items: int = 10
    """Prototypes in the memory."""
    memory_init: Literal["uniform", "queries"] = "uniform"
    """Items at the start: uniform random vectors (published code), or queries of the first batch."""
    read_grad: bool = False
    """Let the prediction loss train E_glo through the read weights (paper); the published code does not. msn_net
    always does."""
    concat_query: bool = False
    """Give the decoder the queries beside the prototypes, as Glo-Net and MNAD do."""
    update_max: Literal["all", "own"] = "all"
    """Maximum in the memory update's weights: over all queries (published code) or an item's own (paper, eq. 6)."""
    revive_after: int = 0
    """In training, an item that was nobody's nearest for so many steps becomes the farthest query; 0: never
    (published)."""
    fold_time: bool = False
    """Train E_loc on all frames of the batch at once: one batch statistic instead of one per frame; faster."""
    forget_bias: float = 1.0
    """Added to the forget gates of the ST-LSTM; the paper's equations have none."""
    bn_init: Literal["ones", "uniform"] = "ones"
    """BatchNorm weights start at 1 (today's PyTorch) or are drawn from U(0, 1) (PyTorch 1.1, which MNAD's authors
    say their numbers need)."""

    @property
    def window(self) -> int:
        """Frames of a window: the inputs, and the frame to predict where it is none of them."""
        return self.input_frames + (self.name != "mnad_recon")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the memory losses."""

    compactness: float = 10.0
    """lambda_c, weight of the compactness loss."""
    separateness: float = 5.0
    """lambda_s, weight of the separateness loss."""
    margin: float = 1.0
    """Margin of the separateness loss, a Euclidean distance between unit vectors."""


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation."""

    epochs: int = 60
    """Passes over all windows; the learning rate falls from `lr` to 0 along a cosine, a step per epoch."""
    batch_size: int = 8
    """Windows per step, over all processes."""
    lr: float = 2e-4
    """Adam's learning rate in the first epoch."""
    max_steps: int | None = None
    """Stop after this many steps in all; null: after the last epoch. The schedule stays that of `epochs`."""
    minutes: float | None = None
    """Stop after this many minutes, save last.pt and exit with status 75; null: no limit."""
    fit_minutes: float | None = None
    """Choose the number of epochs so that training, and evaluation of a benchmark's test set, take so many minutes."""
    keep_epochs: str = "all"
    """Which weights to keep beside last.pt: all epochs, last (none), or every K-th epoch and the last one."""
    save_minutes: float = 10.0
    """Write last.pt at least this often, between epochs too."""
    log_every: int = 10
    """Steps between lines of log.jsonl and points in TensorBoard."""
    precision: Literal["float32", "tf32", "bfloat16", "auto"] = "float32"
    """tf32: convolutions on NVIDIA GPUs round to 10 bits, elsewhere as float32; bfloat16: they run under autocast;
    auto: bfloat16 where a trial finds it 1.2 times faster. Memory, losses and weights stay float32."""
    kernels: Literal["direct", "winograd"] = "direct"
    """Convolutions of ST-LSTM in float32 on a CPU: PyTorch's own, or Winograd's, which are faster there."""
    accumulate: int = 1
    """Parts in which a step's batch goes through the network, for less memory; BatchNorm sees a part at a time."""
    checkpoint_activations: bool = False
    """Compute activations again in the backward pass instead of keeping them: a third slower, much less memory."""
    compile: bool = False
    """Compile the network with torch.compile; where that fails, training goes on without, and says so."""
    deterministic: bool = True
    """Equal numbers from equal runs on a GPU; false: the fastest convolutions that cuDNN finds."""


@dataclass(frozen=True)
class ScoreConfig:
    """From the model's signals to the normality of a frame."""

    psnr_weight: float = 0.6
    """lambda: share of the PSNR in the normality, 0 to 1; the rest is the distance D to the nearest item."""
    gamma: float = 0.009
    """A test frame updates the memory when its regular score, a mean squared error on [0, 1], is below gamma."""
    memory_update: Literal["frozen", "carry", "reset"] = "carry"
    """At test time: keep the memory frozen; carry the updated memory on to the next video (published code); reset it
    before each video."""
    psnr_peak: Literal["one", "prediction"] = "one"
    """Peak of the PSNR: 1 (published code), or the maximum of the predicted frame (paper, eq. 13)."""
    normalize: Literal["video", "none", "dataset", "training", "causal"] = "video"
    """Scale of PSNR and D: min and max over each video (published code); as they are; over all videos; mean and spread
    of training frames; running min and max of the video so far."""
    smoothing: float = 0.0
    """Sigma, in frames, of a Gaussian over the normality of each video; 0: none (published code)."""
    average: Literal["micro", "macro"] = "micro"
    """AUC over all frames of all videos (published code), or the mean AUC of the videos that have both classes."""
    calibration: int = 256
    """Training windows, spread evenly, that are scored as well, for the normalisation by training frames; 0: none."""
    batch_size: int = 8
    """Windows encoded at once, large ones on a CPU fewer; changes the speed, the scores by no more than rounding."""
    precision: Literal["float32", "tf32", "bfloat16", "auto"] = "float32"
    """As train.precision; memory and scores stay float32, and in bfloat16 E_glo's first blocks, too (on a GPU TF32)."""
    kernels: Literal["auto", "direct", "winograd", "graph"] = "auto"
    """direct: PyTorch's convolutions; winograd: others for deep layers, in float32 on a CPU; auto: what a trial finds
    faster; graph: on a GPU, decode single windows as a CUDA graph. Scores change by no more than rounding."""


@dataclass(frozen=True)
class Config:
    """All of it. Defaults are the published ones for Ped2."""

    seed: int = 0
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    score: ScoreConfig = ScoreConfig()

    def __post_init__(self):
        for knob, value in flatten(asdict(self)).items():
            require(value is not None or knob in NULLABLE, knob, value, "a value")
            if isinstance(value, int) or knob in HIGHEST:
                highest = HIGHEST.get(knob, 2**31 - 1)
                require(value <= highest, knob, value, f"{highest} or less")
            if knob in LOWEST and value is not None:
                require(LOWEST[knob] <= value < math.inf, knob, value, f"{LOWEST[knob]} or more")
            if knob in POSITIVE and value is not None:
                require(0 < value < math.inf, knob, value, "a number above 0")
        require(self.data.image_size % 8 == 0, "data.image_size", self.data.image_size, "a multiple of 8")
        require(self.model.name != "mnad_recon" or self.model.input_frames == 1, "model.input_frames",
                self.model.input_frames, "1 for mnad_recon (--model.name mnad_recon after --config sets it)")
        require(self.model.memory or self.model.name in ("lgn_net", "mnad_pred", "mnad_recon"), "model.memory", False,
                "true, except for lgn_net, mnad_pred and mnad_recon")
        require(self.train.keep_epochs in ("all", "last") or re.fullmatch(r"\d{1,9}", self.train.keep_epochs),
                "train.keep_epochs", self.train.keep_epochs, "all, last, or a number K")
        require(self.score.psnr_weight <= 1, "lambda (score.psnr_weight)", self.score.psnr_weight, "0 to 1")


NULLABLE = ("data.cache", "train.max_steps", "train.minutes", "train.fit_minutes")
LOWEST = {"seed": 0, "data.image_size": 16, "data.workers": 0, "model.input_frames": 1, "model.base_width": 1,
          "model.hidden_width": 1, "model.lstm_layers": 1, "model.memory_items": 2, "model.revive_after": 0,
          "loss.compactness": 0, "loss.separateness": 0, "loss.margin": 0, "train.epochs": 1, "train.batch_size": 1,
          "train.log_every": 1, "train.accumulate": 1, "train.max_steps": 1, "score.psnr_weight": 0, "score.gamma": 0,
          "score.smoothing": 0, "score.calibration": 0, "score.batch_size": 1}
# Far above what is of use, and low enough that a slip of the hand does not take all memory.
HIGHEST = {"seed": 2**63 - 1, "data.image_size": 8192, "data.workers": 256, "model.base_width": 1024,
           "model.hidden_width": 2048, "model.lstm_layers": 100, "model.memory_items": 65536, "score.smoothing": 10000}
POSITIVE = ("train.lr", "train.save_minutes", "train.minutes", "train.fit_minutes")


def require(ok: object, knob: str, value: object, range_: str) -> None:
    """Raise UserError when a knob is out of range."""
    if not ok:
        raise UserError(f"{knob} is {'null' if value is None else value}; it must be {range_}")


def with_knobs(config: Config, knobs: dict[str, object]) -> Config:
    """Return the configuration with other values of some knobs, given as {"section.knob": value}."""
    for name, value in knobs.items():
        section, _, knob = name.partition(".")
        config = replace(config, **{section: replace(getattr(config, section), **{knob: value})})
    return config


def flatten(nested: dict, prefix: str = "") -> dict:
    """Turn {"a": {"b": 1}} into {"a.b": 1}."""
    flat: dict = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def to_yaml(config: Config) -> str:
    """Write the configuration as a file that `--config` reads."""
    return yaml.safe_dump(asdict(config), sort_keys=False)
