"""What `make setup` adds to the environment's `activate`: `python -m millwright.activation`.

With it `zenml`, `feast` and `mlflow` typed by hand see the project's state. A variable that is set
already stays as it is.
"""

import shlex
import sys

from millwright.settings import process_environment, state


def exports() -> str:
    """Lines for a shell."""
    lines = ["", "# Millwright: where ZenML, MLflow and Feast find the state of this project"]
    for name, value in process_environment(state()).items():
        lines.append(f'[ -n "${{{name}:-}}" ] || export {name}={shlex.quote(value)}')
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(exports())
