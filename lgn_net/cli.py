"""What the commands share on the command line: the base configuration, and the authors' flags."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from lgn_net.config import Config, config_parser, flatten, parse
from lgn_net.datasets import canonical_name
from lgn_net.errors import UserError
from lgn_net.files import ROOT

# Flags of the paper and of the authors' README, and the knobs they set.
ALIASES = {
    "--dataset_type": "--data.dataset",
    "--label_source": "--data.label_source",
    "--loss_compact": "--loss.compactness",
    "--loss_separate": "--loss.separateness",
    "--msize": "--model.memory_items",
    "--lambda": "--score.psnr_weight",
    "--gamma": "--score.gamma",
}


def command_parser(description: str, usage: str, needs_data: bool = True) -> ArgumentParser:
    """Parser with every knob and the arguments all commands have. `usage` is the line above the help."""
    short = "\n".join(f"  {alias:<16} = {knob}" for alias, knob in ALIASES.items())
    parser = config_parser(description, f"Short forms:\n{short}\n--dataset_type X also reads configs/X.yaml, "
                                        f"where no configuration comes from --config or a checkpoint.\n--model.name X "
                                        f"also reads configs/family/X.yaml at its place, except on top of a bare "
                                        f"checkpoint.")
    parser.short_forms = tuple(ALIASES)
    parser.usage = f"{usage} [--section.knob VALUE ...]"
    parser.formatter_class = type("Help", (parser.formatter_class, argparse.RawDescriptionHelpFormatter), {})
    parser.add_argument("--dataset_path", required=needs_data,
                        help="Folder that holds the data set's folder, or that folder itself.")
    parser.add_argument("--device", default="auto", help="cuda, cuda:1, mps or cpu; auto takes the first there is.")
    return parser


def network_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that name a trained network and the labels of what it scores."""
    parser.add_argument("--checkpoint", help="Checkpoint written by train.py or scripts/import_official.py.")
    parser.add_argument("--model_dir", help="Instead of --checkpoint: the authors' <n>model.pth.")
    parser.add_argument("--m_items_dir", help="The authors' <n>keys.pt that belongs to --model_dir.")
    label_argument(parser)


def label_argument(parser: ArgumentParser) -> None:
    """Add the argument that names the labels."""
    parser.add_argument("--labels", help="Label file (.npy, .mat, .m, .json, .csv) or folder of <video>.npy; default: "
                                         "beside the frames, or those that ship with the project.")


def measuring_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that say how scores are measured, and with which other scores they are compared."""
    parser.add_argument("--compare", help="A second file of scores: the difference, with a paired bootstrap over the "
                                          "videos.")
    parser.add_argument("--direction", choices=["normal", "abnormal"],
                        help="What a high score means, for scores of another program.")
    parser.add_argument("--drop-first", type=int,
                        help="With --direction: the first K frames of each video have no score.")
    parser.add_argument("--crop", help="With --direction: the scores are of these frames of each video, such as 8:-7.")
    parser.add_argument("--protocol", choices=["all", "paper"], default="all",
                        help="all: the AUC under every protocol, too; paper: the headline only.")


def given(argv: list[str], *flags: str) -> bool:
    """Tell whether one of some flags stands on the command line."""
    return any(word.partition("=")[0] in flags for word in argv)


def given_values(argv: list[str], *flags: str) -> dict[str, str | None]:
    """Look up the values of some flags before the command line is parsed; None for those that are not there."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in flags:
        peek.add_argument(flag, nargs="?", dest=flag)
    return vars(peek.parse_known_args(argv)[0])


def parse_command(parser: ArgumentParser, argv: list[str], saved: Mapping[str, object] | None = None) \
        -> tuple[Config, Namespace]:
    """Turn the command line into configuration and arguments.

    The configuration starts from the one inside the file of `--resume` or `--checkpoint`, or from `saved`, else from
    the defaults; then come `--config` (or configs/X.yaml for `--dataset_type X`, and the hyper-parameters of the system
    in the file of `--model_dir`) and single knobs. `--model.name X` stands for `--config configs/family/X.yaml`, unless
    the configuration is a checkpoint's and no `--config` hides what it says.

    Args:
        parser: with all of the command's arguments.
        argv: the command line.
        saved: the knobs, such as "score.gamma", of the evaluation whose scores are measured; {} where they are
            unknown, and None where no scores are measured. With scores, a data set needs no configuration file.

    Raises:
        UserError: as in `config.parse`.
    """
    argv = [ALIASES.get(flag, flag) + equals + value for flag, equals, value in (arg.partition("=") for arg in argv)]
    values = given_values(argv, "--config", "--resume", "--checkpoint", "--data.dataset", "--model_dir")
    dataset = values["--data.dataset"]
    if source := values["--resume"] or values["--checkpoint"]:
        from lgn_net.training.checkpoint import load_checkpoint  # only now: torch takes seconds to load
        parser.set_defaults(flatten(asdict(load_checkpoint(source)[0])))
    elif saved:
        parser.set_defaults(dict(saved))
    elif not values["--config"]:
        files = [config_of(dataset)] if dataset and (saved is None or has_config(dataset)) else []
        if values["--model_dir"]:
            from lgn_net.official import official_system

            files.append(family_file(official_system(values["--model_dir"])))
        argv = [*(f"--config={file}" for file in files), *argv]
    return parse(parser, argv if (source or saved) and not values["--config"] else with_family_files(argv))


def family_file(name: str) -> Path:
    """configs/family/<name>.yaml of this project, which need not exist."""
    return ROOT / "configs" / "family" / f"{name}.yaml"


def with_family_files(argv: list[str]) -> list[str]:
    """`--model.name X` -> `--config configs/family/X.yaml`, which names X, too. Unknown names stay, to be refused."""
    argv = [word for arg in argv for word in (arg.split("=", 1) if arg.startswith("--model.name=") else [arg])]
    known = {path.stem for path in family_file("").parent.glob("*.yaml")}
    for k, (flag, name) in enumerate(zip(argv, argv[1:])):
        if flag == "--model.name" and name in known:
            argv[k:k + 2] = ["--config", str(family_file(name))]
    return argv


def has_config(dataset: str) -> bool:
    """Whether configs/<dataset>.yaml is there."""
    return (ROOT / "configs" / f"{canonical_name(dataset)}.yaml").is_file()


def config_of(dataset: str) -> Path:
    """configs/<dataset>.yaml of this project. UserError when there is none."""
    path = ROOT / "configs" / f"{canonical_name(dataset)}.yaml"
    if not has_config(dataset):
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise UserError(f"no configuration for data set {dataset} (known: {known}); give one with --config FILE")
    return path
