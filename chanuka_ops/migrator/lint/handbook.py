"""docs/howto/lint-rules.md, written from the rules. Pure.

`python -m chanuka_ops.migrator.lint.handbook > docs/howto/lint-rules.md`
"""

from __future__ import annotations

import sys

from chanuka_ops.migrator.lint.model import SEVERITIES, Rule
from chanuka_ops.migrator.lint.rulebook import RULES

_HEAD = """# Lint rules

`chanuka-ops migrate lint` knows these. Written from the rules themselves;
`chanuka-ops migrate lint --explain RULE` says the same of one.

A finding is answered for with a comment: before a statement of a script
`-- lint: allow RULE until YYYY-MM-DD: reason`, or anywhere in a revision's file
`# lint: allow RULE until YYYY-MM-DD: reason`, which is for the whole revision.
"""
_SAID = {
    "danger": "blocks others for a time that grows with the data, fails, or destroys what it doesn't name",
    "caution": "a brief lock, old clients that break, or something that a person should look at",
    "style": "a habit that is regretted later",
}


def handbook() -> str:
    """Return the document."""
    parts = [_HEAD]
    for severity in SEVERITIES:
        parts.append(f"\n## {severity.capitalize()}: {_SAID[severity]}\n")
        parts += [
            _entry(rule) for rule in sorted(RULES.values(), key=lambda rule: rule.id) if rule.severity == severity
        ]
    return "\n".join(parts)


def _entry(rule: Rule) -> str:
    lock = f" Lock: {rule.lock.words}." if rule.lock else ""
    return f"- **{rule.id}** {rule.why}{lock} Safer: {rule.safer} ([docs]({rule.docs}))"


if __name__ == "__main__":
    sys.stdout.write(handbook() + "\n")
