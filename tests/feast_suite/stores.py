"""The module that FULL_REPO_CONFIGS_MODULE names: what Feast's universal tests are run against.

FEAST_SUITE_STORES chooses creators by name, with commas between them.
"""

import os

from feast_suite import creators

OURS = "AsofFile,AsofFolder,AsofS3,AsofPostgres,AsofPostgresQuery"
CHOSEN = os.environ.get("FEAST_SUITE_STORES", OURS).split(",")

PROVIDER = "millwright.stores.provider.GuardedProvider"

AVAILABLE_OFFLINE_STORES = [
    (PROVIDER, getattr(creators, f"{name}DataSourceCreator")) for name in CHOSEN
]
AVAILABLE_ONLINE_STORES = {
    "sqlite": ({"type": "millwright.stores.online_sqlite.OrderedSqliteOnlineStore"}, None)
}
