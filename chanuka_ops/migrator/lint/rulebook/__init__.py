"""Every rule: its id, how heavy it is, what it says, why, the safer form, the lock, and where PostgreSQL documents it.

`says` is a sentence of which {object} and {detail} are filled in. A rule's severity is *danger* where it blocks others
for a time that grows with the data, fails, or destroys what isn't named; *caution* where the lock is brief, old clients
break, or a person should look; *style* where it is a habit that is regretted later.
"""

from __future__ import annotations

from chanuka_ops.migrator.lint.model import Rule
from chanuka_ops.migrator.lint.rulebook import compat, constraints, data, indexes, policy, style, tables

RULES: dict[str, Rule] = {
    rule.id: rule for family in (indexes, tables, constraints, data, compat, policy, style) for rule in family.RULES
}
