"""What the commands share on the command line: knobs from files and flags, and the authors' flags.

jsonargparse reads types, defaults and help from the dataclasses of `lgn_net.config`, and rejects unknown keys and wrong
types. A file is given with `--config FILE`, a single knob with `--section.name VALUE`.
"""

import argparse
import difflib
import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import yaml
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace
from jsonargparse.typing import ClosedUnitInterval

import lgn_net
from lgn_net.config import Config, flatten, require
from lgn_net.datasets import canonical_name
from lgn_net.errors import UserError
from lgn_net.files import ROOT

# Flags of the paper, of the authors' README, and of the scripts of LGN-Net and MNAD, and the knobs they set.
ALIASES = {
    "--dataset_type": "--data.dataset",
    "--label_source": "--data.label_source",
    "--loss_compact": "--loss.compactness",
    "--loss_separate": "--loss.separateness",
    "--msize": "--model.memory_items",
    "--lambda": "--score.psnr_weight",
    "--alpha": "--score.psnr_weight",
    "--gamma": "--score.gamma",
    "--th": "--score.gamma",
    "--batch_size": "--train.batch_size",
    "--test_batch_size": "--score.batch_size",
    "--epochs": "--train.epochs",
    "--lr": "--train.lr",
    "--num_workers": "--data.workers",
    "--c": "--data.channels",
    "--h": "--data.image_size",
}
# Their other flags, and those of this project's other commands, with what to give instead.
INSTEAD = {
    "--gpus": "choose one GPU by --device cuda:1, several by torchrun (docs/scale.md)",
    "--method": "choose the network by --model.name lgn_net, mnad_pred (their pred) or mnad_recon (their recon)",
    "--t_length": "give --model.input_frames, which is one less: the frames before the predicted one",
    "--w": "leave it out; frames become squares, of --data.image_size",
    "--fdim": "give --model.base_width; features are 8 times as deep, 512 by default",
    "--mdim": "give --model.base_width; memory items are 8 times as deep, 512 by default",
    "--num_workers_test": "leave it out; --data.workers threads decode test frames, too",
    "--checkpoint_path": "give --exp_dir RUN, the folder of the run",
    "--checkpoint": "evaluate.py takes it; train.py --exp_dir RUN, with --resume auto to go on or --init_from CKPT",
    "--model_dir": "evaluate.py takes the pair; train.py --init_from CKPT, made by scripts/import_official.py",
    "--m_items_dir": "evaluate.py takes the pair; train.py --init_from CKPT, made by scripts/import_official.py",
    "--exp_dir": "train.py takes it; for others name the run by --checkpoint RUN, the results by --out FOLDER",
}
# The knobs that people turn; --help shows these alone, --help-all all of them.
COMMON = {"data.dataset", "model.name", "model.memory", "model.read_grad", "loss.compactness", "loss.separateness",
          "train.epochs", "train.batch_size", "train.lr", "train.precision", "data.label_source", "score.psnr_weight",
          "score.gamma", "score.memory_update", "score.normalize", "score.smoothing", "score.precision"}
# Knobs of earlier versions, with the value at which they meant what is now always so; and words of earlier versions.
RETIRED = {"model.read_temperature": 1.0, "model.ema": 0.0, "model.skips": False, "train.sync_batch_norm": True}
RENAMED = {("score.memory_update", "off"): "frozen"}
SECTIONS = {name: type(section) for name, section in vars(Config()).items() if name != "seed"}

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
load_any_yaml = jsonargparse.get_loader("yaml")


def load_yaml(text: str, load: Callable[[str], Any] = load_any_yaml) -> Any:
    """Read YAML of the kind that knobs need. YAMLError for aliases, which may grow without end, and for monsters."""
    depth = 0
    for event in yaml.parse(text):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > 9 or len(getattr(event, "value", None) or "") > 4000:
            raise yaml.YAMLError("aliases, deep nesting and words of thousands of letters are not read")
    return load(text)


jsonargparse.set_loader("yaml", load_yaml, (yaml.YAMLError,))


class Parser(argparse.ArgumentParser):
    """The arguments of a command without knobs; UserError for what it does not know and what is missing."""

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
                         allow_abbrev=False)

    def parse_args(self, argv: list[str]) -> argparse.Namespace:  # type: ignore[override]
        """Read the words of a command line."""
        check_flags(self, separate(argv))
        return super().parse_args(argv)

    def error(self, message: str) -> NoReturn:
        """Say what argparse found."""
        raise UserError(message)


class Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The help of a command: its description line by line, and no types, which the values show."""

    def _get_type_str(self, action: argparse.Action) -> None:
        """Leave the type out."""

    def _get_help_string(self, action: argparse.Action) -> str:
        """Leave out the default where there is none."""
        return super()._get_help_string(action) if action.required or action.default is not None else str(action.help)


def config_parser() -> ArgumentParser:
    """Make a parser that knows `--config` and every knob, in a tenth of a second; commands add their own arguments."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the knobs below")
    parser.add_argument("--seed", type=int, default=Config.seed, help="Seed of weights, items and window order.")
    for name, section in SECTIONS.items():
        parser.add_class_arguments(section, name)
    return parser


def parse(parser: ArgumentParser, words: list[str] | dict) -> tuple[Config, Namespace]:
    """Read a command line, or a dictionary of knobs: the configuration, and all arguments; UserError for mistakes."""
    try:
        args = parser.parse_object(words) if isinstance(words, dict) else parser.parse_args(words)
        for name in SECTIONS:
            require(isinstance(args[name], Namespace), name, args[name], "a section of `knob: value` lines")
        sections = parser.instantiate(args)
    except (ArgumentError, UnicodeDecodeError, OverflowError) as error:
        raise UserError(" ".join(str(error).split())[:400]) from None
    return Config(seed=args.seed, **{name: sections[name] for name in SECTIONS}), args


def config_from_dict(raw: dict) -> Config:
    """Undo `dataclasses.asdict`, checked like a config file; knobs and words of earlier versions are understood."""
    knobs = {}
    for knob, value in flatten(raw).items():
        if knob not in RETIRED:
            knobs[knob] = RENAMED.get((knob, value), value) if isinstance(value, str) else value
        elif value != RETIRED[knob]:
            raise UserError(f"{knob} is {value}; this version knows it only as {RETIRED[knob]}; use version 0.1.0")
    return parse(knob_parser(), knobs)[0]


knob_parser = functools.cache(config_parser)                    # for knobs alone


def command_parser(description: str | None, usage: str, needs_data: bool = True) -> ArgumentParser:
    """Make a parser with every knob and the arguments that all commands have, with `usage` above its help."""
    parser, short = config_parser(), "\n".join(f"  {alias:<18} = {knob}" for alias, knob in ALIASES.items())
    parser.usage, parser.description, parser.formatter_class = f"{usage} [--section.knob VALUE ...]", description, Help
    parser.epilog = (f"Short forms:\n{short}\n--dataset_type X also reads configs/X.yaml, where no configuration comes "
                     f"from --config or a checkpoint.\n--model.name X also reads configs/family/X.yaml, except on top "
                     f"of a bare checkpoint.")
    parser.add_argument("--dataset_path", required=needs_data,
                        help="Folder that holds the data set's folder, or that folder itself.")
    parser.add_argument("--device", default="auto", help="cuda, cuda:1, mps or cpu; auto takes the first there is.")
    return parser


def show_help(module: str, parser: argparse.ArgumentParser, *sections: str) -> None:
    """Answer `--help`, `--help-all` or `--version` and exit, where a command that is run is asked for one.

    Its `module` calls this before it imports torch or matplotlib, which take seconds. `--help` shows its own arguments
    and the knobs of `sections` that people turn, `--help-all` everything.
    """
    if module != "__main__" or not {"-h", "--help", "--help-all", "--version"} & {*sys.argv}:
        return
    if "--version" in sys.argv:
        print(f"LGN-Net {lgn_net.__version__}")
        sys.exit()
    everything = "--help-all" in sys.argv
    if sections and not everything:
        parser.epilog = "These are the knobs that people turn; --help-all shows all of them, and the short forms."
    for action in parser._actions if sections else ():
        section = action.dest.partition(".")[0]
        rare = section in SECTIONS and not (section in sections and action.dest in COMMON)
        if action.dest in (*SECTIONS, "print_config") or (rare and not everything):
            action.help = argparse.SUPPRESS
    parser.print_help()
    sys.exit()


def network_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that name a trained network."""
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--checkpoint", help="Checkpoint written by train.py or scripts/import_official.py.")
    network.add_argument("--model_dir", help="Instead of --checkpoint: the authors' <n>model.pth.")
    parser.add_argument("--m_items_dir", help="The authors' <n>keys.pt that belongs to --model_dir.")


def label_argument(parser: ArgumentParser) -> None:
    """Add the argument that names the labels."""
    parser.add_argument("--labels", help="Label file (.npy, .mat, .m, .json, .csv) or folder of <video>.npy; default: "
                                         "beside the frames, or those that ship with the project.")


def measuring_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that say with which labels scores are measured and how, and with what they are compared."""
    label_argument(parser)
    parser.add_argument("--compare", help="A second file of scores: the difference, by a paired bootstrap over videos.")
    parser.add_argument("--direction", choices=["normal", "abnormal"],
                        help="What a high score means, for scores of another program.")
    parser.add_argument("--drop-first", type=int, help="With --direction: the first K frames of a video have no score.")
    parser.add_argument("--crop", help="With --direction: the scores are of these frames of each video, such as 8:-7.")
    parser.add_argument("--false_positive_rate", type=ClosedUnitInterval, default=0.05,
                        help="Report the threshold with so many false alarms, a share of the normal frames.")
    parser.add_argument("--protocol", choices=["all", "paper"], default="all",
                        help="all: the AUC under every protocol, too; paper: the headline only.")


def given(argv: list[str], flag: str) -> bool:
    """Tell whether a flag, or a short form of it, stands on the command line."""
    return any(flag in (word, ALIASES.get(word)) for word in separate(argv))


def parse_command(parser: ArgumentParser, argv: list[str],
                  saved: Mapping[str, object] | None = None) -> tuple[Config, Namespace]:
    """Read a command line: the configuration and the command's own arguments. UserError as in `parse`.

    What the configuration is made of, later ones win:

    1. the defaults of `lgn_net.config`, or what the checkpoint of `--resume` or `--checkpoint` holds, or `saved`: the
       knobs of the evaluation whose scores are measured, {} where they are unknown;
    2. the files of `--config`; without these and without 1, configs/X.yaml for `--dataset_type X` (which need not exist
       where scores are measured), and the hyper-parameters of the system in the file of `--model_dir`;
    3. configs/family/X.yaml for `--model.name X`, unless 1 stands without `--config`;
    4. single knobs.
    """
    words = separate(argv)
    check_flags(parser, words)
    words = [ALIASES.get(word, word) for word in words]
    words = [RENAMED.get((flag.removeprefix("--"), word), word) for flag, word in zip(["", *words], words)]
    pairs = [*zip(words, [*words[1:], ""])]                                 # each flag with its value, and other pairs
    files, chosen = [Path(value) for flag, value in pairs if flag == "--config"], dict(pairs)
    words = [word for flag, word in zip(["", *words], words) if "--config" not in (flag, word)]
    if chosen.get("--resume") == "auto":
        from lgn_net.training.checkpoint import newest_good
        chosen["--resume"] = newest_good(Path(chosen.get("--exp_dir", "")))
        words += ["--resume", chosen["--resume"]]

    base = saved
    if source := chosen.get("--resume") or chosen.get("--checkpoint"):
        from lgn_net.training.checkpoint import load_checkpoint  # only now: measuring scores needs no torch
        base = flatten(asdict(load_checkpoint(source)[0]))
    parser.set_defaults(flatten(asdict(Config())) | dict(base or {}))
    if not base and not files:
        if dataset := chosen.get("--data.dataset"):
            file = ROOT / f"configs/{canonical_name(dataset)}.yaml"
            if file.is_file():
                files.append(file)
            elif saved is None:
                raise UserError(f"data set {dataset} has no file {file}; give --config FILE, such as configs/ped2.yaml")
        if "--model_dir" in chosen:
            from lgn_net.official import load_unwrapped, official_system
            files.append(ROOT / f"configs/family/{official_system(load_unwrapped(chosen['--model_dir']))}.yaml")
    family = ROOT / f"configs/family/{chosen.get('--model.name', '')}.yaml"
    if family.is_file() and (files or not base):
        files = [*files, family]
    return parse(parser, [*(f"--config={file}" for file in files), *words])


def check_flags(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Raise UserError for a flag that the parser does not know, and for one that is missing, with what to give."""
    known = [flag for action in parser._actions for flag in action.option_strings]
    known += [alias for alias, knob in ALIASES.items() if knob in known]
    leaves: dict[str, list[str]] = {}
    for flag in known:
        leaves.setdefault(flag.rpartition(".")[2].strip("-"), []).append(flag)
    for flag in words:
        if flag.startswith("--") and flag not in known:
            leaf = flag.rpartition(".")[2].strip("-").replace("-", "_")
            near = [one for name in difflib.get_close_matches(leaf, leaves) for one in leaves[name]]
            meant = f"did you mean {' or '.join(near[:3])}?" if near else "--help lists all flags"
            raise UserError(f"{flag} is no flag of this command; {INSTEAD.get(flag, meant)}")
    for action in parser._actions:
        if action.required and (flags := action.option_strings) and not {*flags} & {*words}:
            raise UserError(f"{flags[0]} is missing: {action.help}")


def separate(argv: list[str]) -> list[str]:
    """Turn every `--flag=value` into two words."""
    return [word for arg in argv for word in (arg.split("=", 1) if arg.startswith("--") and "=" in arg else [arg])]
