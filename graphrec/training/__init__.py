"""Training: one loop, its checkpoints and its run directory."""
