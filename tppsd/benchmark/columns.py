"""The numbers that a benchmark can show of a sampler: the columns of its table, and the keys of a paper's entries."""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    """Holds the heading of a column, and the format of its numbers."""

    heading: str
    format: str

    def form(self, value: float) -> str:
        """Write a number."""
        return f"{value:{self.format}}"


COLUMNS = {
    "likelihood_discrepancy": Column("ΔL", ".3f"),
    "ks_statistic": Column("D_KS", ".3f"),
    "wasserstein_time": Column("D_WS time", ".3f"),
    "wasserstein_mark": Column("D_WS mark", ".3f"),
    "seconds": Column("seconds", ".3f"),
    "speedup": Column("speed-up", ".2f"),
    "speedup_over_reencode": Column("over re-encoding", ".2f"),
    "acceptance_rate": Column("alpha", ".3f"),
    "step_acceptance": Column("per step", ".3f"),
    "events_per_round": Column("per round", ".2f"),
    "events_per_second": Column("events/s", ".0f"),
    "milliseconds_per_event": Column("ms/event", ".2f"),
    "model_p_value": Column("model p", ".2g"),
    "peak_memory_mib": Column("MiB", ".1f"),
}
