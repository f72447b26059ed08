"""`python -m tests.fuzz --cases 100000`: try damaged input by the thousand; every case must end well and in time.

The families share the cases. Cases depend on their number alone, so that `--first N --cases 1` repeats one. The exit
status is 1 if a case ended in a traceback, in a sentence that is none, not within ten seconds of processor time, or
took more than 8 GiB of address space.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import resource
import tempfile
import time
from importlib import import_module
from pathlib import Path

FAMILIES = ("data", "checkpoints", "options", "sampler", "commands")
MEMORY = 8 * 2**30  # bytes
SHOWN = 20  # of the faults of a family


def main() -> int:
    """Try the cases, print what went wrong and a line for each family, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("families", nargs="*", default=[], metavar="FAMILY", help=f"of {', '.join(FAMILIES)}")
    parser.add_argument("--cases", type=int, default=100_000, help="in all (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each family")
    options = parser.parse_args()
    families = options.families or FAMILIES
    if unknown := set(families) - set(FAMILIES):
        parser.error(f"there is no family {', '.join(sorted(unknown))}; the families are {', '.join(FAMILIES)}")
    logging.disable(logging.INFO)
    with contextlib.suppress(ValueError, OSError):  # whatever asks for more fails, and nothing else does
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    num_faults = 0
    with tempfile.TemporaryDirectory() as folder:
        for family in families:
            num_faults += try_family(family, options.first, options.cases // len(families), Path(folder))
    return int(num_faults > 0)


def try_family(family: str, first: int, num: int, folder: Path) -> int:
    """Try cases of a family and return how many went wrong."""
    try_case = import_module(f"tests.fuzz.{family}").try_case
    start, faults, num_done, slowest = time.monotonic(), 0, 0, 0.0
    for seed in range(first, first + num):
        began = time.process_time()
        try:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
                num_done += try_case(seed, folder) is None
        except AssertionError as error:
            faults += 1
            if faults <= SHOWN:
                print(f"{family} {seed}: {str(error)[:500]}", flush=True)
        slowest = max(slowest, time.process_time() - began)
    print(
        f"{family}: {num:,} cases in {time.monotonic() - start:.0f} s: {num_done:,} were done, "
        f"{num - num_done - faults:,} ended in a sentence, {faults:,} went wrong; "
        f"the slowest took {slowest:.1f} s of processor time",
        flush=True,
    )
    return faults


if __name__ == "__main__":
    raise SystemExit(main())
