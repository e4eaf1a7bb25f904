"""What a driver's failure means, as tables."""

from __future__ import annotations

import pytest

from chanuka_ops import errors
from chanuka_ops.db import classify
from chanuka_ops.db.classify import Reachability


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ('FATAL:  password authentication failed for user "ops"', errors.AuthenticationFailed),
        ("fe_sendauth: no password supplied", errors.AuthenticationFailed),
        ('FATAL:  no pg_hba.conf entry for host "::1", user "x"', errors.AuthenticationFailed),
        ('FATAL:  pg_hba.conf rejects connection for host "[local]"', errors.AuthenticationFailed),
        ('FATAL:  Peer authentication failed for user "x"', errors.AuthenticationFailed),
        ('FATAL:  role "nobody" does not exist', errors.AuthenticationFailed),
        ('FATAL:  database "shop" does not exist', errors.DatabaseMissing),
        ("FATAL:  sorry, too many clients already", errors.TargetSaturated),
        ('FATAL:  too many connections for role "ops"', errors.TargetSaturated),
        (
            "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
            errors.TargetSaturated,
        ),
        (
            "FATAL:  remaining connection slots are reserved for non-replication superuser connections",
            errors.TargetSaturated,
        ),
        ('FATAL:  database "other" does not exist', errors.ConnectError),
        ("something new", errors.ConnectError),
        ("", errors.ConnectError),
    ],
)
def test_why_a_server_that_answers_said_no(message: str, kind: type[errors.ConnectError]) -> None:
    assert classify.of_connect(Reachability.ANSWERS, message, "shop") is kind


@pytest.mark.parametrize("message", ["password authentication failed", "too many clients", ""])
def test_whether_it_answers_comes_before_its_words(message: str) -> None:
    assert classify.of_connect(Reachability.SILENT, message, "shop") is errors.TargetUnavailable
    assert classify.of_connect(Reachability.REJECTS, message, "shop") is errors.TargetStarting


@pytest.mark.parametrize(
    ("sqlstate", "closed", "kind"),
    [
        ("42501", False, errors.PermissionDenied),
        ("55P03", False, errors.LockTimeout),
        ("57014", False, errors.StatementTimeout),
        ("53300", False, errors.TargetSaturated),
        ("57P03", False, errors.TargetStarting),
        ("3D000", False, errors.DatabaseMissing),
        ("28P01", False, errors.AuthenticationFailed),
        ("28000", False, errors.AuthenticationFailed),
        ("57P01", True, errors.ConnectionLost),
        ("57P02", True, errors.ConnectionLost),
        ("08006", False, errors.ConnectionLost),
        (None, True, errors.ConnectionLost),
        (None, False, errors.DatabaseError),
        ("42P01", False, errors.DatabaseError),
        ("40001", False, errors.DatabaseError),
    ],
)
def test_what_a_failure_within_a_session_means(
    sqlstate: str | None,
    closed: bool,  # noqa: FBT001 - a column of the table
    kind: type[errors.DatabaseError],
) -> None:
    assert classify.of_sqlstate(sqlstate, connection_closed=closed) is kind


@pytest.mark.parametrize(
    ("sqlstate", "may"),
    [
        ("55P03", True),
        ("40P01", True),
        ("40001", True),
        ("57014", False),
        ("23505", False),
        ("08006", False),
        (None, False),
    ],
)
def test_which_transactions_may_run_again(sqlstate: str | None, may: bool) -> None:  # noqa: FBT001 - a column of the table
    assert classify.may_retry_transaction(sqlstate) is may
