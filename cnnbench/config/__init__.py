"""Configs: their schema, their composition from the command line, and the classes that they name."""
