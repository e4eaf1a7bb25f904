"""Two stores of which one fails or is damaged: the other has its backup whole, and the answer says which one failed."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import pytest

from chanuka_ops import context, errors
from chanuka_ops.backup import documents
from chanuka_ops.backup.answers import Created
from chanuka_ops.backup.documents import MANIFEST, STATUS
from chanuka_ops.backup.model import Tier
from chanuka_ops.backup.service import BackupService
from chanuka_ops.backup.storing.local import LocalStore
from chanuka_ops.backup.storing.store import Store
from chanuka_ops.config import TimeoutSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.orchestrators.backups import BackupOperations
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.plugins.backup import fresh_database
from chanuka_ops_tests.plugins.gate import Act
from chanuka_ops_tests.plugins.keys import ANOTHER_SECRET_KEY, RECIPIENT, SECRET_NAME
from chanuka_ops_tests.plugins.processes import Cli
from chanuka_ops_tests.plugins.s3 import Bucket
from chanuka_ops_tests.plugins.site import Site, only, whole

pytestmark = pytest.mark.postgres

slow = partial(pytest.param, marks=pytest.mark.slow)
DEADLINE_S = 1.0


def impatient(site: Site, s3: Bucket) -> BackupService:
    """The site's service; its bucket is given up after a second."""
    service = site.service()
    service.stores["cloud"] = s3.store(deadline_s=DEADLINE_S)
    return service


def create(site: Site, service: BackupService) -> Created:
    with ConnectionManager("main", site.database) as manager, context.scope(operation="backup"):
        return service.create(manager)


# a bucket that fails while a backup is taken


@dataclass(frozen=True)
class Failing:
    """What the bucket answers to certain requests, for ever."""

    method: str
    key: str
    act: Act = "status"
    more: Mapping[str, float] = field(default_factory=dict)


FAILING = {
    "it can't be listed": Failing("GET", "list-type"),
    "the lease": Failing("PUT", "exclusive", more={"status": 500}),
    "a file": Failing("PUT", r"toc\.dat"),
    "cut in a file": Failing("PUT", r"toc\.dat", "cut_upload"),
    "no reply to a file": Failing("PUT", r"toc\.dat", "lose_reply"),
    "the status": Failing("PUT", r"status\.json", more={"status": 500}),
    "the manifest": Failing("PUT", r"manifest\.json"),
    "cut in the manifest": Failing("PUT", r"manifest\.json", "cut_upload"),
    "slow": Failing("PUT", ".", "delay", {"seconds": 4.0}),
    "forbidden": Failing("PUT", ".", more={"status": 403}),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", [name if name == "a file" else slow(name) for name in FAILING])
def test_the_bucket_fails_and_the_local_store_has_its_backup(beside: Site, s3: Bucket, what: str) -> None:
    before = beside.create()
    service = impatient(beside, s3)
    failing = FAILING[what]
    s3.fault(failing.method, failing.key, failing.act, times=None, **failing.more)
    created = create(beside, service)
    assert [(placed.store, placed.problem is None) for placed in created.stores] == [("first", True), ("cloud", False)]
    assert re.search(r"s3://.*: can't ", str(created.missing[0].problem))
    s3.heal()
    assert whole(beside.service()) == [created.backup_id, before]
    assert [listed.stores for listed in service.catalogue()] == [("first",), ("first", "cloud")]
    assert beside.left() == []
    again = create(beside, service)
    assert again.missing == ()
    assert whole(beside.service()) == [again.backup_id, created.backup_id, before]


def test_a_manifest_whose_reply_is_lost_is_in_both(beside: Site, s3: Bucket) -> None:
    service = impatient(beside, s3)
    fault = s3.fault("PUT", r"manifest\.json", "lose_reply", times=None)
    created = create(beside, service)
    assert fault.hits
    s3.heal()
    assert created.missing == ()
    assert whole(beside.service()) == [created.backup_id]
    assert service.catalogue()[0].stores == ("first", "cloud")


@pytest.mark.slow
def test_the_local_store_fails_and_the_bucket_has_its_backup(beside: Site) -> None:
    (beside.state_dir / "first").write_bytes(b"")
    service = beside.service()
    created = create(beside, service)
    assert [placed.store for placed in created.missing] == ["first"]
    assert [listed.backup_id for listed in service.look().backups] == [created.backup_id]
    assert list(service.look().problems) == ["first"]
    assert service.drill(created.backup_id).proven


@pytest.mark.slow
def test_a_store_without_its_secret_keeps_no_other_from_its_backup(
    beside: Site, here: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_S3_SECRET")
    env = {name: value for name, value in beside.env.items() if name != "TEST_S3_SECRET"}
    ran = here("--json", "backup", "create", env=env)
    assert ran.status == 1
    placed = {one["store"]: one["problem"] for one in ran.json["stores"]}
    assert placed["first"] is None
    assert "TEST_S3_SECRET" in placed["cloud"]
    service = beside.service()
    assert list(service.look().problems) == ["cloud"]
    assert service.verify(ran.json["backup_id"]).problems == ()
    assert service.drill(ran.json["backup_id"]).proven, "at three in the morning that's enough"
    assert [expiry.decided.refused is None for expiry in service.expire("main")] == [True, False]


@pytest.mark.slow
def test_nobody_gets_it(beside: Site, s3: Bucket) -> None:
    (beside.state_dir / "first").write_bytes(b"")
    service = impatient(beside, s3)
    s3.fault("PUT", r"manifest\.json", "status", times=None)
    with pytest.raises(errors.StoreError, match=r"can't write .*manifest\.json"):
        create(beside, service)
    s3.heal()
    (beside.state_dir / "first").unlink()
    assert beside.service().catalogue() == []
    assert beside.left() == []


def test_a_store_that_cannot_be_read_is_not_passed_over_in_silence(beside: Site, s3: Bucket, here: Cli) -> None:
    created = beside.create()
    s3.fault("GET|HEAD", ".", "status", status=403, times=None)
    listed = here("--json", "backup", "list", env=beside.env)
    assert listed.status == 1
    assert [one["stores"] for one in listed.json["backups"]] == [["first"]]
    verified = here("--json", "backup", "verify", created, env=beside.env)
    assert verified.status == 1
    assert (verified.json["problems"], list(verified.json["unread"])) == ([], ["cloud"])
    expired = here("--json", "backup", "expire", "--dry-run", env=beside.env)
    assert [refused["store"] for refused in expired.json["refused"]] == ["cloud"]
    assert here("--json", "backup", "verify", created, "--store", "first", env=beside.env).status == 0


@pytest.mark.slow
def test_a_store_that_fails_in_mid_verify(beside: Site, s3: Bucket) -> None:
    created = beside.create()
    service = impatient(beside, s3)
    s3.fault("GET", r"toc\.dat", "status", times=None)
    verified = service.verify(created)
    assert (verified.problems, list(verified.unread)) == ((), ["cloud"])
    s3.heal()
    assert service.stores["cloud"].status(created).tier is Tier.TAKEN, "nothing is known of it"
    assert service.stores["first"].status(created).tier is Tier.VERIFIED


# each way to damage a backup, where it is encrypted or not on this machine


@dataclass(frozen=True)
class Copy:
    """One store's copy of a backup, seen past the store."""

    store: Store
    folder: str
    bucket: Bucket

    def read(self, path: str) -> bytes:
        if isinstance(self.store, LocalStore):
            return (self.store.root / self.folder / path).read_bytes()
        return self.bucket.read(f"{self.folder}/{path}")

    def write(self, path: str, content: bytes) -> None:
        if isinstance(self.store, LocalStore):
            (self.store.root / self.folder / path).write_bytes(content)
        else:
            self.bucket.write(f"{self.folder}/{path}", content)

    def remove(self, path: str) -> None:
        if isinstance(self.store, LocalStore):
            (self.store.root / self.folder / path).unlink()
        else:
            self.bucket.remove(f"{self.folder}/{path}")


SOME = "dump/toc.dat.age"


def extra(copy: Copy) -> None:
    copy.write("dump/9999.dat.gz.age", b"")


def missing(copy: Copy) -> None:
    copy.remove(SOME)


def truncated(copy: Copy) -> None:
    copy.write(SOME, copy.read(SOME)[:-1])


def appended(copy: Copy) -> None:
    copy.write(SOME, copy.read(SOME) + b"x")


def emptied(copy: Copy) -> None:
    copy.write(SOME, b"")


def changed(copy: Copy) -> None:
    content = bytearray(copy.read(SOME))
    content[-1] ^= 1
    copy.write(SOME, bytes(content))


def renamed(copy: Copy) -> None:
    copy.write("dump/toc.old.age", copy.read(SOME))
    copy.remove(SOME)


def bad_manifest(copy: Copy) -> None:
    copy.write(MANIFEST, copy.read(MANIFEST).replace(b'"jobs": 2', b'"jobs": 3'))


def no_json(copy: Copy) -> None:
    copy.write(MANIFEST, b"{")


def bad_status(copy: Copy) -> None:
    copy.write(STATUS, copy.read(STATUS).replace(b"taken", b"proven").replace(b"verified", b"proven"))


def no_status(copy: Copy) -> None:
    copy.remove(STATUS)


DAMAGES: dict[Callable[[Copy], None], dict[str, str]] = {
    extra: {"dump/9999.dat.gz.age": "extra"},
    missing: {SOME: "missing"},
    truncated: {SOME: "size"},
    appended: {SOME: "size"},
    emptied: {SOME: "size"},
    changed: {SOME: "checksum"},
    renamed: {SOME: "missing", "dump/toc.old.age": "extra"},
    bad_manifest: {MANIFEST: "manifest"},
    no_json: {MANIFEST: "manifest"},
    bad_status: {STATUS: "checksum"},
    no_status: {STATUS: "checksum"},
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["first", slow("cloud")])
def test_each_kind_of_damage(beside: Site, s3: Bucket, name: str, damage: Callable[[Copy], None]) -> None:
    site = replace(only(beside, name), options={**only(beside, name).options, "keep": {"last": 1, "minimum": 1}})
    service = site.service()
    damaged, newer = site.create(service), site.create(service)
    assert service.verify(damaged).tier is Tier.VERIFIED
    copy = Copy(service.store, f"main/{damaged}", s3)
    damage(copy)
    assert drilled(service, damaged) is not True
    assert {problem.file: problem.kind for problem in service.verify(damaged).problems} in ({}, DAMAGES[damage])
    if damage in {bad_status, no_status}:  # what a look leaves is a status again, and all else is whole
        return
    assert {problem.file: problem.kind for problem in service.verify(damaged).problems} == DAMAGES[damage]
    listed = {one.backup_id: one for one in service.catalogue()}
    assert listed[damaged].tier in {"taken", "damaged"}
    assert listed[damaged].problem or listed[damaged].disproved
    (decided,) = service.retention("main")
    assert decided.expire == ()
    assert re.search("a person has to look", " ".join(decided.keep[-1].reasons))
    assert service.verify(newer).problems == ()


def drilled(service: BackupService, backup_id: str, store: str | None = None) -> bool:
    try:
        return service.drill(backup_id, store=store).proven
    except errors.BackupDamaged:
        return False


@pytest.mark.parametrize("name", ["first", slow("cloud")])
def test_a_status_that_was_damaged_is_no_evidence(beside: Site, s3: Bucket, name: str) -> None:
    """Whoever can write the store can't lift a tier by hand; nor does damage leave one."""
    site = only(beside, name)
    service = site.service()
    created = site.create(service)
    bad_status(Copy(service.store, f"main/{created}", s3))
    assert service.catalogue()[0].tier == "damaged"
    assert {problem.file: problem.kind for problem in service.verify(created).problems} == {STATUS: "checksum"}
    assert service.catalogue()[0].tier == "taken"


@pytest.mark.slow
def test_a_manifest_of_another_backup(beside: Site, s3: Bucket) -> None:
    service = beside.service()
    one, other = beside.create(service), beside.create(service)
    for name in ("first", "cloud"):
        here, there = (Copy(service.stores[name], f"main/{backup}", s3) for backup in (one, other))
        here.write(MANIFEST, there.read(MANIFEST))
        assert {problem.file for problem in service.verify(one, store=name).problems} >= {MANIFEST}
        assert not drilled(service, one, name)
        (listed,) = [listed for listed in service.catalogue(store=name) if listed.backup_id == one]
        # a bucket's listing reads no manifest whose length is that of its own
        assert "is that of" in str(listed.problem) or (name == "cloud" and listed.disproved)
    assert service.verify(other).problems == ()


def test_an_object_without_a_manifest_is_no_backup(beside: Site, s3: Bucket) -> None:
    site = only(beside, "cloud")
    service = site.service()
    created = site.create(service)
    s3.remove(f"main/{created}/{MANIFEST}")
    assert service.catalogue() == []
    for look in (service.verify, service.drill, service.show):
        with pytest.raises(errors.BackupNotFound):
            look(created)


# damage in one store of two


@pytest.mark.slow
@pytest.mark.parametrize(("bad", "good"), [("first", "cloud"), ("cloud", "first")])
def test_damage_in_one_store_is_said_of_that_one(beside: Site, s3: Bucket, bad: str, good: str) -> None:
    service = beside.service()
    created = beside.create(service)
    service.verify(created)
    changed(Copy(service.stores[bad], f"main/{created}", s3))
    assert [(p.store, p.file, p.kind) for p in service.verify(created).problems] == [(bad, SOME, "checksum")]
    assert not drilled(service, created, bad)
    proven = service.drill(created, store=good)
    assert proven.proven
    assert service.stores[good].status(created).tier is Tier.PROVEN
    assert service.stores[bad].status(created).tier is Tier.TAKEN, "the good copy's proof isn't hung on it"
    (listed,) = service.catalogue()
    assert (listed.tier, listed.disproved) == ("proven", None)
    assert re.search(f"^{bad}: its (drill|verify) of .* failed", listed.copy_problems[0])
    with service.fetched(created, store=good) as got:
        assert got.problems == ()


@pytest.mark.slow
def test_a_drill_of_two_good_copies_proves_both_as_far_as_each_was_read(beside: Site) -> None:
    """The other copy's proof has the date at which its bytes were seen: nobody has read them since."""
    service = beside.service()
    created = beside.create(service)
    assert service.drill(created).proven
    assert service.stores["cloud"].status(created).tier is Tier.TAKEN, "nobody has read it"
    service.verify(created, store="cloud")
    (seen,) = service.stores["cloud"].status(created).evidence
    assert service.drill(created).proven
    status = service.stores["cloud"].status(created)
    assert (status.tier, status.proven_at) == (Tier.PROVEN, seen.at)
    assert status.evidence[-1].figures == {"the_same_bytes_as_in_store": "first"}


@pytest.mark.slow
def test_damage_that_was_seen_before_a_drill_of_the_other_copy(beside: Site, s3: Bucket) -> None:
    service = beside.service()
    created = beside.create(service)
    changed(Copy(service.stores["cloud"], f"main/{created}", s3))
    service.verify(created)
    assert service.drill(created).proven
    assert service.stores["cloud"].status(created).tier is Tier.TAKEN


@pytest.mark.slow
def test_a_copy_with_another_manifest_is_not_the_same_backup(beside: Site, s3: Bucket) -> None:
    service = beside.service()
    created = beside.create(service)
    other = service.stores["first"].manifest(created).model_copy(update={"actor": "somebody else"})
    s3.write(f"main/{created}/{MANIFEST}", documents.first_documents(other)[0])
    assert service.verify(created).problems == ()
    assert service.drill(created).proven
    assert service.stores["cloud"].status(created).tier is Tier.VERIFIED


# keys


@pytest.mark.parametrize("name", ["first", slow("cloud")])
def test_a_key_that_does_not_fit(beside: Site, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    site = only(beside, name)
    service = site.service()
    created = site.create(service)
    monkeypatch.setenv(SECRET_NAME, ANOTHER_SECRET_KEY)
    with pytest.raises(
        errors.DecryptionFailed, match=f"none of the 1 secret keys .* encrypted for {RECIPIENT}"
    ) as failure:
        service.drill(created)
    assert ANOTHER_SECRET_KEY not in str(failure.value)
    status = service.store.status(created)
    assert status.tier is Tier.TAKEN
    assert [(look.step, look.passed) for look in status.evidence] == [("drill", False)]
    assert status.evidence[-1].figures == {"error": str(failure.value)}
    assert status.disproved
    assert site.left() == []


@pytest.mark.parametrize(
    "content", ["", "# only a comment", "hunter2", RECIPIENT], ids=["nothing", "a_comment", "a_word", "a_public_key"]
)
def test_what_is_no_key_is_said_before_anything_is_read(
    sealed: Site, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the settings that are wrong: a host that takes backups has no key, and its drill says nothing of them."""
    service = sealed.service()
    created = sealed.create(service)
    before = service.store.status(created)
    monkeypatch.setenv(SECRET_NAME, content)
    with pytest.raises(errors.ConfigurationError, match=r"operations\.backup\.identity") as failure:
        service.drill(created)
    assert "hunter2" not in str(failure.value)
    assert service.store.status(created) == before
    assert sealed.left() == []


def test_a_missing_key(sealed: Site) -> None:
    service = sealed.service(identity=None)
    created = sealed.create(service)
    before = service.store.status(created)
    with pytest.raises(errors.ConfigurationError, match=r"operations\.backup\.identity is not set"):
        service.drill(created)
    assert service.verify(created).problems == (), "that needs no key"
    assert service.store.status(created).evidence[: len(before.evidence)] == before.evidence
    assert service.store.status(created).tier is Tier.VERIFIED


def test_tools_older_than_those_that_took_it(site: Site, pg: Binaries, pg_15: Binaries) -> None:
    if pg.major == 15:
        pytest.skip("the server under test is not newer than 15")
    created = site.create()
    service = site.service(bin_dir=pg_15.bin_dir)
    with pytest.raises((errors.ToolTooOld, errors.ToolMissing), match=f"{pg.major}"):
        service.drill(created)
    assert service.store.status(created).tier is Tier.VERIFIED
    assert site.left() == []


# several databases of one server


@pytest.mark.slow
def test_one_of_several_databases_fails_and_the_others_stay(site: Site, server: Server) -> None:
    """By the order of their names: the one that fails comes between two."""
    settings = site.service(databases=("beside_*",))._settings
    impatient = site.database.model_copy(update={"timeouts": TimeoutSettings(lock_s=0.3)})
    names = [f"beside_{letter}_{uuid.uuid4().hex[:6]}" for letter in "abc"]
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(fresh_database(server, name, ["create table there as select 1 as id"]))
        locker = stack.enter_context(ConnectionManager("locker", server.settings(names[1])))
        connection = stack.enter_context(locker.transaction())
        connection.exec_driver_sql("lock table there in access exclusive mode")
        manager = stack.enter_context(ConnectionManager("main", impatient))
        taken = BackupOperations(settings, "main", manager).create(manager)
    service = site.service()
    assert [created.backup_id for created in taken.created] == list(reversed(whole(service)))
    assert {listed.database for listed in service.catalogue()} == {"main", f"main.{names[0]}", f"main.{names[2]}"}
    assert [(failed.database, failed.kind) for failed in taken.failed] == [(f"main.{names[1]}", "LockTimeout")]
    assert not taken.complete
    assert site.left() == []
