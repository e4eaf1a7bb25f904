"""Linter: a script, or the revisions of a directory, against what is known of the database."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chanuka_ops import errors
from chanuka_ops.migrator.lint import judge, script, waivers
from chanuka_ops.migrator.lint.catalogue import Catalogue
from chanuka_ops.migrator.lint.model import Direction, Finding, Report, Source, Statement, Waiver
from chanuka_ops.migrator.lint.rulebook import RULES
from chanuka_ops.migrator.lint.world import World
from chanuka_ops.postgres import process
from chanuka_ops.sql.catalog import OLDEST_MAJOR

RENDERER = "chanuka_ops.migrator.lint.rendering"
RENDER_DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True)
class Linter:
    """What is known beforehand. `version`: the server's major, where it was said or found out."""

    today: dt.date
    catalogue: Catalogue | None = None
    version: int | None = None

    def script(self, content: bytes, path: str) -> Report:
        """Judge a script.

        Errors: `ConfigurationError` naming the line that isn't understood.
        """
        read = script.read(script.decode(content, name=path), name=path)
        findings = judge.judge(read.statements, self._world(runner_timeouts=False))
        source = Source(path)
        waived = self._answered(findings, read.statements, read.stray)
        return Report(tuple((source, finding) for finding in waived), self.against, sources=(source,))

    def revisions(self, location: Path, only: Collection[str] | None) -> Report:
        """Judge the revisions of a directory; `only` these, the others just tell what tables there are.

        Errors: `ConfigurationError`, `ToolFailed`.
        """
        world = self._world(runner_timeouts=True)
        found: list[tuple[Source, Finding]] = []
        sources: list[Source] = []
        for rendered in render(location):
            meant = only is None or rendered["revision"] in only
            known = self.catalogue is not None and not meant  # the catalogue holds what was applied
            direction: Direction = rendered["direction"]
            if known or (direction == "down" and not meant):
                continue
            source = Source(rendered["path"], rendered["revision"], direction)
            findings = self._revision(rendered, world, source)
            if meant:
                sources.append(source)
                found += [(source, replace(f, revision=source.revision, direction=direction)) for f in findings]
        return Report(tuple(found), self.against, sources=tuple(sources))

    @property
    def against(self) -> str:
        """What was known of the database, in words."""
        if self.catalogue is not None:
            return f"PostgreSQL {self.catalogue.version}: {len(self.catalogue.tables)} relations"
        which = f" for PostgreSQL {self.version}" if self.version else ""
        return f"no database: the script alone{which}"

    def _world(self, *, runner_timeouts: bool) -> World:
        version = self.version or (self.catalogue.version if self.catalogue is not None else None)
        return World(
            version or OLDEST_MAJOR,
            version_known=version is not None,
            catalogue=self.catalogue,
            runner_timeouts=runner_timeouts,
        )

    def _revision(self, rendered: dict[str, Any], world: World, source: Source) -> list[Finding]:
        statements, unread = _statements(rendered, source)
        down = source.direction == "down"
        here = world if not down else replace_world(world)
        findings = judge.judge(statements, here, direction="down" if down else "up")
        here.settle()
        fault = rendered["fault"] or unread
        if fault and not down:
            rule = RULES["not-renderable"]
            message = rule.says.format(object=source.revision, detail=fault)
            findings.insert(0, Finding(rule, rule.severity, "", 1, source.revision or "", message))
        text = Path(source.path).read_text(encoding="utf-8")
        everywhere = tuple(waivers.in_python(text)) if not down else ()
        return self._answered(findings, statements, everywhere, everywhere=True)

    def _answered(
        self,
        findings: Sequence[Finding],
        statements: Sequence[Statement],
        others: Sequence[Waiver],
        *,
        everywhere: bool = False,
    ) -> list[Finding]:
        """Put waivers to the findings that they answer for, and say which of them don't count."""
        judged = [(s, self._judged(waiver)) for s in statements for waiver in s.allows]
        loose = [self._judged(waiver) for waiver in others]
        answered: list[Finding] = []
        used: set[Waiver] = set()
        for finding in findings:
            fitting = [w for s, w in judged if s.line == finding.line and s.sql == finding.statement]
            fitting += loose if everywhere else []
            waiver = next((w for w in fitting if not w.fault and w.rule == finding.rule.id), None)
            if waiver is not None:
                used.add(waiver)
            answered.append(replace(finding, waived=waiver))
        every = [*(waiver for _, waiver in judged), *loose]
        return answered + [_of_waiver(waiver) for waiver in every if waiver.fault or waiver not in used]

    def _judged(self, waiver: Waiver) -> Waiver:
        return waivers.judged(waiver, today=self.today, known=RULES)


def replace_world(world: World) -> World:
    """Return a copy for a downgrade, whose changes the next upgrade doesn't see."""
    copied = replace(world)
    copied.tables, copied.types = dict(world.tables), dict(world.types)
    copied.routines, copied.settings = dict(world.routines), dict(world.settings)
    copied.gone, copied.dropped_indexes = set(world.gone), set(world.dropped_indexes)
    return copied


def render(location: Path) -> list[dict[str, Any]]:
    """Return what each revision sends, both ways, oldest first.

    Errors: `ConfigurationError` where the files can't be read; `ToolFailed`.
    """
    lines: list[str] = []
    process.run(
        [sys.executable, "-m", RENDERER],
        deadline_s=RENDER_DEADLINE_S,
        stdin=json.dumps({"location": str(location)}),
        on_line=lines.append,
    )
    answer = json.loads("".join(lines))
    if answer["unreadable"]:
        raise errors.ConfigurationError(f"{answer['unreadable'][0]}. Nothing was looked at.")
    revisions: list[dict[str, Any]] = answer["revisions"]
    return revisions


def _statements(rendered: dict[str, Any], source: Source) -> tuple[list[Statement], str]:
    """Return a revision's statements with the lines of its file, and why some of them aren't understood."""
    statements: list[Statement] = []
    section, managed, unread = 0, True, ""
    for item in rendered["items"]:
        if item["sql"] in ("-- @tx", "-- @autocommit"):
            section, managed = section + 1, item["sql"] == "-- @tx"
            continue
        try:
            read = script.read(item["sql"], name=source.path)
        except errors.ConfigurationError as error:
            unread = str(error)
            continue
        statements += [
            replace(statement, line=item["line"], section=section, managed=managed) for statement in read.statements
        ]
    return statements, unread


def _of_waiver(waiver: Waiver) -> Finding:
    rule = RULES["waiver-faulty" if waiver.fault else "waiver-unused"]
    message = rule.says.format(object=waiver.rule or "a rule", detail=waiver.fault)
    return Finding(rule, rule.severity, "", waiver.line, waiver.rule, message)
