"""Measure speed on this machine: see `lgn_net/benchmark.py`, or --help."""

from lgn_net.benchmark import main
from lgn_net.terminal import run_command

if __name__ == "__main__":
    run_command(main)
