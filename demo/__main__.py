"""The command line ``python -m demo``."""

import sys

from exporter import cli

COMMANDS = {
    "up": cli.Command(
        "demo.up",
        "run the complete stack on this machine",
        "Run the exporter, Prometheus, Alertmanager, Grafana and the demo on this machine, until Ctrl-C.",
        "python -m demo up --no-demo",
        "demo/README.md",
    ),
    "run": cli.Command(
        "demo.run",
        "run a model service with simulated users and incidents",
        "Run a model service with simulated users, and incidents that the alerts detect.",
        "python -m demo run --incident=dark",
        "demo/README.md",
    ),
}
PROGRAM = cli.Program(
    "python -m demo",
    "The demo of model-exporter: a model service with simulated users, and the complete stack on one machine.",
    "python -m demo up",
    "demo/README.md",
    COMMANDS,
)

if __name__ == "__main__":
    sys.exit(cli.main(program=PROGRAM))
