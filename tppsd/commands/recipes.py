"""`tppsd recipes`: train and test recipes with several encoders and seeds, and print the table of the results page."""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tppsd.commands.console import at_least
from tppsd.progress import progress

DESCRIPTION = """Run `tppsd fit` and `tppsd test` for every recipe (lightning_configs/recipes/), encoder and seed, each run in a
process of its own, and print means and standard deviations over seeds. Runs that are complete in --output are kept: the same
command goes on after an interruption, and with more encoders, generations or (of a first generation) seeds it adds theirs."""
ENCODERS = ("thp", "sahp", "attnhp", "rotary")
RESULT = "result.json"
COLUMNS = {  # heading: (metric, digits); likelihoods of the `window` convention, nats per event
    "NLL": ("nll", 4), "without ties": ("nll_untied", 4), "time": ("nll_time", 3), "mark": ("nll_mark", 3),
    "renewal": ("nll_renewal", 3), "true": ("nll_true", 3), "history share": ("history_share", 2), "RMSE": ("rmse_median", 4),
    "mark accuracy": ("mark_accuracy", 3), "PIT D": ("pit_ks", 3),
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training: recipe file, encoder, seed; `folder` is where its results go, `data` the options that name its
    data, `sources` what tells them and the recipe from others, `options` further ones of `tppsd fit`, `teachers` the
    runs of the generation before, with which it is to agree."""

    recipe: Path
    encoder: str
    seed: int
    folder: Path
    data: tuple[str, ...]
    sources: tuple[tuple[str, str], ...]
    options: tuple[str, ...]
    teachers: tuple[Run, ...] = ()

    @property
    def generation(self) -> int:
        return 1 + self.teachers[0].generation if self.teachers else 1

    @property
    def best(self) -> Path:
        """Its checkpoint."""
        return self.folder / "fit" / "version_0" / "checkpoints" / "best.ckpt"

    def lineage(self) -> set[Run]:
        """Itself, its teachers, and theirs."""
        return {self}.union(*(teacher.lineage() for teacher in self.teachers))

    def is_complete(self) -> bool:
        """Whether it needs not be run; it does when one of its teachers does."""
        return self.result() is not None and all(teacher.is_complete() for teacher in self.teachers)

    def result(self) -> dict[str, Any] | None:
        """None: not complete.

        Raises:
            ValueError: it was made with other options, from other sources, or with other teachers.
        """
        path = self.folder / RESULT
        if not path.exists():
            return None
        result: dict[str, Any] = json.loads(path.read_text())
        if result["options"] != list(self.options):
            raise ValueError(
                f"{path} was made with the options {result['options']}, not {list(self.options)}: set --output"
            )
        made_from: dict[str, str] = result.get("sources", {})
        for name, source in self.sources:
            if name not in made_from:
                raise ValueError(
                    f"{path} does not say from which {name} it was made, as an older version wrote it: set --output"
                )
            if made_from[name] != source:
                raise ValueError(f"{path} was made from another {name} ({made_from[name]}, not {source}): set --output")
        if (names := result.get("teachers", [])) != self._teacher_names():
            raise ValueError(f"{path} was taught by {names}, not by {self._teacher_names()}: set --output")
        return result

    def _teacher_names(self) -> list[str]:
        return [teacher.folder.name for teacher in self.teachers]

    def complete(self) -> None:
        """Train and test; what an interrupted run has left is removed first."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        started = time.perf_counter()
        logger = [
            "--trainer.logger",
            "CSVLogger",
            "--trainer.logger.save_dir",
            self.folder,
            "--trainer.logger.version",
            "0",
        ]
        seed = self.seed + 1000 * (self.generation - 1)  # other initial weights than the teachers
        self._tppsd(
            "fit", *self.data, "--config", self.recipe, *self._taught(), "--model.encoder", self.encoder,
            "--seed_everything", seed, *logger, "--trainer.logger.name", "fit", *self.options,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        self._tppsd(
            "test",
            *self.data,
            "--ckpt_path",
            self.best,
            *logger,
            "--trainer.logger.name",
            "test",
            *for_test(self.options),
        )
        scores = _last_line(self.folder / "test" / "version_0" / "metrics.csv")
        result = {
            "options": self.options, "sources": dict(self.sources), "teachers": self._teacher_names(),
            "seconds": seconds, "num_parameters": _num_parameters(self.best), "metrics": scores,
        }  # fmt: skip
        temporary = self.folder / f"{RESULT}.{os.getpid()}"
        temporary.write_text(json.dumps(result, indent=1) + "\n")
        os.replace(temporary, self.folder / RESULT)

    def _taught(self) -> list[Any]:
        """Options that name the teachers."""
        if not self.teachers:
            return []
        names = json.dumps([str(teacher.best) for teacher in self.teachers])
        return ["--config", born_again(self.recipe), "--model.distillation.target", names]

    def _tppsd(self, verb: str, *arguments: Any) -> None:
        words = [sys.executable, "-m", "tppsd", verb, *map(str, arguments), "--trainer.enable_progress_bar", "false"]
        with (self.folder / f"{verb}.log").open("w") as log:
            if subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, check=False).returncode:
                raise ValueError(f"`tppsd {verb}` failed for {self.folder}: {log.name} says why")


def main(args: list[str]) -> None:
    """Complete what is missing, then print the table."""
    options = parse(args)
    from rich.console import Console

    runs = sorted(wanted(options), key=lambda run: run.generation)
    missing = [run for run in runs if not run.is_complete()]
    for run in (
        missing
    ):  # what other teachers than the coming ones have taught must not pass for complete after an interruption
        (run.folder / RESULT).unlink(missing_ok=True)
    if missing:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // options.processes)))
    with (
        ThreadPoolExecutor(options.processes) as pool,
        progress(Console(stderr=True), "training", len(missing)) as advance,
    ):
        try:
            for _, generation in itertools.groupby(missing, lambda run: run.generation):  # teachers before their pupils
                for future in as_completed([pool.submit(run.complete) for run in generation]):
                    future.result()
                    advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # those in progress come to their end
            raise
    print(markdown(runs))


def wanted(options: argparse.Namespace) -> Iterator[Run]:
    """Every recipe with every encoder, seed and generation."""
    for recipe in options.recipe:
        if not recipe.exists():
            raise FileNotFoundError(f"there is no recipe {recipe}")
        config = recipe.parent.parent / "data" / recipe.name
        if not config.exists():
            raise FileNotFoundError(f"the recipe {recipe} needs {config}, which is not there")
        if options.generations > 1 and not born_again(recipe).exists():
            raise FileNotFoundError(f"a second generation of {recipe} needs {born_again(recipe)}, which is not there")
        data: tuple[str, ...] = ("--config", str(config))
        sources = [("recipe", _digest(recipe)), ("data config", _digest(config)), ("--data-root", "no folder of it")]
        if options.data_root is not None and (folder := options.data_root / recipe.stem).is_dir():
            data += ("--data.path", str(folder))
            sources[-1] = ("--data-root", str(folder.resolve()))
        for encoder in options.encoder:
            folder = options.output / recipe.stem / encoder
            teachers: tuple[Run, ...] = ()
            for generation in range(1, options.generations + 1):
                suffix = f"_generation_{generation}" if generation > 1 else ""
                teachers = tuple(
                    Run(
                        recipe,
                        encoder,
                        seed,
                        folder / f"seed_{seed}{suffix}",
                        data,
                        tuple(sources),
                        options.fit,
                        teachers,
                    )
                    for seed in options.seed
                )
                yield from teachers


def born_again(recipe: Path) -> Path:
    """What a second generation is trained with."""
    return recipe.parent.parent / "model" / "born_again.yaml"


def for_test(options: tuple[str, ...]) -> list[str]:
    """Those of `tppsd fit` that `tppsd test` needs as well: of the data and of what is compared with."""
    kept: list[str] = []
    takes_value = False  # the option before was kept, and its value follows
    for word in options:
        is_option = word.startswith("--")
        is_kept = word.startswith(("--data.", "--renewal_baseline.")) if is_option else takes_value
        takes_value = is_option and is_kept and "=" not in word
        kept += [word] if is_kept else []
    return kept


def parse(args: list[str]) -> argparse.Namespace:
    """Command line -> options; those of `tppsd fit`, after `--`, become `fit`."""
    end = args.index("--") if "--" in args else len(args)
    parser = argparse.ArgumentParser(prog="tppsd recipes", description=DESCRIPTION)
    add = parser.add_argument
    add(
        "recipe",
        type=Path,
        nargs="+",
        help="files of lightning_configs/recipes/; options of `tppsd fit` may follow after --",
    )
    add("--encoder", nargs="+", default=ENCODERS, choices=ENCODERS, help="(default: all)")
    add("--seed", type=at_least(0), nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    add(
        "--generations",
        type=int,
        default=1,
        help="2: train once more, to agree with all seeds of the first and with the data",
    )
    add(
        "--data-root",
        type=Path,
        help="folder that holds data sets under the names of their recipes, looked at before the hub",
    )
    add("--output", type=Path, default=Path("outputs/recipes"), help="(default: %(default)s)")
    add("--processes", type=at_least(1), default=1, help="runs at a time (default: %(default)s)")
    options = parser.parse_args(args[:end], argparse.Namespace(fit=tuple(args[end + 1 :])))
    if options.generations < 1:
        parser.error(f"--generations {options.generations} must be at least 1, which is of the data alone")
    return options


def _digest(config: Path) -> str:
    """Of what a YAML file says, whatever its comments and layout."""
    import yaml

    return hashlib.sha256(
        json.dumps(yaml.safe_load(config.read_text()), sort_keys=True, default=str).encode()
    ).hexdigest()[:16]


def _last_line(path: Path) -> dict[str, float]:
    """Of a CSVLogger's file, what is filled in."""
    with path.open(newline="") as file:
        return {name: float(value) for name, value in list(csv.DictReader(file))[-1].items() if value}


def _num_parameters(checkpoint: Path) -> int:
    import tppsd

    return sum(parameter.numel() for parameter in tppsd.load(checkpoint).parameters())


def markdown(runs: list[Run]) -> str:
    """One line per recipe, encoder and generation, means over seeds with the standard deviation of the NLL."""
    groups: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.recipe.stem, run.encoder, run.generation), []).append(run)
    lines = ["| data | encoder | seeds | " + " | ".join(COLUMNS) + " | parameters | minutes |"]
    lines.append("|" + "---|" * (len(COLUMNS) + 5))
    for (data, encoder, generation), group in groups.items():
        results = [run.result() or {} for run in group]
        cells = [_cell([r["metrics"] for r in results], *column) for column in COLUMNS.values()]
        counts = [f"{results[0]['num_parameters']:,}", f"{mean(map(minutes, group)):.1f}"]
        name = encoder if generation == 1 else f"{encoder}, generation {generation}"
        lines.append("| " + " | ".join([data, name, str(len(group)), *cells, *counts]) + " |")
    return "\n".join(lines)


def minutes(run: Run) -> float:
    """That its training took, and that of its teachers."""
    return sum(float((one.result() or {})["seconds"]) for one in run.lineage()) / 60


def _cell(scores: list[dict[str, float]], name: str, digits: int) -> str:
    # likelihoods of the model carry their convention
    values = [score.get(f"test/{name}", score.get(f"test/{name}_window", math.nan)) for score in scores]
    if any(map(math.isnan, values)):  # no marks, no truth
        return ""
    spread = f" ± {stdev(values):.{digits}f}" if name == "nll" and len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"
