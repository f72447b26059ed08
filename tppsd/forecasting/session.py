"""`Session`: a history that grows as events arrive, and what is known of the next one at any time."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tppsd.backends.compile import Compile, is_compiled, runnable
from tppsd.data.batch import EventBatch
from tppsd.data.lookback import Windows, begun_at
from tppsd.data.sequences import EventSequence
from tppsd.data.stamps import clock_of_model, stamp_of, time_of
from tppsd.forecasting.forecast import Forecast, forecast
from tppsd.models.protocol import EventTokens, check_starts
from tppsd.models.resolve import model_device, resolve_model
from tppsd.sampling.checks import mark_indices
from tppsd.sampling.options import SamplingOptions
from tppsd.sampling.requests import as_sequences
from tppsd.sampling.results import SampledSequences
from tppsd.sampling.sample import sample

_CHUNK = 512  # tokens of a pass over the history that a session begins with


class Session:
    """Follows one sequence of events while it happens.

    Each observed event is encoded once, into the session's cache; `distribution` after it costs one pass over one
    token, and none where it has been asked for already. Under the target's `max_context` the cache is bounded. `sample`
    and `forecast` begin from the history as it is known, which each call encodes once for all of its paths.

    The weights of a session never change: the model is compiled when the session begins, or copied where it is not.

    Where the model's data were cut into windows, what the model sees begins anew, with the lookback of these windows,
    whenever it has become longer than they were. `history` keeps all that was observed.

    Where the model's data have timestamps and names, `observe("2024-05-03T10:00", "closed")` takes them.

    Args:
        target: an EventModel, a LightningModule or a checkpoint path.
        history: what has happened so far, observed until its `t_end`; also a table of it (tppsd.read_histories).
        compile: as of SamplingOptions.

    Attributes:
        observed_until: w, time until which the sequence is known.
    """

    def __init__(self, target: Any, history: Any, compile: Compile = "auto") -> None:
        source = resolve_model(target, "target")
        statistics = getattr(source, "statistics", None)
        several = as_sequences(history, statistics)
        if len(several) != 1:
            raise ValueError(f"a session follows one sequence; history has {len(several)}")
        (history,) = several
        check_starts(source, [history.window_start])
        self.model, self._compile = runnable(source, "target", compile), compile
        if self.model is source and not is_compiled(source):
            self.model = copy.deepcopy(source)
        self._names, self._clock = getattr(statistics, "mark_names", None), clock_of_model(statistics)
        self._given, self.observed_until = history, history.window_end
        self._times: list[float] = history.event_times.tolist()
        self._marks: list[int] = history.marks.tolist()
        self._inter_times = history.inter_times.tolist()
        self._stamps: list[int] | None = None if history.timestamps is None else history.timestamps.tolist()
        self._windows, self._device = Windows.of(statistics), model_device(source)
        self._begin(history if self._windows is None else self._windows.shortened(history))

    def _begin(self, history: EventSequence) -> None:
        """Begin anew with a history, of which all but the newest token go into the cache."""
        self._start = history.window_start  # of the window that the model sees
        tokens = EventTokens.from_batch(EventBatch.from_sequences([history]).to(self._device), self.model.num_marks)
        length = tokens.ids.shape[1]
        self._last: EventTokens = tokens.map(lambda field: field[:, length - 1 :])  # the newest, not in the cache
        self._distribution: Any = None  # after the newest token, once that is in the cache
        with torch.inference_mode():
            self._cache = self.model.new_cache(1, max(64, length))
            for start in range(0, length - 1, _CHUNK):
                stop = min(start + _CHUNK, length - 1)
                self.model.extend(tokens.map(lambda field, a=start, b=stop: field[:, a:b]), self._cache)

    def __repr__(self) -> str:
        return f"Session({len(self._times)} events, observed until {self.observed_until:g})"

    @property
    def history(self) -> EventSequence:
        """Everything observed so far, as a sequence on its window."""
        given = self._given
        return EventSequence(
            torch.tensor(self._times, dtype=torch.float64),
            torch.tensor(self._marks, dtype=torch.int64),
            given.t_start,
            self.observed_until,
            given.index,
            torch.tensor(self._inter_times, dtype=torch.float64),
            given.score_start,
            given.censored_start,
            given.id,
            None if self._stamps is None else torch.tensor(self._stamps, dtype=torch.int64),
        )

    @property
    def _seen(self) -> EventSequence:
        """The part of the history that the model sees."""
        return begun_at(self.history, self._start)

    @property
    def _last_time(self) -> float:
        return self._times[-1] if self._times else self._given.window_start

    @property
    def _seen_since(self) -> float:
        """The time of the last event that the model sees, or the start of what it sees."""
        return max(self._last_time, self._start)

    def observe(self, time: Any, mark: int | str = 0) -> None:
        """Append an event; the sequence is then known until its time.

        Args:
            time: absolute, later than every event and not before the time until which the sequence is known: a number,
                or a timestamp (text in ISO 8601, without a zone in UTC, or an object) where the model's data have some.
            mark: by index or name.

        Raises:
            ValueError: the time is not later, or there is no such mark.
        """
        stamp, time = stamp_of(time), self._later(time, "an event")
        if not time > self._last_time:
            raise ValueError(f"time = {time} is not later than the last event, at {self._last_time}")
        (index,) = mark_indices("mark", [mark], self.model.num_marks, self._names)
        self._encode()
        inter_time, device = self._since_last(time, stamp), self._last.times.device
        since = time - self._start
        seen_time = inter_time if self._last_time >= self._start else since
        self._last = EventTokens(
            torch.tensor([[index + 1]], device=device),
            torch.tensor([[since]], dtype=torch.float64, device=device),
            torch.tensor([[seen_time]], dtype=torch.float64, device=device),
        )
        self._distribution = None
        self._times.append(time)
        self._marks.append(index)
        self._inter_times.append(inter_time)
        self.observed_until = time
        self._shorten()

    def _since_last(self, time: float, stamp: np.datetime64 | None) -> float:
        """Return the inter-time of an event, of two timestamps in whole nanoseconds, and note its timestamp."""
        if stamp is None or self._stamps is None:
            self._stamps = None
            return time - self._last_time
        before = self._stamps[-1:]
        self._stamps.append(int(stamp.astype(np.int64)))
        if not before:
            return time - self._last_time
        return float(self._clock.durations(np.asarray(stamp - np.datetime64(before[0], "ns"))))

    def elapse(self, until: Any) -> None:
        """Say that nothing has happened until a time.

        Args:
            until: absolute, a number or a timestamp, not before the time until which the sequence is known.
        """
        self.observed_until = self._later(until, "time")
        self._shorten()

    def _shorten(self) -> None:
        """Begin anew with the lookback of the model where what it sees has become longer than its windows."""
        if self._windows is not None and self.observed_until - self._start > self._windows.longest:
            self._begin(self._windows.shortened(self.history))

    @property
    def distribution(self) -> Any:
        """The distribution of the next inter-time and mark, (1,), given that nothing came until `observed_until`.

        Inter-times count from the last event (the window's start where there is none).
        """
        self._encode()
        elapsed = torch.tensor([self.observed_until - self._seen_since], dtype=torch.float64)
        return self._distribution if float(elapsed) == 0 else self._distribution.truncated(elapsed)

    def intensity(self, times: Tensor | list[float]) -> Tensor:
        """Return the intensity of each mark at absolute times if nothing comes until then, float64 (n, num_marks).

        Args:
            times: from the last event on; the present, `observed_until`, is one of them.

        Raises:
            ValueError: a time is before the last event, or not finite.
        """
        self._encode()
        distribution = self._distribution.unsqueeze(0)  # whole: what is known to be empty cancels in density / survival
        at = torch.as_tensor(times, dtype=torch.float64).view(-1, 1) - self._seen_since
        if not bool(((at >= 0) & at.isfinite()).all()):
            raise ValueError(f"times = {times} must be finite and not before the last event, at {self._seen_since}")
        with torch.inference_mode():
            log_time = distribution.inter_time.log_prob(at) - distribution.log_survival(at)
            found: Tensor = (log_time.unsqueeze(-1) + distribution.mark_log_probs(at)).exp().squeeze(1)
            return found

    def sample(self, draft: Any = None, **arguments: Any) -> SampledSequences:
        """Continue the sequence; as `tppsd.sample`, whose other arguments it takes.

        Without options, `compile` is as the session has it.
        """
        if arguments.get("options") is None:
            arguments.setdefault("compile", self._compile)
        return sample(self.model, draft, history=self._taken(arguments), **arguments)

    def forecast(self, horizon: float | str, **arguments: Any) -> Forecast:
        """Forecast the sequence; as `tppsd.forecast`, whose other arguments it takes.

        Without options, `compile` is as the session has it.
        """
        if arguments.get("options") is None:
            arguments["options"] = SamplingOptions(compile=self._compile)
        return forecast(self.model, self._taken(arguments), horizon, **arguments)

    def _taken(self, arguments: dict[str, Any]) -> EventSequence:
        """Return the history to continue: what the model sees, or all of it where `history_lookback` cuts it."""
        return self._seen if arguments.get("history_lookback") is None else self.history

    def _encode(self) -> None:
        """Put the newest token into the cache, where it is not."""
        if self._distribution is not None:
            return
        with torch.inference_mode():
            self._distribution = self.model.distribution(self.model.extend(self._last, self._cache))[:, 0]

    def _later(self, time: Any, what: str) -> float:
        number = time_of(time, self._clock, "time")
        if not math.isfinite(number) or number < self.observed_until:
            raise ValueError(
                f"{what} at {number} comes before {self.observed_until}, until which the sequence is known already"
            )
        return number
