"""The command `cnnbench` and its exit codes."""

import signal
import sys

from cnnbench.cli.commands import COMMANDS
from cnnbench.cli.training_commands import train
from cnnbench.errors import ConfigError, nearest


def main(words: list[str] | None = None) -> int:
    """Carries out the command `cnnbench`.

    Args:
        words: what is typed after `cnnbench`; None takes the arguments of the process.

    Returns:
        The exit code: 0 done, 1 failed, 2 bad config or data, 130 Ctrl-C, 143 SIGTERM.
    """
    words = sys.argv[1:] if words is None else words
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if words and words[0] in COMMANDS:
            return COMMANDS[words[0]](words[1:])
        if words and "=" not in words[0] and not words[0].startswith(("-", "~")):
            raise ConfigError(
                f"{words[0] or repr('')}: neither a command nor KEY=VALUE.{nearest(words[0], list(COMMANDS))}"
            )
        return train(words)
    except ConfigError as error:
        print(f"cnnbench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cnnbench: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        print(f"cnnbench: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 1
