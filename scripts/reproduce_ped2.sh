#!/bin/sh
# LGN-Net on UCSD Ped2 as published, from the frames to results/ped2_lgn_seed<S>.json, in as many pieces as it takes:
#   scripts/reproduce_ped2.sh --seed 0 --dataset_path DATA --minutes 9
# Exit status: 0 complete; 75 stopped by --minutes or a signal, give the same command again; --help for the rest.
here=$(dirname "$0")
exec "${PYTHON:-python}" "$here/run_plan.py" --plan "$here/../plans/reproduce_ped2.yaml" --dataset_path data \
    --exp_dir runs --seeds 0 --every 5 --reproduce "$@"
