"""What the service tells Prometheus of itself.

The figures are kept here and not in the client library's own objects: those write to files, and
cannot forget a label, as soon as some library switches its multi-process mode on, as Feast does.
"""

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from millwright.serving.predictions import OUTCOMES
from millwright.serving.routes import Routes
from millwright.serving.rows import NEVER
from millwright.serving.scoring import Scored

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
MINUTE, HOUR, DAY = 60, 3_600, 86_400
AGES = (MINUTE, 10 * MINUTE, HOUR, 2 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 30 * DAY)
PROBABILITIES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
RELEASE_LABELS = ("model", "version", "feature_service", "dataset_version", "role")

Gauges = Callable[[], dict[str, tuple[str, float]]]


class Metrics(Collector):
    """The figures of one service, counted by whichever thread something happens in.

    `gauges` gives what others count, by name: what it is, and its value at the moment.
    """

    def __init__(self, gauges: Gauges = dict) -> None:
        self._gauges = gauges
        self._counted: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self.requests: Counter[tuple[str, str]] = Counter()
        self.seconds = Histogram(SECONDS)
        self.predictions: Counter[tuple[str, str, str]] = Counter()
        self.ages = Histogram(AGES)
        self.probabilities = Histogram(PROBABILITIES)
        self.routes: Routes | None = None
        self.refused = False
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def requested(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        with self._lock:
            self.requests[endpoint, str(status)] += 1
            self.seconds.observe(endpoint, seconds)

    def scored(self, scored: Scored) -> None:
        """Count what became of machines, how likely their failures are, and how old features."""
        version, rows = str(scored.loaded.version), scored.rows
        known = [each for each in scored.probabilities.tolist() if each == each]  # no NaN
        with self._lock:
            for outcome, count in Counter(scored.outcomes.tolist()).items():
                self.predictions[OUTCOMES[outcome], version, scored.role] += count
            self.probabilities.observe_all(version, known)
            moments = scored.as_of.tolist()
            for place in scored.loaded.plan.timed.tolist():  # what never grows old has no age
                events = rows.events[:, place].tolist()
                ages = [
                    (moment - event) / 1e6
                    for moment, event in zip(moments, events, strict=True)
                    if NEVER < event <= moment
                ]
                self.ages.observe_all(rows.views[place], ages)

    def text(self, routes: Routes | None, refused: str | None) -> bytes:
        """The exposition, with what is in use at this moment."""
        gauges = self._gauges()  # before the lock: what others count may wait for a disk
        with self._lock:
            self.routes, self.refused, self._counted = routes, refused is not None, gauges
            return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The figures as the client library writes them down."""
        yield _counter(
            "millwright_requests", "Requests answered", ("endpoint", "status"), self.requests
        )
        yield self.seconds.family(
            "millwright_request_seconds", "Time from a request to its answer", "endpoint"
        )
        yield _counter(
            "millwright_predictions",
            f"Machines answered about, by what became of them: {', '.join(OUTCOMES)}",
            ("status", "version", "role"),
            self.predictions,
        )
        yield self.probabilities.family(
            "millwright_probability", "Predicted probabilities of a failure", "version"
        )
        yield self.ages.family(
            "millwright_feature_age_seconds", "Age of the features that were answered from", "view"
        )
        release = GaugeMetricFamily(
            "millwright_release_info", "The releases in use", labels=RELEASE_LABELS
        )
        for role, loaded in self.routes.all if self.routes else ():
            used = loaded.release.manifest
            labels = (used.name, str(used.version), used.feature_service, used.dataset_version)
            release.add_metric((*labels, role), 1)
        yield release
        yield GaugeMetricFamily(
            "millwright_release_refused", "1 while something is in use that should not be",
            value=int(self.refused),
        )  # fmt: skip
        for name, (text, value) in self._counted.items():
            yield GaugeMetricFamily(f"millwright_{name}", text, value=value)


class Histogram:
    """How many values of each label are at most so high, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(bounds) + 1))
        self.sums: defaultdict[str, float] = defaultdict(float)

    def observe(self, label: str, value: float) -> None:
        """Count a value."""
        self.counts[label][bisect_left(self.bounds, value)] += 1
        self.sums[label] += value

    def observe_all(self, label: str, values: Sequence[float]) -> None:
        """Count values."""
        counts = self.counts[label]
        for value in values:
            counts[bisect_left(self.bounds, value)] += 1
        self.sums[label] += sum(values)

    def family(self, name: str, text: str, label: str) -> HistogramMetricFamily:
        """All of it under a name."""
        found = HistogramMetricFamily(name, text, labels=(label,))
        ends = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        for value, counts in self.counts.items():
            buckets = list(zip(ends, accumulate(counts), strict=True))
            found.add_metric((value,), buckets, self.sums[value])
        return found


def _counter(
    name: str, text: str, labels: Sequence[str], counts: Counter[Any]
) -> CounterMetricFamily:
    found = CounterMetricFamily(name, text, labels=labels)
    for values, count in counts.items():
        found.add_metric(values, count)
    return found
