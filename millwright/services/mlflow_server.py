"""MLflow as a server of this machine: its tables in PostgreSQL, its artifacts in a folder.

Clients need nothing but the URL: artifacts go through the server.
"""

import sys
from pathlib import Path

from millwright.endpoints import with_parameters
from millwright.services.addresses import HOST
from millwright.services.process import Server

SCHEMA = "mlflow"


def server(folder: Path, port: int, database: str, artifacts: Path) -> Server:
    """The server that keeps its tables in the PostgreSQL at `database`, to listen on `port`."""
    return Server(
        name="mlflow",
        folder=folder,
        command=(
            sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port),
            "--workers", "1", "--serve-artifacts", "--artifacts-destination", str(artifacts),
        ),
        executable=Path(sys.executable),
        environment={
            # Not as an option: it holds a password, and options are for all to see.
            "MLFLOW_BACKEND_STORE_URI": in_schema(database),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves 800 MB
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        },
    )  # fmt: skip


def in_schema(database: str) -> str:
    """The URL of `database`, with tables made and looked for in MLflow's schema."""
    return with_parameters(database, f"-csearch_path={SCHEMA}", {})
