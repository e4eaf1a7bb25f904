"""Tests of chanuka_ops, on real PostgreSQL servers that the session starts itself."""
