"""The features of one environment, read from its online store."""

import threading
from collections.abc import Sequence
from datetime import datetime

from feast import FeatureStore

from millwright import feast_store
from millwright.errors import MillwrightError
from millwright.online import OnlineFeatures, read_online
from millwright.settings import State


class FeatureReader:
    """Reads features, and opens the store for it, now or when it can be opened at last."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._store: FeatureStore | None = None
        self._opening = threading.Lock()

    def open(self) -> FeatureStore:
        """The store, opened once: each opening reads the registry.

        Raises:
            ConfigurationError: the environment's servers are not named.
            MillwrightError: a server does not answer.
        """
        with self._opening:
            if self._store is None:
                try:
                    self._store = feast_store.open_store(self.state)
                except MillwrightError:
                    raise
                except Exception as err:
                    raise _unavailable(err) from err
            return self._store

    def read(self, service: str, machines: Sequence[str], as_of: datetime) -> OnlineFeatures:
        """The features of `service` for `machines`.

        Raises:
            MillwrightError: they cannot be read, whatever the reason; the message has no secret.
        """
        try:
            return read_online(self.open(), service, machines, as_of)
        except MillwrightError as err:
            raise MillwrightError(str(err)) from err
        except Exception as err:
            raise _unavailable(err) from err


def _unavailable(err: Exception) -> MillwrightError:
    """What may be said of an error of a library, whose text may hold a URL with its password."""
    return MillwrightError(f"the feature store does not answer ({type(err).__name__})")
