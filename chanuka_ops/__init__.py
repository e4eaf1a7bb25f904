"""chanuka_ops: PostgreSQL operations as observable, retryable Dagster runs.

Nothing is imported here on purpose: the keeper of a throw-away server and the migration runner are processes of
their own and start in milliseconds because importing this package costs nothing.
"""
