"""Files, signals, facts of the machine, the progress display, and collectives of several processes."""
