"""What Dagster loads: `-m chanuka_ops.definitions`."""

import dagster as dg

from chanuka_ops import config
from chanuka_ops.defs.assets import checks, specs
from chanuka_ops.defs.jobs import jobs
from chanuka_ops.defs.resources import DatabaseResource
from chanuka_ops.defs.schedules import schedules
from chanuka_ops.defs.sensors import sensors


@dg.definitions
def defs() -> dg.Definitions:
    """Build the definitions from the settings in force; nothing is read at import."""
    settings = config.load()
    return dg.Definitions(
        assets=specs(settings),
        asset_checks=checks(settings),
        jobs=jobs(settings),
        schedules=schedules(settings),
        sensors=sensors(settings),
        resources={"db": DatabaseResource(database="main")},
        executor=dg.in_process_executor,
    )
