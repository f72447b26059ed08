"""`tppsd dashboard PROJECT`: a workspace of W&B for the runs of a project, laid out from code.

Nothing is published unless it is asked for: the workspace is written as the JSON document that W&B would be sent, and
can be compared with what a recorded run holds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tppsd.commands.console import CommandParser, output_path
from tppsd.data.whole_files import write_text

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

X_AXIS = "trainer/global_step"
# section -> panels: lines over steps, pictures and tables, numbers, each with its title
LINES, MEDIA, TABLE, NUMBER = "lines", "media", "table", "number"
SECTIONS: dict[str, tuple[tuple[str, str, tuple[str, ...]], ...]] = {
    "Likelihood (nats per event, lower is better)": (
        (LINES, "Training and validation", ("train/nll", "val/nll")),
        (LINES, "Beside models without a learnt history", ("val/nll", "val/nll_poisson", "val/nll_renewal")),
        (LINES, "Times and marks", ("val/nll_time", "val/nll_mark")),
        (NUMBER, "Best validation NLL", ("best/nll",)),
    ),
    "Optimisation": (
        (LINES, "Learning rate", ("train/learning_rate",)),
        (LINES, "Norm of the gradient, before clipping", ("train/gradient_norm",)),
    ),
    "Sampling": (
        (LINES, "Speed-up over compiled event-by-event sampling", ("sampling/speedup",)),
        (LINES, "Acceptance", ("sampling/acceptance_rate", "sampling/step_acceptance")),
        (MEDIA, "Events accepted per round", ("sampling/accepted_histogram",)),
        (MEDIA, "Sampled sequences beside the data", ("sampling/raster",)),
        (TABLE, "Accepted counts", ("sampling/accepted_counts",)),
    ),
    "Fidelity": (
        (LINES, "Kolmogorov-Smirnov distance", ("fidelity/model_ks", "fidelity/true_process_ks")),
        (MEDIA, "Time rescaling", ("fidelity/ks_plot",)),
    ),
    "Forecasts": (
        (MEDIA, "Reliability", ("backtest/reliability",)),
        (TABLE, "Scores of the backtest", ("backtest/scores",)),
        (TABLE, "Beside classical processes, in words", ("backtest/comparisons",)),
    ),
}


def parser() -> CommandParser:
    """Return the parser of the command line."""
    own = CommandParser(
        "tppsd dashboard",
        "Lay out a workspace of W&B for the runs of a project, and write it as JSON. Only --publish sends it.",
        (
            "tppsd dashboard taxi",
            "tppsd dashboard taxi --check outputs/wandb/latest-run",
            "tppsd dashboard taxi --entity my-team --publish",
        ),
    )
    add = own.add_argument
    add("project", help="name of the project: that of the data, unless a logger was told another")
    add("--entity", default="", help="user or team that the project belongs to; --publish needs it")
    add("--name", default="tppsd", help="name of the workspace (default: %(default)s)")
    add("--check", type=Path, metavar="PATH", help="folder of a recorded run: say which panels would be empty for it")
    add(
        "--output",
        type=output_path,
        default=Path("outputs/dashboard.json"),
        help="file to write (default: %(default)s)",
    )
    add("--publish", action="store_true", help="also create the workspace in W&B, which takes `wandb login`")
    return own


def main(args: list[str]) -> None:
    """Write the workspace; say what a run lacks of it; publish it if that is asked for.

    Raises:
        FileNotFoundError, ValueError: there is no such run; the package is not installed, or --entity is missing.
    """
    options = parser().parse_args(args)
    if options.publish and not options.entity:
        raise ValueError("--publish needs --entity: the user or team that the project belongs to")
    made = workspace(options.entity, options.project, options.name)
    if options.check is not None:
        from tppsd.lightning.recorded_run import logged_keys, run_file

        missing = empty_panels(logged_keys(run_file(options.check)))
        for title, keys in missing.items():
            print(f"empty for this run: {title} ({', '.join(keys)})")
        if not missing:
            print("this run has something for every panel")
    write_text(options.output, json.dumps(document(made), indent=1) + "\n")
    if options.publish:
        made.save()
        print(f"Written: {options.output}. Published: {made.url}")
        return
    print(f"Written: {options.output}. Nothing was sent; --publish --entity NAME creates the workspace in W&B")


def workspace(entity: str, project: str, name: str) -> Workspace:
    """Return the workspace, as an object of W&B's own package.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        import wandb_workspaces.workspaces as ws
    except ModuleNotFoundError as error:
        raise ValueError(
            "tppsd dashboard needs a package that is not installed: pip install wandb-workspaces"
        ) from error
    sections = [
        ws.Section(name=title, panels=[_panel(*panel) for panel in panels], is_open=True)
        for title, panels in SECTIONS.items()
    ]
    settings = ws.WorkspaceSettings(x_axis=X_AXIS, remove_legends_from_panels=False)
    try:
        return ws.Workspace(entity=entity, project=project, name=name, sections=sections, settings=settings)
    except ValueError as error:  # of its package, on many lines
        raise ValueError(f"--name {name!r} is no name that W&B takes, such as one with emojis; give another") from error


def _panel(kind: str, title: str, keys: tuple[str, ...]) -> Any:
    """Return a panel as an object of W&B's own package."""
    import wandb_workspaces.reports.v2 as wr

    if kind == LINES:
        return wr.LinePlot(title=title, x=X_AXIS, y=list(keys))
    if kind == MEDIA:
        return wr.MediaBrowser(title=title, media_keys=list(keys))
    if kind == TABLE:
        return wr.WeavePanelSummaryTable(table_name=keys[0])
    return wr.ScalarChart(title=title, metric=wr.SummaryMetric(keys[0]))


def document(made: Workspace) -> dict[str, Any]:
    """Return what W&B would be sent: the view of the workspace, by its package's own model."""
    content: dict[str, Any] = made._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
    return content


def empty_panels(keys: set[str]) -> dict[str, tuple[str, ...]]:
    """Return the panels for which a run has logged none of their keys, by title."""
    panels = [panel for panels in SECTIONS.values() for panel in panels]
    return {title: wanted for _, title, wanted in panels if not keys & set(wanted)}
