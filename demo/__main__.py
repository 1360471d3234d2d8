"""The demo of model-exporter: a model service with simulated users, and the complete stack on one machine.

Example::

    python -m demo up

See demo/README.md.
"""

import sys

from exporter import cli

COMMANDS = {
    "up": ("up", "run the complete stack on this machine"),
    "run": ("run", "run a model service with simulated users and incidents"),
}
PROGRAM = cli.Program("python -m demo", __doc__, "demo", COMMANDS)

if __name__ == "__main__":
    sys.exit(cli.main(program=PROGRAM))
