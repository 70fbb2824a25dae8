"""glibc's heap, in child processes: which memory counts as freed."""

import subprocess
import sys

import pytest

from vggfeat.system import memory

pytestmark = pytest.mark.skipif(
    memory._LIBRARY is None or sys.platform != "linux", reason="needs glibc's heap and /proc"
)

LARGE = 300 << 20


def run(*lines: str) -> list[int]:
    """The numbers that these lines print."""
    code = "\n".join(
        ("import numpy as np", "from vggfeat.system import memory", "surplus = memory._resident_beyond_use", *lines)
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return list(map(int, done.stdout.split()))


@pytest.mark.parametrize("keep", [False, True], ids=["mapped beside the heap", "in the heap"])
def test_memory_in_use_is_no_surplus(keep: bool) -> None:
    """Such as the weights of a net, loaded before or after `keep_freed_memory`."""
    before, after = run(
        "memory.keep_freed_memory()" if keep else "",
        "print(surplus(memory._LIBRARY))",
        f"used = np.ones({LARGE}, dtype=np.uint8)",
        "print(surplus(memory._LIBRARY))",
    )
    assert abs(after - before) < LARGE // 10


def test_freed_memory_is_a_surplus_until_it_is_released() -> None:
    before, freed, kept, released = run(
        "memory.keep_freed_memory()",
        "print(surplus(memory._LIBRARY))",
        f"used = np.ones({LARGE}, dtype=np.uint8)",
        "on_top = np.ones(1000)",
        "del used",
        "print(surplus(memory._LIBRARY))",
        f"memory.release_free_memory(beyond={2 * LARGE})",
        "print(surplus(memory._LIBRARY))",
        f"memory.release_free_memory(beyond={LARGE // 2})",
        "print(surplus(memory._LIBRARY))",
    )
    assert freed - before > 0.9 * LARGE
    assert kept == pytest.approx(freed, abs=LARGE / 10)
    assert released - before < LARGE // 10


@pytest.mark.parametrize(("ended", "kept"), [(1, True), (2, False)], ids=["one is running", "both have ended"])
def test_what_a_program_frees_goes_back_to_the_system_when_the_last_extraction_has_ended(
    ended: int, kept: bool
) -> None:
    """Its own large arrays too: else the process would hold for ever the most that it ever had."""
    before, freed = run(
        *["memory.keep_freed_memory()"] * 2,
        *["memory.keep_no_longer()"] * ended,
        "print(surplus(memory._LIBRARY))",
        f"used = np.ones({LARGE}, dtype=np.uint8)",
        "on_top = np.ones(1000)",
        "del used",
        "print(surplus(memory._LIBRARY))",
    )
    assert (freed - before > LARGE // 2) == kept
