"""What the command line's exit codes mean (README, "Commands")."""

DONE = 0
FAILED = 1
USAGE = 2
SKIPPED = 3
"""Done, but some images were skipped."""
INTERRUPTED = 130
