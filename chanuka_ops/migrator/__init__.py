"""Migrations: what is pending, and running it safely. Alembic does the work, in a process of its own."""
