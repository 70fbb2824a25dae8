"""How much a file of a given size can hold."""

MAX_DEFLATE = 1032
"""Deflate shrinks nothing further: a file that claims more is made to fill the memory."""
