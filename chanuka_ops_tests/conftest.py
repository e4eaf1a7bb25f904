"""Fixtures come from plugins/, one concern a file."""

pytest_plugins = [
    "chanuka_ops_tests.plugins.backup",
    "chanuka_ops_tests.plugins.postgres",
    "chanuka_ops_tests.plugins.processes",
]
