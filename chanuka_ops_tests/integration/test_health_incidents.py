"""Incidents of sessions and of the server: found at their object and severity; twins and look-alikes stay silent."""

from __future__ import annotations

import pytest

from chanuka_ops_tests.integration.health_incidents import INCIDENTS
from chanuka_ops_tests.plugins.planting import ANY, Incident, Planter, clears, look

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
TWINS = [incident for incident in INCIDENTS if incident.twin is not None]


@pytest.mark.parametrize("incident", INCIDENTS, ids=lambda incident: incident.name)
def test_an_incident(incident: Incident, judged: Planter) -> None:
    if incident.oldest > judged.server.major:
        pytest.skip(f"PostgreSQL {judged.server.major} can't hold it: needs {incident.oldest}")
    with judged.planted(incident) as manager:
        findings = look(manager, incident, until=incident.found is not None)
        name = str(manager.settings.sqlalchemy_url.database)
    if incident.found is None:
        assert findings == []
        return
    assert {finding.status for finding in findings} == {incident.status}
    if incident.found != ANY:
        assert [finding.object for finding in findings] == [incident.found.replace("{db}", name)]


@pytest.mark.parametrize("incident", TWINS, ids=lambda incident: incident.name)
def test_a_healthy_twin(incident: Incident, judged: Planter) -> None:
    with judged.planted(incident, healthy=True) as manager:
        found = clears(manager, incident) if incident.twin_clears else look(manager, incident, until=False)
    assert found == []
