"""Photograph the pages that tppsd writes: `python docs/gallery.py` makes docs/images/page_*.png.

The commands run on a part of the log of the first tutorial, with little training, in a folder of their own. It needs
`chromium` or `google-chrome`, and some five minutes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs/images"
WIDTH, COLOURS = 1180, 96  # pixels; colours of a picture, which keep its file small
READ = ["--columns", "{sequence: ticket, time: timestamp, mark: activity}", "--t_end", "last", "--time_unit", "h"]
FIT = [
    *(word.replace("--", "--data.", 1) if word.startswith("--") else word for word in READ),
    *("--data.batch_size", "16", "--model.num_layers", "1", "--model.embed_dim", "32", "--model.num_components", "16"),
    *("--trainer.max_epochs", "8", "--trainer.enable_progress_bar", "false"),
]
RUN = ["--run", "outputs/fit/version_0"]
# picture -> (command, page that it writes, height in pixels)
PAGES = {
    "inspect": (["inspect", "tickets.csv", *READ, "--report", "inspect.html"], "inspect.html", 2350),
    "forecast": (
        ["forecast", *RUN, "--horizon", "48h", "--split", "test", "--given_fraction", "0.5", "--max_histories", "2",
         "--num_paths", "500", "--marks", "[closed, resolved, escalated]"], "outputs/forecast/forecast.html", 1500,
    ),
    "backtest": (
        ["backtest", *RUN, "--horizon", "24h", "--origins", "every 48h", "--num_paths", "30"],
        "outputs/backtest/backtest.html", 1500,
    ),
    "demo": (
        ["demo", "tickets.csv", *READ, "--target-seconds", "20", "--draft-seconds", "10", "--num-sequences", "10"],
        "outputs/demo/report.html", 2000,
    ),
}  # fmt: skip


def write_log(path: Path, num_tickets: int) -> None:
    """Write the log of the first tutorial, with so many tickets."""
    cells = json.loads((ROOT / "notebooks/01_log_to_forecast.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    definition = next(source for source in sources if "def help_desk" in source).partition("\n\n\n")[0]
    exec("import random\nfrom datetime import UTC, datetime, timedelta\n" + definition, names)
    path.write_text(names["help_desk"](num_tickets) + "\n")  # type: ignore[operator]


def photograph(page: Path, image: Path, height: int) -> None:
    """Write what a browser shows of a page, from the top."""
    browser = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit("no browser: install chromium or google-chrome")
    size = [f"--window-size={WIDTH},{height}", f"--screenshot={image}"]
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *size, page.as_uri()],
        check=True, capture_output=True,
    )  # fmt: skip
    Image.open(image).convert("RGB").quantize(COLOURS).save(image, optimize=True)


def main(only: list[str]) -> None:
    """Run the commands, and photograph their pages."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_log(folder / "tickets.csv", 500)
        if not set(only) <= {"inspect", "demo"}:
            run(["fit", "--data.path", "tickets.csv", *FIT], folder)
        for picture in only:
            command, page, height = PAGES[picture]
            run(command, folder)
            photograph(folder / page, IMAGES / f"page_{picture}.png", height)
            print(f"written: {IMAGES / f'page_{picture}.png'}")


def run(command: list[str], folder: Path) -> None:
    """Run a command of tppsd in a folder."""
    subprocess.run([sys.executable, "-m", "tppsd", *command], cwd=folder, check=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(PAGES))
