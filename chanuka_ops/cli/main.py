"""`chanuka-ops`: one group per capability. Errors become exit codes here, once.

0 done · 1 failed, or findings at or above --fail-on · 2 usage or configuration · 3 refused by a guard ·
4 outcome unknown
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from types import FrameType

import click

from chanuka_ops import context, errors, interrupts, logs
from chanuka_ops.cli.face import Face, common
from chanuka_ops.cli.lazy import LazyGroup
from chanuka_ops.health.exporting import nagios

_GROUPS = ("backup", "db", "demo", "health", "migrate", "optimise", "up")


@click.group(
    cls=LazyGroup,
    elsewhere={
        "config": "chanuka_ops.cli.configuration:config",
        **{name: f"chanuka_ops.cli.{name}:{name}" for name in _GROUPS},
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("-v", "--verbose", is_flag=True, help="Log each step on standard error.")
@click.option("--log-json", is_flag=True, help="Log as JSON lines.")
@click.version_option(package_name="chanuka-ops", prog_name="chanuka-ops")
@common
def cli(_: Face, *, verbose: bool, log_json: bool) -> None:
    """Operate PostgreSQL: proved, not hoped."""
    logs.configure(as_json=log_json, level=logging.DEBUG if verbose else logging.WARNING)


def run(args: list[str]) -> int:
    """Run one command line and return its exit code."""
    # known before the line is parsed: a wrong option is an error to be told too
    face = Face(as_json="--json" in args, as_nagios="--nagios" in args)
    try:
        code = cli.main(args, prog_name="chanuka-ops", standalone_mode=False, obj=face)
    except click.exceptions.NoArgsIsHelpError as error:
        return _helped(face, error)
    except click.ClickException as error:
        return _failed(face, error.format_message(), type(error).__name__, 2)
    except errors.ChanukaError as error:
        return _failed(face, logs.redact(str(error)), type(error).__name__, error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _failed(
            face, "stopped, and so was everything that was started", "Interrupted", errors.Interrupted.exit_code
        )
    except Exception as error:
        logging.getLogger("chanuka_ops.cli").debug("this is unexpected", exc_info=True)
        words = f"{logs.redact(str(error))} (unexpected: a defect of chanuka-ops; --verbose shows where)"
        return _failed(face, words, type(error).__name__, errors.ChanukaError.exit_code)
    return int(code or 0)


def _helped(face: Face, error: click.exceptions.NoArgsIsHelpError) -> int:
    """Answer a line without a command with the help, which is all that a person needs."""
    if face.as_json:
        return _failed(face, "which command? see --help", "UsageError", error.exit_code)
    click.echo(error.format_message(), err=True)
    return error.exit_code


def _failed(face: Face, message: str, kind: str, code: int) -> int:
    if face.as_json:
        face.answer({"error": {"kind": kind, "message": message, "exit_code": code}})
    face.terminal.failed(kind, message)
    if face.as_nagios:
        answer = nagios.failed(f"{kind}: {message}")
        click.echo(answer.line)
        return answer.code
    return code


def _terminate(_: int, __: FrameType | None) -> None:
    """Take SIGTERM for Ctrl-C: both unwind, so that every tool and statement that was started is stopped."""
    raise KeyboardInterrupt


def main() -> None:
    """Be the console script."""
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # the terminal was closed; nohup has it ignored
        signal.signal(signal.SIGHUP, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no arrow is no reason to fail
    with context.scope(), interrupts.kept():
        code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # `| head -1` has read enough: the work was done, and Python must not flush once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


if __name__ == "__main__":
    main()
