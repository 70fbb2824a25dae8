"""The command line as a program: `vggfeat`, `python -m vggfeat`, or `torchrun -m vggfeat`."""

import sys

INTERRUPTED = 130
"""As in `vggfeat.cli.exit_codes`, which an interrupt may have kept from being imported."""


def main() -> None:
    """Runs the command line; Ctrl-C while Python imports it ends as Ctrl-C ends a command."""
    try:
        from vggfeat.system.streams import settle

        settle()
        from vggfeat.cli import main as run
    except KeyboardInterrupt:
        print("vggfeat: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
