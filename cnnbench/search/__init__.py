"""Joint and random architecture search."""
