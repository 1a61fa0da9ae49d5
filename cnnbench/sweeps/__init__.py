"""What is due, and where it runs: one run, sweeps, tunings and ladders; workers, Slurm and Ray."""
