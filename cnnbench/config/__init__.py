"""The schema of the configs, their composition from words, and the classes that they name. (imports no torch)"""
