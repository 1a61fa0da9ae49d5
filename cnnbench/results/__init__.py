"""Records of runs: their fields, their identity, and how they are found and read."""
