"""Shards of one extraction as tasks of Ray, for clusters without a scheduler.

    pip install ray
    python recipes/ray_shards.py --shards 16 --cpus 2 -o feats.h5 -- --list list.txt --net D --scales 256

What follows `--` goes to `vggfeat extract`. Every task runs `extract --shard I/16 --resume` in a Ray worker; where a
worker or its machine dies, Ray starts the task again, which continues the shard's file, and `merge` joins the files at
the end. On several machines (`--address auto`, after `ray start`) they must share the folder of the output, the images
and the program. The result is that of one process, byte for byte if all processors are of one type and every process
has as many threads, on GPUs to rounding; Ray gives a task as many threads as it has CPUs.

Cost: Ray's own workers take about 0.1 GB each. The rates are those of recipes/cluster.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import ray

import vggfeat
from vggfeat.cli import run
from vggfeat.store.shards import Shard

WRONG_USAGE, SKIPPED = 2, 3
"""`extract`'s exit codes for wrong options, and if some images were skipped."""


def extract_shard(words: list[str], shard: str, output: str) -> bool:
    """Extracts a shard, or continues it; returns whether images were skipped.

    Raises ValueError for wrong options, RuntimeError if it failed otherwise.
    """
    code = run(["extract", *words, "--shard", shard, "--resume", "-o", output])
    if code not in (0, SKIPPED):
        kind = ValueError if code == WRONG_USAGE else RuntimeError
        raise kind(f"vggfeat extract --shard {shard} ended with exit code {code}; its reason stands above")
    return code == SKIPPED


def main() -> int:
    """Runs the shards, then merges them; returns the exit code, 3 if images were skipped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, required=True, metavar="N", help="number of shards")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the file that they become")
    parser.add_argument("--cpus", type=float, default=2, help="CPUs of a task (default: 2)")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of a task (default: 0)")
    parser.add_argument("--retries", type=int, default=5, help="how often a task is started again (default: 5)")
    parser.add_argument("--address", help="the Ray cluster, such as auto (default: start a local one)")
    parser.add_argument("extract", nargs="+", metavar="-- OPTIONS OF vggfeat extract")
    asked = parser.parse_args()

    ray.init(address=asked.address)
    # Failures are retried as well as lost workers: a disk may answer again, and `--resume` keeps what is done.
    again = {"max_retries": asked.retries, "retry_exceptions": [RuntimeError]}
    task = ray.remote(num_cpus=asked.cpus, num_gpus=asked.gpus, **again)
    shards = [Shard(index, asked.shards) for index in range(asked.shards)]
    running = [task(extract_shard).remote(asked.extract, str(shard), asked.output) for shard in shards]
    skipped = any(ray.get(running))
    files = [shard.path(Path(asked.output)) for shard in shards]
    print(vggfeat.merge(files, asked.output, overwrite=True))
    return SKIPPED if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
