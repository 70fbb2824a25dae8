"""The command line's exit codes."""

DONE = 0
FAILED = 1
USAGE = 2
SKIPPED = 3
"""Done, but some images were skipped."""
INTERRUPTED = 130
