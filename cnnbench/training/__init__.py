"""The training of a network: its parts, its life, its checkpoints and its loggers."""
