"""Runs and where they are computed: single runs, sweeps, tunings and ladders; workers, Slurm and Ray."""
