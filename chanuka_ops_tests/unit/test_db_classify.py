"""What a failure means, as tables over phase and SQLSTATE."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chanuka_ops import errors
from chanuka_ops.db import classify
from chanuka_ops.db.classify import FailureClass, Phase, Retry, Stage

SQLSTATES = st.one_of(st.none(), st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=5, max_size=5))


@pytest.mark.parametrize(
    ("sqlstate", "kind", "counts"),
    [
        ("28P01", errors.AuthenticationFailed, FailureClass.AUTHENTICATION),
        ("28000", errors.AuthenticationFailed, FailureClass.AUTHENTICATION),
        ("28999", errors.AuthenticationFailed, FailureClass.AUTHENTICATION),
        ("3D000", errors.DatabaseMissing, None),
        ("53300", errors.TargetSaturated, FailureClass.SATURATION),
        ("53200", errors.TargetSaturated, FailureClass.SATURATION),
        ("57P03", errors.TargetStarting, FailureClass.AVAILABILITY),
        ("57P01", errors.TargetUnavailable, FailureClass.AVAILABILITY),
        ("42501", errors.ConnectError, None),
        ("XX000", errors.ConnectError, None),
    ],
)
def test_what_the_servers_refusal_of_a_connection_means(
    sqlstate: str, kind: type[errors.ConnectError], counts: FailureClass | None
) -> None:
    meaning = classify.of_connect(sqlstate)
    assert (meaning.kind, meaning.counts) == (kind, counts)


def test_a_full_server_is_not_a_dead_one() -> None:
    assert classify.of_connect("53300").counts is not classify.of_stage(Stage.REFUSED).counts


@pytest.mark.parametrize("stage", list(Stage))
def test_each_stage_has_a_meaning(stage: Stage) -> None:
    meaning = classify.of_stage(stage)
    assert issubclass(meaning.kind, errors.ConnectError)
    assert (meaning.counts is FailureClass.AVAILABILITY) is (stage not in {Stage.TLS, Stage.PASSWORD})
    assert (meaning.retry is Retry.CONNECT) is (meaning.counts is FailureClass.AVAILABILITY)


@pytest.mark.parametrize(
    ("sqlstate", "lost", "kind"),
    [
        ("42501", False, errors.PermissionDenied),
        ("55P03", False, errors.LockTimeout),
        ("57014", False, errors.StatementTimeout),
        ("25006", False, errors.ReadOnlyServer),
        ("25P03", False, errors.ConnectionLost),
        ("57P05", False, errors.ConnectionLost),
        ("57P01", True, errors.ConnectionLost),
        ("57P02", True, errors.ConnectionLost),
        ("08006", False, errors.ConnectionLost),
        (None, True, errors.ConnectionLost),
        (None, False, errors.DatabaseError),
        ("42P01", False, errors.DatabaseError),
        ("40001", False, errors.DatabaseError),
        ("53100", False, errors.DatabaseError),
    ],
)
def test_what_a_failure_within_a_session_is(
    sqlstate: str | None,
    lost: bool,  # noqa: FBT001 - a column of the table
    kind: type[errors.DatabaseError],
) -> None:
    assert classify.of_session(sqlstate, lost=lost, phase=Phase.IN_TRANSACTION).kind is kind


@pytest.mark.parametrize(
    ("sqlstate", "lost", "in_transaction", "at_commit", "autocommit"),
    [
        ("40001", False, Retry.TRANSACTION, Retry.TRANSACTION, Retry.NEVER),
        ("40P01", False, Retry.TRANSACTION, Retry.TRANSACTION, Retry.NEVER),
        ("40001", True, Retry.TRANSACTION, Retry.TRANSACTION, Retry.NEVER),
        ("25006", False, Retry.REDISCOVER, Retry.REDISCOVER, Retry.REDISCOVER),
        ("57P01", True, Retry.IF_IDEMPOTENT, Retry.RESOLVE, Retry.NEVER),
        (None, True, Retry.IF_IDEMPOTENT, Retry.RESOLVE, Retry.NEVER),
        ("08007", False, Retry.IF_IDEMPOTENT, Retry.RESOLVE, Retry.NEVER),
        ("40003", False, Retry.IF_IDEMPOTENT, Retry.RESOLVE, Retry.NEVER),
        ("55P03", False, Retry.NEVER, Retry.NEVER, Retry.NEVER),
        ("57014", False, Retry.NEVER, Retry.NEVER, Retry.NEVER),
        ("53100", False, Retry.NEVER, Retry.NEVER, Retry.NEVER),
        ("23505", False, Retry.NEVER, Retry.NEVER, Retry.NEVER),
    ],
)
def test_the_phase_decides_what_may_be_repeated(
    sqlstate: str | None,
    lost: bool,  # noqa: FBT001 - a column of the table
    in_transaction: Retry,
    at_commit: Retry,
    autocommit: Retry,
) -> None:
    found = {
        phase: classify.of_session(sqlstate, lost=lost, phase=phase).retry
        for phase in (Phase.IN_TRANSACTION, Phase.COMMIT, Phase.AUTOCOMMIT)
    }
    assert list(found.values()) == [in_transaction, at_commit, autocommit]


@given(sqlstate=SQLSTATES, lost=st.booleans(), phase=st.sampled_from(Phase))
def test_nothing_in_doubt_is_repeated_blindly(sqlstate: str | None, lost: bool, phase: Phase) -> None:  # noqa: FBT001
    meaning = classify.of_session(sqlstate, lost=lost, phase=phase)
    if lost and phase is Phase.COMMIT and sqlstate not in {"40001", "40P01", "25006"}:
        assert meaning.retry is Retry.RESOLVE
    if lost and phase is Phase.AUTOCOMMIT:
        assert meaning.retry in {Retry.NEVER, Retry.REDISCOVER}
    if issubclass(meaning.kind, errors.ConnectionLost):
        assert meaning.retry is not Retry.TRANSACTION
    if meaning.counts is not None:
        assert issubclass(meaning.kind, errors.ConnectionLost), "only a server in trouble counts against it"
