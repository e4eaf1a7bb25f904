"""Settings: the only reader of chanuka.toml and of the environment.

Layers, the later winning: defaults · chanuka.toml · its `[environments.<environment>]` · `DATABASE_URL` ·
`CHANUKA__SECTION__KEY`. Everything is validated at load, the tables of the other environments too; a problem is one
message that names the key and where it came from, and never its value, which may be a secret.

A name's module is imported when the name is first asked for: a process that is given one section (the migration
process is) doesn't wait for the models of the others to be built.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chanuka_ops.config.backup import (
        BackupSettings,
        DrillSettings,
        FilterSettings,
        HeartbeatSettings,
        KeepSettings,
        StoreSettings,
    )
    from chanuka_ops.config.databases import (
        DRIVER,
        BreakerSettings,
        DatabaseSettings,
        PoolSettings,
        ReplicaSettings,
        RoutingSettings,
        SecretSource,
        TimeoutSettings,
    )
    from chanuka_ops.config.features import FeatureSettings
    from chanuka_ops.config.layers import load
    from chanuka_ops.config.migration import MigrationSettings
    from chanuka_ops.config.model import (
        ENVIRONMENTS,
        NotifySettings,
        OperationSettings,
        OptimisationSettings,
        PostgresSettings,
        RouteSettings,
        RunSettings,
        Settings,
    )
    from chanuka_ops.config.monitoring import DatabaseMonitoring, MonitoringSettings, ObjectThreshold, Threshold

__all__ = [
    "DRIVER",
    "ENVIRONMENTS",
    "BackupSettings",
    "BreakerSettings",
    "DatabaseMonitoring",
    "DatabaseSettings",
    "DrillSettings",
    "FeatureSettings",
    "FilterSettings",
    "HeartbeatSettings",
    "KeepSettings",
    "MigrationSettings",
    "MonitoringSettings",
    "NotifySettings",
    "ObjectThreshold",
    "OperationSettings",
    "OptimisationSettings",
    "PoolSettings",
    "PostgresSettings",
    "ReplicaSettings",
    "RouteSettings",
    "RoutingSettings",
    "RunSettings",
    "SecretSource",
    "Settings",
    "StoreSettings",
    "Threshold",
    "TimeoutSettings",
    "load",
]

_HOMES = {
    **dict.fromkeys(
        ("BackupSettings", "DrillSettings", "FilterSettings", "HeartbeatSettings", "KeepSettings", "StoreSettings"),
        "backup",
    ),
    **dict.fromkeys(
        (
            "DRIVER", "BreakerSettings", "DatabaseSettings", "PoolSettings", "ReplicaSettings", "RoutingSettings",
            "SecretSource", "TimeoutSettings",
        ),
        "databases",
    ),
    "FeatureSettings": "features",
    "load": "layers",
    "MigrationSettings": "migration",
    **dict.fromkeys(("DatabaseMonitoring", "MonitoringSettings", "ObjectThreshold", "Threshold"), "monitoring"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import the module that a name is of. Errors: `AttributeError` where there is no such name."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'model')}"), name)
    return found
