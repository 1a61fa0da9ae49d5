"""Statistics, contestants and verdicts, and the ledgers of tunings and ladders."""
