"""Whether a migration may reach its database now. Pure: what is known, and the policy, are arguments.

What can't be known is a reason to refuse, never to let through. A database without tables has nothing to lose and
nobody to hold up: it needs neither backup, nor rehearsal, nor approval.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from chanuka_ops.config import MigrationSettings
from chanuka_ops.config.migration import Approvable, Require
from chanuka_ops.config.model import Environment
from chanuka_ops.migrator.model import Direction, Plan

Kind = Literal["backup", "rehearsal", "approval"]


@dataclass(frozen=True, slots=True)
class GatePolicy:
    """What has to be known before a migration. `max_blocking_s` is of one revision's locks, all in all."""

    require_proven_backup: Require
    require_rehearsal: Require
    approval: frozenset[Approvable]
    max_blocking_s: float
    max_rehearsal_age_s: float
    max_backup_age_s: float

    @classmethod
    def of(cls, settings: MigrationSettings, environment: Environment) -> Self:
        """Return the settings' policy; what they leave open is strict in production, and nothing in development."""
        production, serious = environment == "production", environment != "development"
        approval: frozenset[Approvable] = (
            frozenset({"destructive", "blocking", "danger"}) if production else frozenset()
        )
        return cls(
            settings.require_proven_backup or ("destructive" if serious else "never"),
            settings.require_rehearsal or ("always" if production else "never"),
            approval if settings.approval is None else settings.approval,
            settings.max_blocking_s,
            settings.max_rehearsal_age_s,
            settings.max_backup_age_s,
        )


@dataclass(frozen=True, slots=True)
class Backup:
    """The newest proven backup: its age, or why there's none or none can be seen."""

    age_s: float | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The newest rehearsal of exactly this plan. `blocking_s`: the longest that one revision blocks anybody."""

    rehearsal_id: str
    age_s: float
    problem: str | None
    blocking_s: float
    blocking_revision: str | None


@dataclass(frozen=True, slots=True)
class Approval:
    """A person's word on a plan, by its hash."""

    plan_hash: str
    actor: str
    at: str
    reason: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a migration. `dangers`: what lint calls one, by revision; None where lint didn't look."""

    direction: Direction
    move_hash: str
    revisions: tuple[str, ...]
    destructive: tuple[str, ...]
    fresh: bool
    backup: Backup
    rehearsal: Rehearsal | None
    dangers: tuple[str, ...] | None
    approval: Approval | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason why not, and what to do about it."""

    kind: Kind
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it may run. `notes` says what was passed over, and by whose word."""

    plan_hash: str
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...]

    @property
    def allowed(self) -> bool:
        """Whether nothing stands against it."""
        return not self.refusals

    def to_json(self) -> dict[str, Any]:
        """Return the document of `migrate gate`."""
        refusals = [asdict(refusal) for refusal in self.refusals]
        return {"allowed": self.allowed, "plan_hash": self.plan_hash, "refusals": refusals, "notes": list(self.notes)}

    def words(self) -> str:
        """Say all reasons, and what to do."""
        return "; ".join(f"{refusal.message}: {refusal.remedy}" for refusal in self.refusals)


def move_hash(plan: Plan, direction: Direction, to: str) -> str:
    """Return what an approval is bound to: the plan's hash; for the way back, also how far."""
    if direction == "up":
        return plan.plan_hash
    return hashlib.sha256(f"down {to} {plan.plan_hash}".encode()).hexdigest()


def decide(policy: GatePolicy, facts: Facts) -> Verdict:
    """Say whether the migration may run, with every reason against it."""
    if not facts.revisions:
        return Verdict(facts.move_hash, (), ("nothing is to be done",))
    if facts.fresh:
        return Verdict(facts.move_hash, (), ("the database has no tables: nothing can be lost, nobody held up",))
    refusals = (*_backup(policy, facts), *_rehearsal(policy, facts), *_approval(policy, facts))
    approval = facts.approval
    notes = () if approval is None else (f"approved by {approval.actor} at {approval.at}: {approval.reason}",)
    return Verdict(facts.move_hash, refusals, notes)


def _required(require: Require, facts: Facts) -> bool:
    return require == "always" or (require == "destructive" and bool(facts.destructive))


def _backup(policy: GatePolicy, facts: Facts) -> Iterator[Refusal]:
    if not _required(policy.require_proven_backup, facts):
        return
    remedy = "`chanuka-ops backup create`, then `chanuka-ops backup drill` proves it"
    losing = f" before {', '.join(facts.destructive)}, which can lose data" if facts.destructive else ""
    backup = facts.backup
    if backup.age_s is None:
        yield Refusal(
            "backup", f"no proven backup is known{losing} ({backup.problem or 'none was ever proven'})", remedy
        )
    elif backup.age_s > policy.max_backup_age_s:
        age = f"{backup.age_s / 3600:.1f} h old, more than {policy.max_backup_age_s / 3600:g}"
        yield Refusal("backup", f"the newest proven backup is {age} (max_backup_age){losing}", remedy)


def _rehearsal(policy: GatePolicy, facts: Facts) -> Iterator[Refusal]:
    if facts.direction == "down" or not _required(policy.require_rehearsal, facts):
        return  # the way back was rehearsed with the way up; in an incident nobody waits for another
    rehearsal, remedy = facts.rehearsal, "`chanuka-ops migrate rehearse`"
    if rehearsal is None:
        yield Refusal("rehearsal", f"plan {facts.move_hash[:12]} was not rehearsed on a restored copy", remedy)
    elif rehearsal.problem is not None:
        yield Refusal("rehearsal", f"its rehearsal {rehearsal.rehearsal_id} failed: {rehearsal.problem}",
                      "mend the revision and rehearse it again")  # fmt: skip
    elif rehearsal.age_s > policy.max_rehearsal_age_s:
        age = f"{rehearsal.age_s / 3600:.1f} h ago, more than {policy.max_rehearsal_age_s / 3600:g}"
        yield Refusal("rehearsal", f"it was rehearsed {age} (max_rehearsal_age)", remedy)


def _approval(policy: GatePolicy, facts: Facts) -> Iterator[Refusal]:
    if facts.approval is not None:
        return
    reasons = list(_to_approve(policy.approval, policy.max_blocking_s, facts))
    if reasons:
        how = "" if facts.direction == "up" else " --down-to, with the revision"
        remedy = f"`chanuka-ops migrate approve {facts.move_hash} --reason WHY`{how}, by whoever may say so"
        yield Refusal("approval", f"it needs a person's approval ({'; '.join(reasons)})", remedy)


def _to_approve(what: Collection[Approvable], max_blocking_s: float, facts: Facts) -> Iterator[str]:
    if "always" in what:
        yield "operations.migration.approval says always"
    if "destructive" in what and facts.destructive:
        yield f"{', '.join(facts.destructive)} can lose data"
    rehearsal = facts.rehearsal
    if "blocking" in what and rehearsal is not None and rehearsal.blocking_s > max_blocking_s:
        long = f"{rehearsal.blocking_s * 1000:.0f} ms, more than {max_blocking_s * 1000:.0f}"
        yield f"{rehearsal.blocking_revision} blocks others for {long} (max_blocking)"
    if "danger" in what and facts.direction == "up":
        if facts.dangers is None:
            yield "lint could not look at it"
        elif facts.dangers:
            yield f"lint calls a danger: {', '.join(facts.dangers)}"
