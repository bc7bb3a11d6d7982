"""What the commands share on the command line: the base configuration, and the authors' flags."""

import argparse
from dataclasses import asdict
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from lgn_net.config import Config, config_from_dict, config_parser, flatten, parse
from lgn_net.datasets import canonical_name
from lgn_net.errors import UserError
from lgn_net.files import ROOT
from lgn_net.scores.evaluation import results_beside

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
    parser.add_argument("--labels", help="Label file (.npy, .mat, .m, .json, .csv) or folder of <video>.npy; default: "
                                         "beside the frames, or those that ship with the project.")


def parse_command(parser: ArgumentParser, argv: list[str]) -> tuple[Config, Namespace]:
    """Command line -> configuration and arguments.

    The configuration starts from the one inside the file of `--resume` or `--checkpoint`, or in the results.json beside
    that of `--scores`, else from the defaults; then come `--config` (or configs/X.yaml for `--dataset_type X`, and the
    hyper-parameters of the system in the file of `--model_dir`) and single knobs. `--model.name X` stands for
    `--config configs/family/X.yaml`, unless the configuration is a checkpoint's and no `--config` hides what it says.
    UserError as in `config.parse`.
    """
    argv = [ALIASES.get(flag, flag) + equals + value for flag, equals, value in (arg.partition("=") for arg in argv)]
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--config", "--resume", "--checkpoint", "--scores", "--data.dataset", "--model_dir"):
        peek.add_argument(flag, nargs="?")
    given = vars(peek.parse_known_args(argv)[0])
    saved = None
    if source := given["resume"] or given["checkpoint"]:
        from lgn_net.training.checkpoint import load_checkpoint  # only now: torch takes seconds to load
        parser.set_defaults(flatten(asdict(load_checkpoint(source)[0])))
    elif given["scores"] and {"config", "scoring"} & (saved := results_beside(given["scores"])).keys():
        try:
            scoring = {f"score.{knob}": value for knob, value in saved.get("scoring", {}).items()}
            parser.set_defaults(flatten(asdict(config_from_dict(saved.get("config", {})))) | scoring)
        except UserError as error:
            raise UserError(f"results.json beside {given['scores']} was written by another version of this project: "
                            f"{error}") from None
    elif not given["config"]:
        named = given["data.dataset"] and not (given["scores"] and not has_config(given["data.dataset"]))
        files = [config_of(given["data.dataset"])] if named else []
        if given["model_dir"]:
            from lgn_net.official import official_system

            files.append(family_file(official_system(given["model_dir"])))
        argv = [*(f"--config={file}" for file in files), *argv]
    return parse(parser, argv if (source or saved) and not given["config"] else with_family_files(argv))


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
