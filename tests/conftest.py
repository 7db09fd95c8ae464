"""What all tests share: their process begins as a process of the project does."""

from millwright import startup

startup.import_quickly()
startup.leave_feast_unchecked()


def pytest_collection_finish() -> None:
    """By now everything is imported, and is there to stay."""
    startup.keep_what_is_there()
