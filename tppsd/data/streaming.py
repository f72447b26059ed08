"""A canonical Arrow file of a log that is larger than the memory, written block by block in two passes over the source.

The first pass finds what holds for the whole log (`Scan`), the second writes. In memory are one block of rows, and what
there is of each sequence.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np

from tppsd.data.arrow_file import FileFacts, SplitColumns, columns_of_splits, write_splits
from tppsd.data.blocks import Blocks, Unstreamable
from tppsd.data.log import origin_of, own_options
from tppsd.data.observation import with_window
from tppsd.data.options import Context, ReadOptions
from tppsd.data.paths import for_arrow, local_path
from tppsd.data.scan import Scan
from tppsd.data.sequence_table import SequenceTable, check_values
from tppsd.data.units import Clock


def stream_to_arrow(source: str, path: str | Path, options: ReadOptions) -> tuple[FileFacts, tuple[str, ...]]:
    """Write the canonical Arrow file of a source that is never in memory as a whole.

    Args:
        source: a Parquet, CSV or TSV file, or a folder of such split files. Of a table with one row per event, the rows
            of a sequence stand together.
        path: of the file to write; beside it, the columns lie in a folder until it is done.
        options: how the source is read.

    Returns:
        What the file holds, and notes for the user.

    Raises:
        Unstreamable: the source or an option needs all rows at once.
        ValueError: what stands in the way.
    """
    blocks, scan = Blocks(source, options), Scan()
    for block in blocks:
        scan.add(block)
    if scan.first is None:
        raise Unstreamable("it has no rows")
    if options.missing_mark is not None and str(getattr(scan.first.marks, "type", "string")) != "string":
        raise Unstreamable("missing_mark makes names of numbers")
    edges = scan.edges(options)
    clock, vocabulary = scan.understood(options, edges["train"][1])
    path = for_arrow(local_path(path))
    facts = FileFacts(
        vocabulary.num_marks,
        mark_names=vocabulary.names,
        time_unit=clock.unit,
        time_origin=origin_of(clock, scan.first),
    )
    with columns_of_splits(path) as make:
        columns = {split: make(split) for split in edges}
        position: Counter[str | None] = Counter()
        for block in blocks:
            table = with_window(block.table, own_options(options, block.table), clock, scan.last)
            check_values(table)
            _add(columns, edges, block.split, position[block.split], table, vocabulary.encode(table), clock)
            position[block.split] += len(table)
        facts = write_splits(path, columns, facts)
    return facts, _notes(blocks.context, scan)


def _notes(context: Context, scan: Scan) -> tuple[str, ...]:
    """Return what was noted of the blocks, once; copies are counted over all of them."""
    notes: dict[str, str] = {}
    for note in context.notes:
        if "exact copies" not in note:
            notes.setdefault(re.sub(r", from row [0-9]+(,[0-9]{3})*|[0-9]+", "", note), note)
    if scan.num_duplicates and scan.first is not None:
        what = "dropped" if context.options.drop_duplicates else "kept as events; drop_duplicates: true drops them"
        notes["copies"] = (
            f"{scan.first.source}: {scan.num_duplicates:,} rows are exact copies of others, and are {what}"
        )
    return tuple(notes.values())


def _add(
    columns: dict[str, SplitColumns],
    edges: dict[str, tuple[int, int]],
    split: str | None,
    position: int,
    table: SequenceTable,
    marks: np.ndarray,
    clock: Clock,
) -> None:
    """Add a block, whose first sequence has the number `position`, to the splits that it belongs to."""
    for name in edges if split is None else [split]:
        low, high = (min(max(edge - position, 0), len(table)) for edge in edges[name])
        if low < high:
            events = slice(int(table.offsets[low]), int(table.offsets[high]))
            columns[name].add(table.part(low, high), marks[events], clock)
