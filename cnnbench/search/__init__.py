"""Architecture search: joint with the weights, or random."""
