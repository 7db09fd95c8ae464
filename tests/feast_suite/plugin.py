"""What pytest is told beside Feast's conftest: every store for every test, servers, a table."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

import feast
import pytest
from moto.server import ThreadedMotoServer
from servers import postgres_server

from feast_suite.known import REASONS


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The URL of an endpoint that speaks S3's protocol."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run on all stores what Feast runs on its file store alone: the last such marker counts."""
    metafunc.definition.add_marker(pytest.mark.universal_offline_stores)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say of each test that is known not to pass why, and fail it if it does."""
    for item in items:
        reason = REASONS.get((_store(item.name), item.name.partition("[")[0]))
        if reason:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "rbac_remote_integration_test: of Feast's remote store")
    config.pluginmanager.register(Tally())


class Tally:
    """How the tests ended, for each file and store."""

    def __init__(self) -> None:
        self.ends: dict[tuple[str, str], Counter[bool]] = defaultdict(Counter)
        self.missed: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once: when it was called, or did not come to that."""
        if report.when != "call" and report.passed:
            return
        file, _, name = report.nodeid.rpartition("/")[2].partition("::")
        store = _store(name)
        self.ends[file, store][report.passed] += 1
        if not report.passed:
            self.missed[name.partition("[")[0], _reason(report)][store] += 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the table, and below it what did not pass."""
        stores = list(dict.fromkeys(store for _, store in sorted(self.ends)))
        files = sorted({file for file, _ in self.ends})
        rows = [[file, *(self._cell(file, store) for store in stores)] for file in files]
        rows = [["file", *stores], ["---"] * (len(stores) + 1), *rows]
        terminalreporter.section(f"Feast {feast.__version__}")
        for row in rows:
            terminalreporter.write_line(f"| {' | '.join(row)} |")
        for (test, reason), where in sorted(self.missed.items()):
            counts = ", ".join(f"{store} {count}" for store, count in sorted(where.items()))
            terminalreporter.write_line(f"- {test} ({counts}): {reason}")

    def _cell(self, file: str, store: str) -> str:
        ends = self.ends[file, store]
        return f"{ends[True]} of {ends.total()}" if ends else ""


def _store(test: str) -> str:
    """The creator that `test` was made for, in Feast's own writing of a configuration."""
    found = re.search(r":((Asof|Feast)\w+):", test)
    return found[1] if found else "no store"


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return getattr(report, "wasxfail", "") or report.longreprtext.splitlines()[-1]
