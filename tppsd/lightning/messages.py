"""Messages of the command line: what it says, and what it leaves unsaid."""

from __future__ import annotations

import logging
import traceback
import warnings
from itertools import pairwise


def quieten() -> None:
    """Silence Lightning's messages that tell a user of this command nothing."""
    for message in (
        ".*does not have many workers.*",  # batches are small and ready in memory
        ".*smaller than the logging interval.*",
        ".*callbacks used to create the checkpoint need to be provided.*",  # early stopping has no part in a test
        ".*Checkpoint directory .* exists and is not empty.*",  # where a name is taken, they say so
        ".*dirpath has changed.*",  # a resumed run has a folder of its own
        ".*predict returned None.*",  # a chunk that is there already
        ".*args parameter is intended to run from within Python.*",  # --run is spelt out for it
        ".*treespec, LeafSpec.*",  # Lightning 2.6 on torch 2.13
    ):
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_useful)


def is_useful(record: logging.LogRecord) -> bool:
    """Say whether a message is neither an advertisement nor news of hardware that the model cannot use.

    Event times are float64, which TPUs do not have.
    """
    return not any(word in record.getMessage() for word in ("Tip:", "TPU"))


def refuse_data_as_path(args: list[str]) -> None:
    """Refuse `--data taxi`: it would mean a class or a configuration file called taxi, and end in a page on types.

    Raises:
        ValueError: the sentence names the option for a path.
    """
    for option, value in pairwise([part for word in args for part in word.split("=", 1)]):
        if option == "--data" and not value.endswith((".yaml", ".yml", ".json")) and "DataModule" not in value:
            raise ValueError(
                f"--data {value} names a class or a configuration file; the path of the data is --data.path {value}"
            )


def original(error: Exception) -> BaseException:
    """Return what a constructor raised, where jsonargparse has wrapped it into many lines on types."""
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    return error.__cause__ if error.__cause__ is not None and "jsonargparse" in raised_in else error
