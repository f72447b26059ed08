"""Which samples does a checkout draw? Run by carry_over.py with any checkout on the path, whose own `tppsd` it imports.

Arguments: NUM_EVENTS SEED FOLDER_OF_MODELS ONLY HOW FIRST STEP. Prints JSON lines: of every STEP-th cell from FIRST on
with ONLY in its name, the name, the number of events, and a hash of their bits; with HOW such as {"compiled": true}, of
those that can have such passes, by them. The working directory must be the root of the checkout.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch

import tppsd
from tppsd.certification.certificate import cells_of
from tppsd.certification.models import build
from tppsd.certification.run import draw


def main(num_events: str, seed: str, folder: str, only: str, how: str, first: str, step: str) -> None:
    torch.set_num_threads(1)
    if (imported := Path(tppsd.__file__).parent.parent) != Path.cwd():
        raise SystemExit(f"{imported} was imported, not {Path.cwd()}")
    passes = json.loads(how)  # none in a checkout from before there were any
    cells = cells_of(passes)
    for cell in [cell for cell in cells if only in cell.name][int(first) :: int(step)]:
        samples = draw(cell, *build(cell, Path(folder)), int(num_events), int(seed), **passes)
        digest = hashlib.sha256()
        for column in (samples.offsets, samples.flat_event_times, samples.flat_inter_times, samples.flat_marks):
            digest.update(column.numpy().tobytes())
        line = {"cell": cell.name, "num_events": samples.stats.num_events, "samples": digest.hexdigest()}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
