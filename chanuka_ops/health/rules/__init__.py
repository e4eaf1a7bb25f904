"""The checks, one module a subject: limits with their reasons, pure rules, and the declarations that tie them to SQL.

No I/O and no clock: a rule is given rows, limits and facts, and returns findings.
"""
