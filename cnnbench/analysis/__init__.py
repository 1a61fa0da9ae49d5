"""Statistics, contestants and verdicts. (imports no torch)"""
