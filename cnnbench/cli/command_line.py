"""The command `cnnbench` and its exit codes."""

import errno
import io
import signal
import sys

from cnnbench.errors import CnnbenchError, ConfigError, nearest
from cnnbench.runtime.text import legible


def main(words: list[str] | None = None) -> int:
    """Carries out the command `cnnbench`.

    Args:
        words: what is typed after `cnnbench`; None takes the arguments of the process.

    Returns:
        The exit code: 0 done, 1 failed, 2 bad config or data, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP.
    """
    words = sys.argv[1:] if words is None else words
    for stream in (sys.stdout, sys.stderr):  # an encoding such as ASCII lacks most signs
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    for ending in (signal.SIGTERM, signal.SIGHUP):  # a terminal that is closed sends the second one, but for `nohup`
        if signal.getsignal(ending) is not signal.SIG_IGN:
            signal.signal(ending, lambda signum, _: sys.exit(128 + signum))
    try:
        from cnnbench.cli.commands import COMMANDS  # here, so that Ctrl-C during an import gets one line too
        from cnnbench.cli.training_commands import train

        if words and words[0] in COMMANDS:
            return COMMANDS[words[0]](words[1:])
        if words and "=" not in words[0] and not words[0].startswith(("-", "~")):
            raise ConfigError(
                f"{words[0] or repr('')}: neither a command nor KEY=VALUE.{nearest(words[0], list(COMMANDS))}"
            )
        return train(words)
    except CnnbenchError as error:
        print(f"cnnbench: {legible(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("cnnbench: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except RuntimeError as error:
        if "home directory" not in str(error):  # pathlib's, for a path that begins with ~
            raise
        print("cnnbench: ~: nobody knows your home directory here. Set HOME, or write the whole path.", file=sys.stderr)
        return 2
    except OSError as error:
        place = f"{legible(str(error.filename))}: " if error.filename else ""
        print(f"cnnbench: {place}{error.strerror or error}", file=sys.stderr)
        return 2 if error.errno == errno.ENAMETOOLONG else 1
