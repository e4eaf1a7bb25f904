"""One table's rows out of a backup, with no server: as the source had them, or not at all."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chanuka_ops import errors
from chanuka_ops.backup.restoring import archive, copytext, extract
from chanuka_ops.backup.restoring.restored import Extracted
from chanuka_ops.backup.service import BackupService
from chanuka_ops.backup.storing import fetching
from chanuka_ops.config import DatabaseSettings, PostgresSettings, Settings
from chanuka_ops.db import parameters
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops_tests.plugins.backup import execute, local, scalars
from chanuka_ops_tests.plugins.postgres import connect
from chanuka_ops_tests.plugins.restoring import Backup, Spot, backup_of

pytestmark = pytest.mark.postgres

Everything = tuple[DatabaseSettings, Backup]
WORDS = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
ODD = st.sampled_from(["", "\\N", "\\.", '"', ",", "\t", "\r\n", "\\", "\\t", " ", "\b\f\v", "null", '"",', "é€😀"])


def copied(session: psycopg.Connection[Any], query: str, options: str = "") -> bytes:
    with session.cursor() as cursor, cursor.copy(f"copy ({query}) to stdout {options}".encode()) as copy:
        return b"".join(bytes(chunk) for chunk in copy)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(WORDS | ODD, WORDS | ODD), min_size=1, max_size=8), columns=st.sampled_from([1, 2]))
@example(rows=[("\\.", None), ("", ""), (None, None)], columns=1)
@example(rows=[("a", ""), ("", "b"), ("", ""), ("x", "y")], columns=2)
def test_rows_come_out_as_the_server_writes_csv(
    manager_session: psycopg.Connection[Any], rows: list[tuple[str | None, str | None]], columns: int
) -> None:
    session = manager_session
    session.execute("truncate pairs")
    with session.cursor() as cursor:
        cursor.executemany("insert into pairs values (%s, %s)", rows)
    query = f"select {'a' if columns == 1 else 'a, b'} from pairs order by ctid"
    lines = copied(session, query).split(b"\n")[:-1]
    ours = [copytext.row(line, columns) for line in lines]
    assert b"".join(line + b"\n" for line in ours) == copied(session, query, "(format csv)")
    assert [copytext.fields(line) for line in lines] == [
        [None if value is None else value.encode() for value in row[:columns]] for row in rows
    ]
    if columns == 2:  # a reader that knows nothing of PostgreSQL: null and the empty text are the same to it
        text = copytext.NEWLINE.join(ours).decode() + "\r\n"
        assert list(csv.reader(io.StringIO(text, newline=""))) == [[value or "" for value in row] for row in rows]


@pytest.fixture(scope="module")
def manager_session(home: Any) -> Any:
    with connect(home.settings("postgres")) as session:
        session.execute("create temporary table pairs(a text, b text)")
        yield session


@pytest.fixture(scope="module")
def kept(everything: Everything, pg: Binaries) -> BackupService:
    """The service on the store that holds the backup of everything."""
    return BackupService(
        Settings(
            state_dir=everything[1].directory.parents[2], source=None, postgres=PostgresSettings(bin_dir=pg.bin_dir)
        )
    )


Take = Callable[..., tuple[Extracted, bytes]]


@pytest.fixture
def take(kept: BackupService, everything: Everything, tmp_path: Path) -> Take:
    """Extract a table into a file; return the answer and the file's bytes."""

    def run(table: str, **options: Any) -> tuple[Extracted, bytes]:
        path = tmp_path / "out"
        answer = kept.extract(everything[1].manifest.backup_id, table, to=path, **{"form": "csv", **options})
        return answer, path.read_bytes()

    return run


QUICK = ("app.everything", 'S p%a:ce.T:"1%')
OTHERS = ("app.t", "app.dropped", "app.wide", "app.secret", "app.parts_late", "app.tagged")


@pytest.mark.parametrize("table", [*QUICK, *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)])
def test_a_csv_reads_back_as_it_was(everything: Everything, take: Take, spot: Spot, table: str) -> None:
    backup = everything[1]
    answer, content = take(table)
    quoted = '"S p%a:ce"."T:""1%"' if table.startswith("S") else table
    backup.into(spot.database, tables=(table,), check=False)
    with connect(spot.database) as session:
        session.execute("set default_transaction_read_only = off; set session_replication_role = replica")
        session.rollback()
        session.execute("set session_replication_role = replica")
        session.execute(f"create temporary table before as select x::text from only {quoted} x".encode())
        session.execute(f"truncate {quoted}".encode())
        names = ", ".join('"' + name.replace('"', '""') + '"' for name in answer.columns)
        with session.cursor() as cursor:
            with cursor.copy(f"copy {quoted} ({names}) from stdin (format csv, header)".encode()) as copy:
                copy.write(content)
            cursor.execute(
                f"select (select count(*) from (select x from before except all select x::text from {quoted} x) d),"
                f" (select count(*) from {quoted})".encode()
            )
            assert cursor.fetchone() == (0, answer.rows)
    assert answer.bytes == len(content)


def test_a_partitioned_table_is_one_csv_with_its_columns_in_one_order(everything: Everything, take: Take) -> None:
    answer, content = take("app.parts")
    rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
    assert rows[0] == ["id", "at", "v"]
    assert answer.rows == len(rows) - 1 == 501
    assert all(row[0].isdigit() and row[2] == f"v{row[0]}" for row in rows[1:])


def test_a_table_without_columns_and_one_without_rows(take: Take) -> None:
    assert (take("app.nothing")[0].rows, take("app.nothing")[1]) == (2, b"\r\n\r\n\r\n")
    assert take("app.empty")[1] == b"id\r\n"


@pytest.mark.parametrize("table", ["app.parts", pytest.param("app.everything", marks=pytest.mark.slow)])
def test_sql_is_run_by_psql(everything: Everything, take: Take, spot: Spot, table: str, tmp_path: Path) -> None:
    backup = everything[1]
    answer, content = take(table, form="sql")
    (tmp_path / "rows.sql").write_bytes(content)
    backup.into(spot.database, tables=(table,))
    execute(spot.database, f"truncate {table}")
    subprocess.run(
        [backup.tools.path("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", tmp_path / "rows.sql",
         "-d", parameters.conninfo(spot.database)],
        check=True, capture_output=True,
    )  # fmt: skip
    assert scalars(spot.database, f"select count(*) from {table}") == [answer.rows]


@pytest.mark.parametrize(
    "encoding", ["LATIN1", *(pytest.param(one, marks=pytest.mark.slow) for one in ("SQL_ASCII", "WIN1252", "EUC_JP"))]
)
def test_the_bytes_are_those_of_the_dumps_encoding(pg: Binaries, spot: Spot, session_dir: Path, encoding: str) -> None:
    provider = "locale_provider libc" if spot.server.major >= 17 else ""
    spot.make(options=f"encoding '{encoding}' {provider} locale 'C'")
    word = "語" if encoding == "EUC_JP" else "Zoë"
    with connect(spot.database) as session:
        session.execute(f"set client_encoding = {'UTF8' if encoding != 'SQL_ASCII' else 'SQL_ASCII'}".encode())
        session.execute(f'create table "t {word}"("c {word}" text)'.encode())
        session.execute(f"insert into \"t {word}\" values ('{word};a,b')".encode())
    backup = backup_of(spot.database, pg, session_dir / f"x{uuid.uuid4().hex[:8]}")
    read = archive.read(backup.directory / "dump", pg)
    found = extract.wanted(read, f"public.t {word}")
    out = io.BytesIO()
    extract.extract(
        backup.directory / "dump", read, found, expected=1, tools=pg, to=out, form="csv", deadline_s=30
    )  # fmt: skip
    assert read.encoding == encoding
    codec = {"LATIN1": "latin-1", "WIN1252": "cp1252", "EUC_JP": "euc_jp"}.get(encoding, "utf-8")
    assert out.getvalue() == f'c {word}\r\n"{word};a,b"\r\n'.encode(codec)
    spot.drop()
    answer = backup.into(spot.database, tables=(f"public.t {word}",))
    assert (answer.restored, answer.rows) == (True, 1)


def test_a_name_with_a_line_break(pg: Binaries, spot: Spot, session_dir: Path) -> None:
    spot.make(
        'create table "two\nlines"("a\nb" int, "(c)" text)',
        "insert into \"two\nlines\" values (1, 'COPY x FROM stdin;')",
    )
    backup = backup_of(spot.database, pg, session_dir / f"x{uuid.uuid4().hex[:8]}")
    read = archive.read(backup.directory / "dump", pg)
    out = io.BytesIO()
    found = extract.wanted(read, "public.two\nlines")
    taken = extract.extract(
        backup.directory / "dump", read, found, expected=1, tools=pg, to=out, form="csv", deadline_s=30
    )
    assert (taken.columns, taken.rows) == (("a\nb", "(c)"), 1)
    assert out.getvalue() == b'"a\nb",(c)\r\n1,COPY x FROM stdin;\r\n'


def test_only_the_tables_own_files_are_needed(
    everything: Everything, service: BackupService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = everything[1]
    place = local(service).root / "main" / backup.manifest.backup_id
    shutil.copytree(backup.directory, place)
    needed = {backup.data_file("app.t").name, "toc.dat"}
    for path in (place / "dump").iterdir():
        if path.name not in needed:
            path.unlink()
    (place / "globals" / "roles.sql").unlink()
    fetched: list[str] = []
    wanted = fetching._wanted

    def noted(*args: Any) -> Any:
        found = wanted(*args)
        fetched.extend(Path(file.path).name for file in found)
        return found

    monkeypatch.setattr(fetching, "_wanted", noted)
    answer = service.extract(backup.manifest.backup_id, "app.t", to=tmp_path / "t.csv", form="csv")
    assert answer.rows == 3
    assert set(fetched) == needed
    with pytest.raises(errors.BackupDamaged, match="missing"):
        service.extract(backup.manifest.backup_id, "app.wide", to=tmp_path / "wide.csv", form="csv")
    assert not (tmp_path / "wide.csv").exists()


@pytest.mark.parametrize("form", ["csv", "sql"])
@pytest.mark.parametrize("verify", [True, False])
def test_damaged_rows_write_no_file(
    everything: Everything, service: BackupService, tmp_path: Path, form: extract.Format, *, verify: bool
) -> None:
    backup = everything[1]
    place = local(service).root / "main" / backup.manifest.backup_id
    shutil.copytree(backup.directory, place)
    data = place / "dump" / backup.data_file("app.parts_1").name
    data.write_bytes(data.read_bytes()[:-9])
    (tmp_path / "out").write_text("as it was")
    kind = errors.BackupDamaged if verify else errors.ToolFailed
    with pytest.raises(kind):
        service.extract(backup.manifest.backup_id, "app.parts", to=tmp_path / "out", form=form, verify=verify)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_text() == "as it was"


def test_other_rows_than_the_manifest_says(plain: Backup) -> None:
    read = archive.read(plain.directory / "dump", plain.tools)
    found = extract.wanted(read, "public.votes")
    assert extract.expected_rows(plain.manifest, found) == 500
    with pytest.raises(errors.BackupDamaged, match="holds 500 rows of it, and its manifest says 501"):
        extract.extract(
            plain.directory / "dump",
            read,
            found,
            expected=501,
            tools=plain.tools,
            to=io.BytesIO(),
            form="csv",
            deadline_s=30,
        )


def test_a_place_that_can_not_be_written(
    take: Take, kept: BackupService, everything: Everything, tmp_path: Path
) -> None:
    with pytest.raises(errors.ChanukaError, match="can't be written: No such file or directory"):
        kept.extract(everything[1].manifest.backup_id, "app.t", to=tmp_path / "none" / "t.csv", form="csv")


@pytest.mark.slow
def test_past_the_deadline_it_ends(heavy: Backup) -> None:
    read = archive.read(heavy.directory / "dump", heavy.tools)
    found = extract.wanted(read, "public.heavy_0")

    with pytest.raises(errors.ToolFailed, match="ran past its deadline"):
        extract.extract(
            heavy.directory / "dump",
            read,
            found,
            expected=None,
            tools=heavy.tools,
            to=io.BytesIO(),
            form="csv",
            deadline_s=0.05,
        )
