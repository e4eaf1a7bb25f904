"""What can be switched off."""

from __future__ import annotations

from chanuka_ops.config.databases import Section


class FeatureSettings(Section):
    """What is switched off here is absent: no command, no job step, no schedule."""

    read_replicas: bool = True
    circuit_breaker: bool = True
    health_monitoring: bool = True
    performance_tracking: bool = True
