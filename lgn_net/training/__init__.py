"""One training step, a run's folder, and checkpoints."""
