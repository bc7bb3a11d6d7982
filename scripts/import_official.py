"""Turn the pair of files that the authors of LGN-Net or MNAD publish, <n>model.pth and <n>keys.pt, into one checkpoint.

    python scripts/import_official.py MODEL.pth KEYS.pt --out lgn_ped2.pt
    python evaluate.py --checkpoint lgn_ped2.pt --dataset_path DATA

configs/ped2.yaml, and for MNAD its own lambda and gamma, go into it, or --config.
"""

from lgn_net.cli import Parser, knob_parser, parse, show_help

PARSER = Parser(__doc__)
PARSER.add_argument("model", help="the authors' <n>model.pth, a state_dict")
PARSER.add_argument("items", nargs="?", metavar="keys", help="the <n>keys.pt that belongs to it, its memory items")
PARSER.add_argument("--out", required=True, help="checkpoint to write")
PARSER.add_argument("--config", help="configuration whose data set and scoring go into the checkpoint")
show_help(__name__, PARSER)     # before slow imports

from lgn_net.files import ROOT
from lgn_net.official import SYSTEMS, import_official, load_unwrapped, official_system
from lgn_net.terminal import run_command
from lgn_net.training.checkpoint import save_checkpoint


def main(argv: list[str]) -> None:
    """Import the pair."""
    args = PARSER.parse_args(argv)
    system = ROOT / f"configs/family/{official_system(load_unwrapped(args.model))}.yaml"
    files = [args.config] if args.config else [ROOT / "configs/ped2.yaml", system]
    config, _ = parse(knob_parser(), [f"--config={file}" for file in files])
    config, state = import_official(config, args.model, args.items)
    save_checkpoint(args.out, config, state, imported_from=[args.model, args.items])
    print(f"{args.out}: {SYSTEMS[config.model.name]}, scored as {config.data.dataset}, lambda "
          f"{config.score.psnr_weight:g}, gamma {config.score.gamma:g}")


if __name__ == "__main__":
    run_command(main)
