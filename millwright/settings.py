"""Which environment this is, where it keeps its state, and how much it may use.

All run-time state lives in one folder, `.millwright/` under the repository unless `MILLWRIGHT_HOME`
names another. `State` is the only place that knows what lies where in it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, FiniteFloat

from millwright.configuration import Strict, load, nearest
from millwright.errors import ConfigurationError
from millwright.fields import Name

REPOSITORY = Path(__file__).parent.parent
ENVIRONMENTS = REPOSITORY / "configs" / "environments"
FEATURE_REPO = REPOSITORY / "feature_repo"
HOME = REPOSITORY / ".millwright"
FEAST_FILE = "FEAST_FS_YAML_FILE_PATH"  # names the `feature_store.yaml` that Feast takes


class Search(Strict):
    """The budget of a hyperparameter search. Whichever is used up first ends it."""

    trials: int = Field(gt=0)
    seconds: FiniteFloat = Field(gt=0)
    rows: int = Field(gt=0)


class Engine(Strict):
    """What computes features, and what it may use of this machine."""

    kind: Literal["duckdb", "postgres"] = "duckdb"
    memory_limit: str = Field(default="2GB", pattern=r"^\d+(\.\d+)?(MB|GB)$")
    threads: int = Field(default=2, gt=0)


class Serving(Strict):
    """How the prediction service keeps itself steady, each process for itself.

    `requests_per_second` and `burst` are of each client: a key's name, or an address where it has
    no key; 0 is no limit. An answer is had within `deadline_ms`, or refused. `stale` and `missing`
    say whether a machine with such features is answered as degraded, or refused. `start` says
    whether a deployment starts the service on this machine, and `standby` whether another process
    then waits to take over. Predictions go from the log `keep_days` after they were asked for; None
    keeps them.
    """

    requests_per_second: FiniteFloat = Field(default=0, ge=0)
    burst: int = Field(default=200, gt=0)
    in_flight: int = Field(default=256, gt=0)
    deadline_ms: int = Field(default=400, gt=0)
    store_timeout_ms: int = Field(default=150, gt=0)
    most_machines: int = Field(default=1000, gt=0, le=1000)
    most_bytes: int = Field(default=1_000_000, gt=0)
    body_seconds: FiniteFloat = Field(default=10, gt=0)
    stale: Literal["degrade", "refuse"] = "degrade"
    missing: Literal["degrade", "refuse"] = "degrade"
    start: bool = True
    standby: bool = False
    keep_days: int | None = Field(default=None, gt=0, le=36_500)


class Settings(Strict):
    """`configs/environments/<name>/settings.yaml`.

    `servers` says whether the environment has any: PostgreSQL, Redis and MLflow, started on this
    machine or running elsewhere. URLs in variables go before those that are started here.
    `variables` are those that must be set for it, and what each one is.
    """

    environment: Name
    servers: Literal["none", "here", "elsewhere"]
    variables: dict[str, str] = Field(default_factory=dict)
    engine: Engine
    search: Search
    serving: Serving = Field(default_factory=Serving)
    report_rows: int = Field(gt=0)


@dataclass(frozen=True)
class State:
    """The folders of one environment, and of one fleet in it."""

    home: Path
    environment: str

    @property
    def root(self) -> Path:
        """The folder of the environment."""
        return self.home / self.environment

    @property
    def lock(self) -> Path:
        """Held by the one run that may change the environment's state."""
        return self.root / "run.lock"

    @property
    def zenml(self) -> Path:
        """ZenML's own configuration, database and artifacts, of all environments."""
        return self.home / "zenml"

    @property
    def mlflow_uri(self) -> str:
        """Where MLflow keeps runs and registered models."""
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        """Where MLflow keeps the files of its runs."""
        return self.root / "mlflow"

    @property
    def services(self) -> Path:
        """Servers that run on this machine for the environment: their data and their logs."""
        return self.root / "services"

    @property
    def endpoints(self) -> Path:
        """The URLs of those servers, passwords included; only the owner may read it."""
        return self.services / "endpoints.json"

    @property
    def keys(self) -> Path:
        """The hashes of the keys that its prediction service asks for."""
        return self.root / "keys.json"

    @property
    def cache(self) -> Path:
        """What libraries keep to be faster next time."""
        return self.home / "cache"

    def incoming(self, fleet: str) -> Path:
        """The tables of a simulated fleet, as they would arrive from a real one."""
        return self.home / "simulated" / fleet

    def raw(self, fleet: str) -> Path:
        """The raw store: validated rows, append-only."""
        return self.root / fleet / "raw"

    def quarantine(self, fleet: str) -> Path:
        """Rows that the ingest refused, each with its reason."""
        return self.root / fleet / "quarantine"

    def offline(self, fleet: str) -> Path:
        """The offline store: one folder of parquet files for each feature view."""
        return self.root / fleet / "offline"

    def detectors(self, fleet: str) -> Path:
        """The anomaly detectors, one folder for each version."""
        return self.root / fleet / "detectors"

    def releases(self, fleet: str) -> Path:
        """Released models, one folder for each."""
        return self.root / fleet / "releases"

    def service(self, fleet: str) -> Path:
        """The prediction service, where it runs on this machine: its log and its address."""
        return self.root / fleet / "service"

    def predictions(self, fleet: str) -> Path:
        """The prediction log, where no PostgreSQL keeps it."""
        return self.root / fleet / "predictions"

    def journals(self, fleet: str) -> Path:
        """Answers on their way to the prediction log."""
        return self.root / fleet / "journal"

    def batch_predictions(self, fleet: str) -> Path:
        """The predictions of whole fleets, one file for each time, where no PostgreSQL has them."""
        return self.root / fleet / "batch_predictions"

    def reports(self, fleet: str) -> Path:
        """HTML reports on batches and on models, and work lists."""
        return self.root / fleet / "reports"

    def batch_report(self, fleet: str, batch: str | None) -> Path:
        """The report on a batch; a batch without telemetry has none."""
        return self.reports(fleet) / f"batch-{batch}.html"

    def model_report(self, fleet: str, version: int) -> Path:
        """The report on a version of the failure model."""
        return self.reports(fleet) / f"model-v{version}.html"

    def work_list(self, fleet: str, moment: str, form: str) -> Path:
        """The work list of a time, as `csv` or `html`."""
        return self.reports(fleet) / f"worklist-{moment}.{form}"


def load_settings(environment: str = "local") -> Settings:
    """Read the settings of an environment.

    Raises:
        ConfigurationError: there is no such environment, or its file is wrong.
    """
    path = ENVIRONMENTS / environment / "settings.yaml"
    if not path.is_file():
        raise ConfigurationError(
            f"there is no environment '{environment}'; {nearest(environment, environments())}"
        )
    settings = load(path, Settings)
    if settings.environment != environment:
        raise ConfigurationError(
            f"{path}: 'environment' is '{settings.environment}' and must be '{environment}', as "
            "the folder"
        )
    return settings


def environments() -> list[str]:
    """The names of all environments."""
    return sorted(path.parent.name for path in ENVIRONMENTS.glob("*/settings.yaml"))


def state(environment: str = "local") -> State:
    """The state folders of `environment`. Nothing is created."""
    home = os.environ.get("MILLWRIGHT_HOME")
    return State(Path(home).resolve() if home else HOME, environment)


def process_environment(state: State, mlflow: str | None = None) -> dict[str, str]:
    """The variables by which ZenML and MLflow find the project's state, and keep quiet.

    The same are exported by the virtual environment's `activate`, for what is typed by hand.
    `mlflow` is where the environment keeps MLflow's runs; a file, if it is not given.
    """
    uri = mlflow or state.mlflow_uri
    # `mlflow ui` reads this, and makes a server of it: where there is one it has nothing to read.
    own = {"MLFLOW_BACKEND_STORE_URI": uri} if uri.startswith("sqlite:") else {}
    return {
        "ZENML_CONFIG_PATH": str(state.zenml),
        "ZENML_LOCAL_STORES_PATH": str(state.zenml / "stores"),
        "ZENML_ANALYTICS_OPT_IN": "false",
        "ZENML_ENABLE_RICH_TRACEBACK": "false",
        "AUTO_OPEN_DASHBOARD": "false",
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_REGISTRY_URI": uri,
        **own,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "DO_NOT_TRACK": "true",
        "FEAST_USAGE": "False",
        "GIT_PYTHON_REFRESH": "quiet",
    }
