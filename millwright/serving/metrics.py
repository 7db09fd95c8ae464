"""What the service tells Prometheus of itself."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from millwright.release import Manifest
from millwright.serving.predictions import PredictionAnswer

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
MINUTE, HOUR, DAY = 60, 3_600, 86_400
AGES = (MINUTE, 10 * MINUTE, HOUR, 2 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 30 * DAY)


class Metrics:
    """The figures of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "millwright_requests", "Requests answered", ("path", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "millwright_request_seconds", "Time from a request to its answer", ("path",),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.predictions = Counter(
            "millwright_predictions", "Machines answered about: ok, degraded or unknown",
            ("status",), registry=self.registry,
        )  # fmt: skip
        self.ages = Histogram(
            "millwright_feature_age_seconds", "Age of the features that were answered from",
            ("view",), buckets=AGES, registry=self.registry,
        )  # fmt: skip
        self.release = Gauge(
            "millwright_release_info", "The release in use",
            ("model", "version", "feature_service", "dataset_version"), registry=self.registry,
        )  # fmt: skip
        self.refused = Gauge(
            "millwright_release_refused", "1 while the champion is not what is in use",
            registry=self.registry,
        )  # fmt: skip
        for status in ("ok", "degraded", "unknown"):
            self.predictions.labels(status)

    def answered(self, answer: PredictionAnswer) -> None:
        """Count the machines of an answer and how old their features were."""
        for prediction in answer.predictions:
            self.predictions.labels(prediction.status).inc()
            for view, state in prediction.views.items():
                if state.age is not None:
                    self.ages.labels(view).observe(state.age)

    def text(self, manifest: Manifest | None, refused: str | None) -> bytes:
        """The exposition, with what is in use at this moment."""
        self.release.clear()
        if manifest:
            self.release.labels(
                manifest.name, manifest.version, manifest.feature_service, manifest.dataset_version
            ).set(1)
        self.refused.set(int(refused is not None))
        return generate_latest(self.registry)
