"""Files, signals, facts of the machine, progress display and collectives. (imports torch only when it is used)"""
