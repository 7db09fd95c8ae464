"""What is decided about batch inference."""

from pydantic import Field

from millwright.configuration import Strict, load
from millwright.settings import REPOSITORY

FILE = REPOSITORY / "configs" / "pipelines" / "inference.yaml"


class Inference(Strict):
    """`configs/pipelines/inference.yaml`: how long the work list is, and how much it explains."""

    work_list: int = Field(default=50, gt=0)
    reasons: int = Field(default=3, gt=0, le=20)


def load_inference() -> Inference:
    """Read what is decided.

    Raises:
        ConfigurationError: the file is missing or wrong.
    """
    return load(FILE, Inference)
