"""Turn the authors' pair of files, <n>model.pth and <n>keys.pt, into one checkpoint.

    python scripts/import_official.py MODEL.pth KEYS.pt --out lgn_ped2.pt
    python evaluate.py --checkpoint lgn_ped2.pt --dataset_path DATA
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lgn_net.checkpoint import save_checkpoint
from lgn_net.cli import config_of
from lgn_net.config import load_config
from lgn_net.errors import UserError
from lgn_net.model.official import import_official
from lgn_net.terminal import run_command


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the authors' <n>model.pth, a state_dict")
    parser.add_argument("items", nargs="?", metavar="keys", help="the <n>keys.pt that belongs to it, the memory items")
    parser.add_argument("--out", required=True, help="checkpoint to write")
    parser.add_argument("--config", default=config_of("ped2"),
                        help="configuration whose data set and scoring go into the checkpoint (default: configs/ped2.yaml)")
    args = parser.parse_args(argv)
    if Path(args.out).exists():
        raise UserError(f"{args.out} exists already; choose another --out, or delete it")
    config, state = import_official(load_config(args.config), args.model, args.items)
    save_checkpoint(args.out, config, state, imported_from=[args.model, args.items])
    model = config.model
    print(f"{args.out}: LGN-Net, {model.input_frames} frames of {config.data.channels} channels, width {model.base_width}, "
          f"{model.lstm_layers} ST-LSTM layers of {model.hidden_width}, {model.memory_items} memory items; scored as "
          f"{config.data.dataset}")


if __name__ == "__main__":
    run_command(main)
