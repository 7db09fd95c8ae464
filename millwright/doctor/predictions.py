"""The prediction service: where it runs, and whether it can predict."""

from collections.abc import Iterator

from millwright.arguments import FLEET
from millwright.deployment import SERVICE
from millwright.doctor.findings import Check, Finding, Patient
from millwright.serving import background


def service(patient: Patient) -> Iterator[Finding]:
    """What the service of each fleet says of itself; that none runs is no fault.

    One that runs elsewhere has to be named, and is then asked alone.
    """
    if elsewhere := patient.given.get(SERVICE, "").rstrip("/"):
        fleet = background.ask(elsewhere, "/")[1].get("fleet", FLEET)
        yield _asked(patient, fleet, elsewhere, f"export {SERVICE}=...")
        return
    for name in (fleet.name for fleet in patient.fleets()):
        start = patient.command(f"serve --background --fleet {name}")
        if url := background.address(patient.state, name):
            yield _asked(patient, name, url, start)
        elif patient.settings.serving.start:
            yield Finding(f"service of {name}", "ok", f"none runs here; to start it: {start}")
        else:
            said = f"runs elsewhere, if it does; to have it asked: export {SERVICE}=..."
            yield Finding(f"service of {name}", "ok", said)


def _asked(patient: Patient, fleet: str, url: str, start: str) -> Finding:
    """What the service at `url` says to the question whether it is ready."""
    title = f"service of {fleet}"
    status, said = background.ask(url, "/ready")
    if not status:
        return Finding(title, "fault", f"does not answer at {url}", start)
    used, reason = said.get("release"), said.get("reason") or f"it answers {status}"
    if not said.get("ready"):
        mend = patient.run("features" if used else "training", fleet)
        return Finding(title, "fault", f"cannot predict, at {url}: {reason}", mend)
    told = f"ready at {url}, by v{used['version']}"
    if said["refused"]:
        mend = patient.command(f"releases list --fleet {fleet}")
        return Finding(title, "warning", f"{told}, and refuses: {said['refused']}", mend)
    return Finding(title, "ok", told)


CHECKS = (Check("service", service, "python -m millwright serve --background"),)
