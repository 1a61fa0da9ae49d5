"""One training: module, optimizers, schedules, regularizers, checkpoints and loggers."""
