#!/bin/sh
# LGN-Net on UCSD Ped2 as published, in as many pieces as it takes; DATA/ped2 comes from scripts/prepare_data.py:
#   scripts/reproduce_ped2.sh --dataset_path DATA [--seed 1] [--rows MNAD-Pred] [--minutes 9]
# Exit status: 0 complete; 75 stopped by --minutes, give the same command again; --help for the rest.
here=$(dirname "$0")
exec "${PYTHON:-python}" "$here/run_plan.py" --plan "$here/../plans/reproduce_ped2.yaml" --dataset_path data \
    --exp_dir runs/reproduce_ped2 --rows LGN-Net --seeds 0 --every 5 "$@"
