"""`chanuka-ops health serve`."""

from __future__ import annotations

import click
from rich.text import Text

from chanuka_ops.cli.face import Face, common
from chanuka_ops.orchestrators import serving


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), required=True, help="0: one that is free.")
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 shows object names to the network.")
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=1.0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How often the databases are looked at, at most; a scrape never causes a look.",
)
@common
def serve(face: Face, *, port: int, host: str, every_s: float) -> int:
    """Serve every database's health at /metrics, for Prometheus, until Ctrl-C or SIGTERM."""
    settings = face.settings()
    remembered = serving.Remembered(every_s)
    try:
        with serving.answering(host, port, remembered) as (address, bound):
            where = f"[{address}]" if ":" in address else address
            words = f"health is at http://{where}:{bound}{serving.PATH}; Ctrl-C or SIGTERM ends it"
            face.err.print(Text(words))
            serving.sweeping(settings, remembered, every_s=every_s)
    except KeyboardInterrupt:  # what it's ended by, so no failure
        return 0
