"""The command line."""

from cnnbench.cli.command_line import main

__all__ = ["main"]
