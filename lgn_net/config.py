"""Every knob, its default and its meaning; YAML file and command line merged by jsonargparse.

jsonargparse reads types, defaults and help from the dataclasses below, so each knob is written down once, and it
rejects unknown keys and wrong types. A file is given with `--config FILE`, a single knob with `--section.name VALUE`;
whatever comes later on the command line wins.
"""

import difflib
import math
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_dumper, set_loader, set_parsing_settings

from lgn_net.errors import UserError

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class PlainLoader(yaml.SafeLoader):
    """YAML in which `off` is a word and `2e-4` a number, as in YAML 1.2, and no key stands twice; PyYAML reads 1.1."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """A mapping; ConstructorError when a key stands twice."""
        keys = set()
        for key, _ in node.value:
            if key.value in keys:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands here twice", key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}
PlainLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|false)$"), list("tf"))
PlainLoader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(
    r"^[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf)$|^\.nan$"), list("-+0123456789."))


def load_yaml(text: str) -> object:
    """What a YAML text holds; yaml.YAMLError for what is none."""
    return yaml.load(text, PlainLoader)


set_loader("plain", load_yaml, exceptions=(yaml.YAMLError,))
set_dumper("plain", lambda content: yaml.safe_dump(content, sort_keys=False))


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
    """Processes that decode frames beside the training; 0: none."""
    cache: str | None = None
    """Folder for packed frames, decoded and resized once and then read many times faster; null: decode as it goes."""
    on_device: Literal["auto", "yes", "no"] = "auto"
    """Keep the training frames in the device's memory, as bytes; auto: on a GPU, where they take at most half of what
    is free."""

    def __post_init__(self):
        require(self.image_size >= 16 and self.image_size % 8 == 0, "data.image_size", self.image_size,
                "a multiple of 8, at least 16")
        require(self.workers >= 0, "data.workers", self.workers, "0 or more")


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
    """Maximum in the memory update's weights over all queries (published code) or an item's own (paper, eq. 6)."""
    read_temperature: float = 1.0
    """Divides the similarities in the memory's read; below 1 a query reads fewer items."""
    ema: float = 0.0
    """0: items take up their queries as published; else the share an item keeps of itself as it moves to their mean."""
    revive_after: int = 0
    """In training, an item that was nobody's nearest for so many steps becomes the farthest query; 0: never
    (published)."""
    skips: bool = False
    """Hand E_glo's features to the decoder, as mnad_pred always does; meant for glo_net."""
    fold_time: bool = False
    """Train E_loc on all frames of the batch at once: one batch statistic instead of one per frame; faster."""
    forget_bias: float = 1.0
    """Added to the forget gates of the ST-LSTM; the paper's equations have none."""
    bn_init: Literal["ones", "uniform"] = "ones"
    """BatchNorm weights start at 1 (today's PyTorch) or are drawn from U(0, 1) (PyTorch 1.1, which was published
    with)."""

    def __post_init__(self):
        for name in ("input_frames", "base_width", "hidden_width", "lstm_layers"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "1 or more")
        require(self.memory_items >= 2, "model.memory_items", self.memory_items, "2 or more")
        require(self.name != "mnad_recon" or self.input_frames == 1, "model.input_frames", self.input_frames,
                "1 for mnad_recon, which reconstructs single frames (--model.name mnad_recon after --config sets it)")
        require(self.memory or self.name in ("lgn_net", "mnad_pred", "mnad_recon"), "model.memory", self.memory,
                "true, except for lgn_net, mnad_pred and mnad_recon, whose controls without memory are defined")
        require(0 < self.read_temperature < math.inf, "model.read_temperature", self.read_temperature,
                "a number above 0")
        require(0 <= self.ema < 1, "model.ema", self.ema, "0 or more, and below 1")
        require(self.revive_after >= 0, "model.revive_after", self.revive_after, "0 or more")
        require(math.isfinite(self.forget_bias), "model.forget_bias", self.forget_bias, "a number")

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

    def __post_init__(self):
        for name in ("compactness", "separateness", "margin"):
            require(0 <= getattr(self, name) < math.inf, f"loss.{name}", getattr(self, name), "a number, 0 or more")


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
    log_every: int = 10
    """Steps between lines of log.jsonl and points in TensorBoard."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """tf32: convolutions on NVIDIA GPUs round to 10 bits, elsewhere as float32; bfloat16: they run under autocast.
    Memory, losses and weights stay float32."""
    accumulate: int = 1
    """Parts in which a step's batch goes through the network, for less memory; BatchNorm sees a part at a time."""
    checkpoint_activations: bool = False
    """Compute activations again in the backward pass instead of keeping them: a third slower, much less memory."""
    compile: bool = False
    """Compile the network with torch.compile; where that fails, training goes on without, and says so."""
    sync_batch_norm: bool = True
    """With several processes on GPUs: BatchNorm statistics of the whole batch; false: of each process's share."""
    deterministic: bool = True
    """Equal numbers from equal runs on a GPU; false: the fastest convolutions that cuDNN finds."""

    def __post_init__(self):
        for name in ("epochs", "batch_size", "log_every", "accumulate"):
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "1 or more")
        require(0 < self.lr < math.inf, "train.lr", self.lr, "a number above 0")
        require(self.max_steps is None or self.max_steps >= 1, "train.max_steps", self.max_steps, "null, or 1 or more")


@dataclass(frozen=True)
class ScoreConfig:
    """From the model's signals to the normality of a frame."""

    psnr_weight: float = 0.6
    """lambda: share of the PSNR in the normality, 0 to 1; the rest is the distance D to the nearest item."""
    gamma: float = 0.009
    """A test frame updates the memory when its regular score, a mean squared error on [0, 1], is below gamma."""
    memory_update: Literal["off", "carry", "reset"] = "carry"
    """At test time: off; carry the updated memory on to the next video (published code); reset it before each video."""
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
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """As train.precision; memory and scores stay float32, and in bfloat16 E_glo's first blocks, too (on a GPU TF32)."""

    def __post_init__(self):
        require(0 <= self.psnr_weight <= 1, "lambda (score.psnr_weight)", self.psnr_weight, "0 to 1")
        require(0 <= self.gamma < math.inf, "gamma (score.gamma)", self.gamma, "a number, 0 or more")
        require(0 <= self.smoothing <= 1000, "score.smoothing", self.smoothing, "a number of frames, 0 to 1000")
        require(self.calibration >= 0, "score.calibration", self.calibration, "0 or more")
        require(self.batch_size >= 1, "score.batch_size", self.batch_size, "1 or more")


@dataclass(frozen=True)
class Config:
    """All of it. Defaults are the published ones for Ped2."""

    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)

    def __post_init__(self):
        require(0 <= self.seed < 2**63, "seed", self.seed, "0 or more, and below 2^63")


KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
NULLABLE = ("data.cache", "train.max_steps")
SECTIONS = {f.name: f.default_factory for f in fields(Config) if f.name != "seed"}


def require(ok: bool, knob: str, value: object, range_: str) -> None:
    """Raise UserError when a knob is out of range."""
    if not ok:
        raise UserError(f"{knob} is {value}; it must be {range_}")


def config_parser(description: str, epilog: str = "") -> ArgumentParser:
    """A parser that knows `--config` and every knob; commands add their own arguments to it."""
    parser = ArgumentParser(description=description, epilog=epilog, exit_on_error=False, allow_abbrev=False,
                            parser_mode="plain")
    parser.add_argument("--config", action="config", help="YAML file with any of the knobs below")
    parser.add_argument("--seed", type=int, default=Config.seed,
                        help="Seed of the weights, the memory items and the order of the windows.")
    for name, section in SECTIONS.items():
        parser.add_class_arguments(section, name)
    return parser


def parse(parser: ArgumentParser, argv: list[str]) -> tuple[Config, Namespace]:
    """Command line -> the configuration, and a namespace with the command's own arguments.

    Raises UserError with one sentence for unknown names, wrong types and values out of range.
    """
    try:
        args = parser.parse_args(argv)
    except ArgumentError as error:
        raise UserError(explain(parser, str(error), files_in(argv))) from None
    except UnicodeDecodeError as error:
        raise UserError(f"config {files_in(argv)}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    return to_config(parser, args), args


def load_config(path: str | Path) -> Config:
    """A config file over the defaults; UserError as in `parse`."""
    return parse(config_parser(""), ["--config", str(path)])[0]


def config_from_dict(raw: dict) -> Config:
    """The inverse of `dataclasses.asdict`, checked like a config file; UserError when it does not fit."""
    parser = config_parser("")
    try:
        return to_config(parser, parser.parse_object(raw))
    except ArgumentError as error:
        raise UserError(explain(parser, str(error))) from None


def to_config(parser: ArgumentParser, args: Namespace) -> Config:
    """Build the frozen dataclasses from parsed arguments."""
    for name in SECTIONS:
        if not isinstance(args[name], Namespace):
            raise UserError(f"section '{name}' of the config holds {args[name]!r}; it must hold `knob: value` lines")
    for name in ("seed", *(f"{name}.{knob.name}" for name, section in SECTIONS.items() for knob in fields(section))):
        if args[name] is None and name not in NULLABLE:
            raise UserError(f"{name} is null; give it a value")
    sections = parser.instantiate(args)
    return Config(seed=args.seed, **{name: sections[name] for name in SECTIONS})


def flatten(nested: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def to_yaml(config: Config) -> str:
    """The configuration as a file that `--config` reads."""
    return yaml.safe_dump(asdict(config), sort_keys=False)


def files_in(argv: list[str]) -> str:
    """The config files named on a command line."""
    words = [word for arg in argv for word in (arg.split("=", 1) if arg.startswith("--config=") else [arg])]
    return ", ".join(value for flag, value in zip(words, words[1:]) if flag == "--config")


def explain(parser: ArgumentParser, message: str, files: str = "") -> str:
    """Jsonargparse's message on one line, with the nearest known names where a name is unknown."""
    message = " ".join(message.split())
    if message.startswith(("Problems parsing config", "Unexpected config")):
        return f"config {files}: no YAML file of sections with `knob: value` lines ({message})"
    if wrong := re.search(r'Parser key "(.+?)": Expected an? (.+?)\. Got value: (.*)', message):
        kind = re.sub(r"<class '(\w+)'>|typing\.Literal(\[.*\])", r"\1\2", wrong[2])
        choices = [text or number for text, number in re.findall(r"'(.*?)'|(\d+)", kind)]        # of a Literal
        kind = " or ".join(choices) or KINDS.get(kind, kind)
        return f"{wrong[1]} is {wrong[3]}; it must be {kind}"
    unknown = re.search(r"Group '(.+?)' does not accept option '(.+?)'|[Uu]nrecognized arguments: (--\S+)|"
                        r"Option '(.+?)' is not accepted", message)
    if not unknown:
        return message
    name = ".".join(filter(None, unknown.groups()))
    typed = name.startswith("--")             # else it stands in a file
    known = [one for action in parser._actions for one in (action.option_strings if typed else [action.dest])]
    known += getattr(parser, "short_forms", ()) if typed else ()
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ";"
    return f"unknown option {name}{hint} `--help` lists all"
