"""Figures: what they show, that they render without a display or pyplot, and that colours keep their meaning."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from tppsd import plots
from tppsd.data.sequences import EventSequence
from tppsd.metrics.functional import ks_band
from tppsd.plots.page import Page


def exponentials(n: int, seed: int = 0) -> torch.Tensor:
    return torch.empty(n, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(seed))


def sequences(num_marks: int, n: int = 10) -> list[EventSequence]:
    g = torch.Generator().manual_seed(num_marks)
    rows = []
    for i in range(n):
        times = 5 + 10 * torch.rand(20, dtype=torch.float64, generator=g).sort().values
        marks = torch.arange(20) % num_marks
        rows.append(EventSequence(times, marks, 5.0, 15.0, i))
    return [*rows, EventSequence.of([], t_start=0.0, t_end=2.0, index=n)]


def drawn(figure: Figure, tmp_path: Path) -> Path:
    path = plots.save(figure, tmp_path / "new" / "figure.png")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000
    return path


def texts(figure: Figure) -> str:
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    entries = [text.get_text() for legend in legends for text in legend.get_texts()]
    labels = [part for axes in figure.axes for part in (axes.get_title("left"), axes.get_xlabel(), axes.get_ylabel())]
    return "\n".join([*entries, *labels, figure.get_suptitle(), figure.get_supylabel()])


def line_colours(axes: Axes) -> list[str]:
    return [to_hex(line.get_color()).upper() for line in axes.lines]


def test_ks_plot_states_the_test_and_draws_its_band(tmp_path: Path) -> None:
    figure = plots.ks_plot(
        {
            "autoregressive, own distribution": exponentials(5000),
            "speculative": exponentials(100),
            "none": exponentials(0),
        }
    )
    drawn(figure, tmp_path)
    shown = texts(figure)
    assert "autoregressive, own distribution: D = 0.0" in shown and "n = 5,000" in shown and "none" not in shown
    left, right = figure.axes
    assert {plots.AUTOREGRESSIVE, plots.SPECULATIVE} <= set(line_colours(left)) & set(line_colours(right))
    low, high = right.patches[0].get_extents().transformed(right.transData.inverted()).intervaly
    assert abs(high - ks_band(100) * 10) < 1e-6 and abs(low + high) < 1e-6


def test_ks_plot_deviation_is_scaled_by_the_square_root_of_n() -> None:
    uniforms = torch.full((400,), 0.5, dtype=torch.float64)
    _, right = plots.ks_plot({"speculative": uniforms}, distribution="uniform").axes
    deviation = torch.as_tensor(right.lines[-1].get_ydata())
    assert abs(float(deviation.abs().max()) - 20 * (0.5 - 0.5 / 400)) < 1e-9


@pytest.mark.parametrize("num_marks", [1, 5, 30])
def test_raster_has_a_tick_per_event(num_marks: int, tmp_path: Path) -> None:
    groups = {"real": sequences(num_marks), "autoregressive": sequences(num_marks)[:3], "speculative": []}
    figure = plots.raster(groups, num_rows=8, time_unit="h")
    drawn(figure, tmp_path)
    panels = figure.axes[:2]
    for panel, rows in zip(panels, (8, 3), strict=True):
        ticks = [c for c in panel.collections if c.get_zorder() == 2]
        assert sum(len(c.get_segments()) for c in ticks) == 20 * rows
        times = torch.tensor([segment[0][0] for c in ticks for segment in c.get_segments()])
        assert times.min() >= 0 and times.max() <= 10  # relative to each window's start
    assert "time since the start of the window [h]" in texts(figure)
    assert ("mark 4" in texts(figure)) == (num_marks == 5)
    assert (len(figure.axes) == 3) == (num_marks == 30)  # a colour bar


def test_raster_shows_empty_windows_and_mark_names(tmp_path: Path) -> None:
    rows = [EventSequence.of([], t_start=0.0, t_end=2.0), EventSequence.of([0.5, 1.0], [0, 1], t_start=0.0, t_end=2.0)]
    figure = plots.raster({"real": rows}, mark_names=("buy", "sell", "hold"))
    drawn(figure, tmp_path)
    assert "buy\nsell" in texts(figure) and "hold" not in texts(figure)


@pytest.mark.parametrize(("num_marks", "num_panels"), [(1, 1), (3, 3), (9, 1)])
def test_intensity_plot_has_a_panel_per_mark_or_the_sum(num_marks: int, num_panels: int, tmp_path: Path) -> None:
    times = torch.linspace(5, 15, 200, dtype=torch.float64)
    curve = torch.rand(200, num_marks, generator=torch.Generator().manual_seed(0))
    curve[100, -1] = 50.0
    figure = plots.intensity_plot(times, {"target": curve, "true": curve / 2}, sequences(num_marks)[0], time_unit="day")
    drawn(figure, tmp_path)
    panels = figure.axes[:num_panels]
    heights = [float(line.get_ydata().max()) for panel in panels for line in panel.lines]
    assert abs(max(heights) - float((curve if num_panels > 1 else curve.sum(1)).max())) < 1e-5
    assert all(panel.get_ylim()[0] == 0 and panel.get_ylim()[1] > 50 for panel in panels)
    assert "events per day" in texts(figure) and "time [day]" in texts(figure)
    assert plots.REAL in line_colours(panels[0])


def test_accepted_counts_plot_states_the_rates(tmp_path: Path) -> None:
    counts = torch.zeros(20, 20, dtype=torch.int64)
    counts[4, 4], counts[4, 1], counts[4, 0] = 60, 30, 10
    figure = plots.accepted_counts_plot(counts)
    drawn(figure, tmp_path)
    left, right = figure.axes
    assert [round(bar.get_height()) for bar in left.patches] == [10, 30, 0, 0, 60]
    assert "3.70 events per round" in texts(figure) and "step acceptance 0.871" in texts(figure)
    assert [round(float(y), 4) for y in right.lines[0].get_ydata()] == [0.9, 0.6667, 1.0, 1.0]


def test_accepted_counts_of_long_drafts_stay_legible() -> None:
    """No number on each of thirty bars, no acceptance of positions that hardly any round has tested."""
    counts = torch.zeros(40, 40, dtype=torch.int64)
    counts[8, :9], counts[30, 30] = 10, 3
    left, right = plots.accepted_counts_plot(counts).axes
    assert len(left.patches) == 31 and not left.texts
    assert len(right.lines[0].get_ydata()) == 8  # 23 rounds have tested the eighth position, 3 the ninth


def test_nll_by_time_plot_shows_the_excess_over_the_truth(tmp_path: Path) -> None:
    curves = {"thp": [1.5, 2.0], "rotary": [1.25, 1.25]}
    figure = plots.nll_by_time_plot([20.0, 100.0], curves, truth=[1.0, 1.25], trained_until=20.0, unit="day")
    drawn(figure, tmp_path)
    (axes,) = figure.axes
    shown = {str(patch.get_label()): patch.get_data() for patch in axes.patches}
    assert shown["thp"].values.tolist() == [0.5, 0.75] and shown["rotary"].values.tolist() == [0.25, 0.0]
    assert shown["thp"].edges.tolist() == [0.0, 20.0, 100.0]
    assert "[day]" in texts(figure) and [text.get_text() for text in axes.texts] == ["windows end here in training"]


def test_empty_figures_are_refused() -> None:
    with pytest.raises(ValueError, match="every curve is empty"):
        plots.ks_plot({"speculative": torch.empty(0)})
    with pytest.raises(ValueError, match="every group is empty"):
        plots.raster({"real": []})
    with pytest.raises(ValueError, match="at least one curve"):
        plots.intensity_plot(torch.linspace(0, 1, 5), {})
    with pytest.raises(ValueError, match="no round with a drafted event"):
        plots.accepted_counts_plot(torch.tensor([[5, 0], [0, 0]]))


def test_too_few_names_of_marks_are_refused() -> None:
    times = torch.linspace(5, 15, 50, dtype=torch.float64)
    with pytest.raises(ValueError, match="mark_names has 2 names for 3 marks; give one for each mark"):
        plots.raster({"real": sequences(3)}, mark_names=("buy", "sell"))
    with pytest.raises(ValueError, match="mark_names has 2 names for 3 marks"):
        plots.intensity_plot(times, {"target": torch.ones(50, 3)}, mark_names=("buy", "sell"))


def test_a_dollar_in_a_name_is_a_dollar(tmp_path: Path) -> None:
    """Two of them would be a formula: a wrong one ends in an error, another one in italics. Mutant: a plain Figure."""
    names = ("$_$", "from $5 to $10")
    figures = [
        plots.raster({"$_$": sequences(2)}, mark_names=names, title="$_$"),
        plots.data_plot(sequences(2), mark_names=names),
        plots.intensity_plot(torch.arange(5.0), {"$_$": torch.ones(5, 2)}, mark_names=names),
        plots.ks_plot({"$_$": exponentials(9)}),
    ]
    page = Page("dollars")
    for figure in figures:
        assert type(figure) is Figure, "loggers know it by its class"
        drawn(pickle.loads(pickle.dumps(figure)), tmp_path)
        page.figure(figure)
    assert page.html().count(">from $5 to $10<") == 3
    powers = [label for label in figures[1].axes[1].get_xticklabels() if label.get_text()]
    assert powers and all(label.get_parse_math() for label in powers), "those of a logarithmic axis are formulas"


LONG = "the events of a rather long name"


@pytest.mark.parametrize(
    "figure",
    [
        plots.raster({"real": sequences(6)}, mark_names=[f"{LONG} {mark}" for mark in range(6)]),
        plots.ks_plot({f"{LONG} that goes on {i}": exponentials(50, i) for i in range(4)}),
        plots.ks_plot({f"{3 * LONG} {i}": exponentials(50, i) for i in range(2)}),
        plots.nll_by_time_plot([1.0], {f"{LONG} {i}": [1.0] for i in range(4)}, truth=[0.5]),
        plots.intensity_plot(torch.arange(5.0), {f"{LONG} {i}": torch.ones(5) for i in range(4)}),
    ],
    ids=["raster", "ks", "ks of longer names", "nll by time", "intensity"],
)
def test_legends_of_long_names_stay_inside(figure: Figure, tmp_path: Path) -> None:
    drawn(figure, tmp_path)
    (legend,) = figure.legends
    box, page = legend.get_window_extent(), figure.bbox
    assert box.x0 >= page.x0 and box.x1 <= page.x1 and box.y0 >= page.y0
    assert min(axes.get_window_extent().height for axes in figure.axes) > 0.15 * figure.bbox.height


def test_one_position_has_one_tick() -> None:
    counts = torch.tensor([[0, 0], [40, 60]])
    _, right = plots.accepted_counts_plot(counts).axes
    assert [tick for tick in right.get_xticks() if 0.5 <= tick <= 1.5] == [1]


def test_one_event_is_seen() -> None:
    for axes in plots.ks_plot({"real": exponentials(1), "speculative": exponentials(2)}).axes:
        assert [line.get_marker() for line in axes.lines[1:]] == ["o", ""]


def test_pyplot_is_not_imported() -> None:
    code = (
        "import sys, torch\nfrom tppsd import plots\nassert 'matplotlib' not in sys.modules\n"
        "plots.ks_plot({'real': torch.rand(50)})\nassert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr


def test_a_picture_of_data_has_rows_inter_times_and_marks() -> None:
    """The histogram holds every positive inter-time, and the bars are the shares of the marks."""
    sequences = [
        EventSequence.of([0.5, 0.5, 2.0, 4.0], marks=[0, 1, 1, 1], t_start=0.0, t_end=5.0),
        EventSequence.of([1.0], marks=[1], t_start=0.0, t_end=5.0),
        EventSequence.of([], t_start=0.0, t_end=5.0),
    ]
    figure = plots.data_plot(sequences, mark_names=("call", "mail"), time_unit="h")
    rows, gaps, marks = figure.axes
    assert sum(patch.get_height() for patch in gaps.patches) == 4, "the tie has none"
    assert gaps.get_xscale() == "log" and gaps.get_xlabel() == "inter-time [h]"
    assert [patch.get_width() for patch in marks.patches] == pytest.approx([80.0, 20.0])
    assert [text.get_text() for text in marks.get_yticklabels()] == ["mail", "call"]
    assert "first 2 of 3" in rows.get_title(loc="left")
    assert len(plots.data_plot([EventSequence.of([1.0], t_start=0.0)]).axes) == 2
    with pytest.raises(ValueError, match="all sequences are empty"):
        plots.data_plot(sequences[2:])
