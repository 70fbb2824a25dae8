"""The command line as a module: `python -m vggfeat`, or `torchrun -m vggfeat`."""

from vggfeat.cli import main

if __name__ == "__main__":
    main()
