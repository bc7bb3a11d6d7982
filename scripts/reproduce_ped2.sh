#!/bin/sh
# LGN-Net on UCSD Ped2 as published, from the frames to results/ped2_lgn_seed<S>.json, in as many pieces as it takes:
#   scripts/reproduce_ped2.sh --seed 0 --dataset_path DATA --minutes 9
# Exit status: 0 complete; 75 stopped by --minutes or a signal, give the same command again; --help for the rest.
exec "${PYTHON:-python}" "$(dirname "$0")/run_plan.py" --reproduce "$@"
