"""Dagster takes half a second to import: its fixtures are loaded for its own tests only."""

from __future__ import annotations

from chanuka_ops_tests.plugins.dagster import definitions, instance

__all__ = ["definitions", "instance"]
