"""What the service tells Prometheus of itself.

The figures are kept here and not in the client library's own objects: those write to files, and
cannot forget a label, as soon as some library switches its multi-process mode on, as Feast does.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from millwright.release import Manifest
from millwright.serving.predictions import PredictionAnswer

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
MINUTE, HOUR, DAY = 60, 3_600, 86_400
AGES = (MINUTE, 10 * MINUTE, HOUR, 2 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 30 * DAY)
RELEASE_LABELS = ("model", "version", "feature_service", "dataset_version")


class Metrics(Collector):
    """The figures of one service, counted and told by one thread."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.seconds = Histogram(SECONDS)
        self.predictions = Counter(ok=0, degraded=0, unknown=0)
        self.ages = Histogram(AGES)
        self.manifest: Manifest | None = None
        self.refused = False
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def requested(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self.requests[path, str(status)] += 1
        self.seconds.observe(path, seconds)

    def answered(self, answer: PredictionAnswer) -> None:
        """Count the machines of an answer and how old their features were."""
        for prediction in answer.predictions:
            self.predictions[prediction.status] += 1
            for view, state in prediction.views.items():
                if state.age is not None and state.status != "missing":
                    self.ages.observe(view, state.age)

    def text(self, manifest: Manifest | None, refused: str | None) -> bytes:
        """The exposition, with what is in use at this moment."""
        self.manifest, self.refused = manifest, refused is not None
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The figures as the client library writes them down."""
        requests = CounterMetricFamily(
            "millwright_requests", "Requests answered", labels=("path", "status")
        )
        for labels, count in self.requests.items():
            requests.add_metric(labels, count)
        yield requests
        yield self.seconds.family(
            "millwright_request_seconds", "Time from a request to its answer", "path"
        )
        predictions = CounterMetricFamily(
            "millwright_predictions", "Machines answered about: ok, degraded or unknown",
            labels=("status",),
        )  # fmt: skip
        for status, count in self.predictions.items():
            predictions.add_metric((status,), count)
        yield predictions
        yield self.ages.family(
            "millwright_feature_age_seconds", "Age of the features that were answered from", "view"
        )
        release = GaugeMetricFamily(
            "millwright_release_info", "The release in use", labels=RELEASE_LABELS
        )
        if used := self.manifest:
            labels_of_it = (
                used.name,
                str(used.version),
                used.feature_service,
                used.dataset_version,
            )
            release.add_metric(labels_of_it, 1)
        yield release
        yield GaugeMetricFamily(
            "millwright_release_refused", "1 while the champion is not what is in use",
            value=int(self.refused),
        )  # fmt: skip


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

    def family(self, name: str, text: str, label: str) -> HistogramMetricFamily:
        """All of it under a name."""
        found = HistogramMetricFamily(name, text, labels=(label,))
        ends = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        for value, counts in self.counts.items():
            buckets = list(zip(ends, accumulate(counts), strict=True))
            found.add_metric((value,), buckets, self.sums[value])
        return found
