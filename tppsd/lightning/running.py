"""The Trainer of a job, built from options of the command line, and its run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tppsd.lightning.chunks import ChunkDataset, chunk_loader
from tppsd.lightning.job_module import JobModule
from tppsd.lightning.messages import quieten
from tppsd.lightning.processes import StartTogether
from tppsd.lightning.shard_writer import ShardWriter
from tppsd.lightning.stopping import Stopped

START_TIMEOUT = 60.0  # seconds
START_TIMEOUT_HELP = "Seconds that the processes of a distributed run wait for each other at the start."
AGAIN = "stopped by SIGTERM; give the same command again"
_DEFAULTS = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_model_summary": False}


def add_trainer_options(parser: Any) -> None:
    """Add the options of the Trainer and `--start_timeout` to a parser of jsonargparse, as predict has them.

    The accelerator is the CPU, on which forecasts are worked out.
    """
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False, instantiate=False, sub_configs=True)
    parser.add_argument("--start_timeout", type=float, default=START_TIMEOUT, help=START_TIMEOUT_HELP)
    parser.set_defaults({f"trainer.{name}": value for name, value in _DEFAULTS.items()})


def run_job(module: JobModule, chunks: ChunkDataset[Any], writer: ShardWriter, parser: Any, parsed: Any) -> bool:
    """Work on all chunks that the writer's folder does not hold, in as many processes as the options say.

    Args:
        module: does the work.
        chunks: what is to be done.
        writer: of the shards and the results.
        parser: with the options of `add_trainer_options`.
        parsed: what it has parsed.

    Returns:
        Whether this is the process that speaks for all of them.

    Raises:
        Stopped: SIGTERM came before the job was done.
        ValueError: an option is wrong, or the folder is another job's; the sentence says so.
    """
    quieten()
    start = StartTogether(parsed.start_timeout)
    with options_named():
        instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its name before 4.49
        options = dict(instantiate(parsed).trainer)
        callbacks = options.pop("callbacks", None) or []
        trainer = Trainer(
            **options, callbacks=[*(callbacks if isinstance(callbacks, list) else [callbacks]), writer, start]
        )
    start.arrange(trainer)
    with ended_well(start, trainer):
        trainer.predict(module, chunk_loader(chunks), return_predictions=False)
    return bool(trainer.is_global_zero)


@contextlib.contextmanager
def options_named() -> Iterator[None]:
    """Say in one sentence that there are no such devices, strategies, ..."""
    try:
        yield
    except (MisconfigurationException, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"options of --trainer: {' '.join(str(error).split())[:300]}") from error


@contextlib.contextmanager
def ended_well(
    start: StartTogether, trainer: Trainer, how_to_go_on: Callable[[], str] = lambda: AGAIN
) -> Iterator[None]:
    """Let a run that SIGTERM has ended, or that has lost a process, say so: it is not done."""
    try:
        yield
    except Stopped:
        raise
    except SIGTERMException:  # Lightning's, whose exit status is 0
        raise Stopped(how_to_go_on()) from None
    except RuntimeError as error:
        if (explained := start.explain(trainer, error)) is not None:
            raise explained from error
        raise
