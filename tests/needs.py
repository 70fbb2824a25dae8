"""What Windows lacks, and so some tests need to be skipped for."""

from __future__ import annotations

import importlib

import pytest


def need(*names: str) -> None:
    """Skips the test where this system has no such module, or no such name in one: `resource`, `os.fork`."""
    for name in names:
        module, _, attribute = name.partition(".")
        try:
            found = importlib.import_module(module)
        except ImportError:
            found = None
        if found is None or (attribute and not hasattr(found, attribute)):
            pytest.skip(f"this system has no {name}")
