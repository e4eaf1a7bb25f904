"""Running revisions: the migration process, what it does statement by statement, and what is written down of it."""
