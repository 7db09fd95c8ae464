"""All checks, one after the other, each within its time and whatever it meets."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from urllib.parse import unquote

from millwright.doctor.findings import LEFT_OUT, Check, Finding, Patient, Unanswered
from millwright.errors import MillwrightError, first_line

# Imported when their turn comes: what they import may be slow, or broken itself.
MODULES = (
    "machine", "surroundings", "servers", "stores", "models", "predictions", "stacks", "features",
    "leftovers",
)  # fmt: skip
SECONDS = 60.0  # for a check on this machine, and for an import
WAIT = 8.0  # for a check that waits for a server


def examine(patient: Patient) -> Iterator[Finding]:
    """What each check has found, in order."""
    for module in MODULES:
        for check in _checks(module):
            for finding in look(check, patient):
                yield without_secrets(finding, patient)


def look(check: Check, patient: Patient) -> list[Finding]:
    """What one check has found, be it that it could not be made."""
    mend = check.mend
    if mend.startswith("python -m millwright "):
        mend = patient.command(mend.removeprefix("python -m millwright "))
    waits = check.server if patient.has_servers else None
    try:
        return _within(lambda: check.look(patient), WAIT if waits else SECONDS)
    except Unanswered as err:
        return [Finding(check.name, "warning", str(err), patient.command("services status"))]
    except TimeoutError as err:
        if waits:
            patient.silence(waits)
        said = str(err) or "an answer did not come in time"
        return [Finding(check.name, "fault", said, mend)]
    except MillwrightError as err:
        if str(err).startswith(LEFT_OUT):
            return [Finding(check.name, "warning", str(err), patient.command("doctor"))]
        return [Finding(check.name, "fault", str(err), mend)]
    except Exception as err:  # whatever it is, it is what is wrong
        said = f"cannot be examined: {type(err).__name__}: {first_line(err)}"
        return [Finding(check.name, "fault", said, mend)]


def _checks(module: str) -> Sequence[Check]:
    """The checks of a module; one that says why, if it cannot be imported."""
    try:
        _within(lambda: [import_module(f"millwright.doctor.{module}")], SECONDS)  # type: ignore[list-item]
    except Exception as err:
        broken = err

        def say(patient: Patient) -> list[Finding]:  # noqa: ARG001
            raise broken

        return [Check(module, say, "make setup")]
    checks: Sequence[Check] = import_module(f"millwright.doctor.{module}").CHECKS
    return checks


def _within(work: Callable[[], Iterable[Finding]], seconds: float) -> list[Finding]:
    """What `work` gives, in a thread that is left alone if it hangs.

    Raises:
        TimeoutError: it has not come to its end; or whatever it raises.
    """
    found: list[Finding] = []
    raised: list[BaseException] = []

    def do() -> None:
        try:
            found.extend(work())
        except BaseException as err:  # a library may raise SystemExit
            raised.append(err)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"did not end within {seconds:.0f} s")
    if raised and isinstance(raised[0], Exception):
        raise raised[0]
    if raised:
        raise RuntimeError(f"{type(raised[0]).__name__}: {raised[0]}")
    return found


def without_secrets(finding: Finding, patient: Patient) -> Finding:
    """The same without any password that this environment has."""
    found, mend = finding.found, finding.mend
    for secret in _secrets(patient):
        found = found.replace(secret, "***")
        mend = mend.replace(secret, "***") if mend else None
    return replace(finding, found=" ".join(found.split()), mend=mend)


def _secrets(patient: Patient) -> set[str]:
    """The passwords in URLs, those of servers and those in variables."""
    urls = [*patient.urls.values(), *(v for v in patient.given.values() if "://" in v)]
    found = set()
    for url in urls:
        account = url.partition("://")[2].rpartition("@")[0]
        password = account.partition(":")[2]
        found |= {password, unquote(password)}
    return found - {""}
