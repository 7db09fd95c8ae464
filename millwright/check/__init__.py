"""Everything about an environment, checked without reaching or changing anything.

python run.py --stack production --check          what is missing here, too
python run.py --stack production --check-form     the files alone, as a clean checkout has them
"""

from millwright.check import isolated, manifests, stacks, variables
from millwright.check.report import CheckReport, Finding, of_error
from millwright.errors import ConfigurationError
from millwright.settings import State, load_settings

__all__ = ["CheckReport", "Finding", "check_environment"]


def check_environment(name: str, state: State, *, form_only: bool = False) -> CheckReport:
    """All that is missing or wrong in the environment `name`, and what a run in it would use.

    `form_only` leaves out what only a machine and plant of one's own can have: variables that are
    set, secrets in ZenML, its server, a kubeconfig, and own names in place of those of examples.
    Nothing is connected to, created or changed. A secret is never part of a report.
    """
    try:
        settings = load_settings(name)
    except ConfigurationError as err:
        return CheckReport(name, (), tuple(of_error(err)))
    found = variables.check(settings, state)
    plan = [f"{server}: {where}" for server, where in variables.servers(settings, state).items()]
    stack, unreadable = stacks.read(name)
    found += unreadable
    if stack is not None:
        found += stacks.check(stack, settings, state)
        plan = [*stacks.plan(stack, state), *plan]
    found += manifests.check(settings, state)
    found += isolated.findings(stack, settings, state)
    plan += manifests.plan(settings)
    if form_only:
        found = [each for each in found if not each.yours]
    return CheckReport(name, tuple(plan), tuple(dict.fromkeys(found)))
