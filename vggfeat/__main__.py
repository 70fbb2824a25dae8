"""`python -m vggfeat`, and what torchrun starts: `torchrun -m vggfeat extract ...`."""

from vggfeat.cli import main

if __name__ == "__main__":
    main()
