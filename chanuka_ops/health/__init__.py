"""Checks → findings: what is wrong with a database, how bad it is, and what to do."""
