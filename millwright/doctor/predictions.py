"""The prediction service: where it runs, and whether it can predict."""

from collections.abc import Iterator

from millwright import asked_service
from millwright.arguments import FLEET
from millwright.asked_service import SERVICE
from millwright.doctor.findings import Check, Finding, Patient
from millwright.errors import ConfigurationError
from millwright.serving import background


def service(patient: Patient) -> Iterator[Finding]:
    """What the service of each fleet says of itself; that none runs is no fault.

    One that runs elsewhere has to be named, and is then asked alone.
    """
    mend = f"export {SERVICE}=..."
    try:
        url = asked_service.elsewhere(patient.given)
    except ConfigurationError as err:
        yield Finding("service", "fault", str(err), mend)
        return
    if url:
        fleet = background.ask(url, "/")[1].get("fleet")
        yield _asked(patient, fleet if isinstance(fleet, str) else FLEET, url, mend)
        return
    for name in (fleet.name for fleet in patient.fleets()):
        start = patient.command(f"serve --background --fleet {name}")
        if url := background.address(patient.state, name):
            yield _asked(patient, name, url, start)
        elif patient.settings.serving.start:
            yield Finding(f"service of {name}", "ok", f"none runs here; to start it: {start}")
        else:
            said = f"runs elsewhere, if it does; to have it asked: {mend}"
            yield Finding(f"service of {name}", "ok", said)


def _asked(patient: Patient, fleet: str, url: str, start: str) -> Finding:
    """What the service at `url` says to the question whether it is ready."""
    title = f"service of {fleet}"
    status, said = background.readiness(url)
    if not status:
        return Finding(title, "fault", f"does not answer at {url}", start)
    if not said.ready or not said.release:
        reason = said.reason or said.error or f"it answers {status}, and names no release"
        mend = patient.run("features" if said.release else "training", fleet)
        return Finding(title, "fault", f"cannot predict, at {url}: {reason}", mend)
    told = f"ready at {url}, by v{said.release.version}"
    if said.refused:
        mend = patient.command(f"releases list --fleet {fleet}")
        return Finding(title, "warning", f"{told}, and refuses: {said.refused}", mend)
    return Finding(title, "ok", told)


CHECKS = (Check("service", service, "python -m millwright serve --background"),)
