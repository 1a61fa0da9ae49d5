"""The commands."""

from cnnbench.cli.command_line import main

__all__ = ["main"]
