"""`python -m cnnbench`."""

import sys

from cnnbench.cli.command_line import main

sys.exit(main())
