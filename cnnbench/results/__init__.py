"""Records: what a run leaves, its identity, and how records are found and read. (imports no torch)"""
