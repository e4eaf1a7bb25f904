"""Fixtures come from plugins/, one concern a file."""

pytest_plugins = [
    "chanuka_ops_tests.plugins.backup",
    "chanuka_ops_tests.plugins.hooks",
    "chanuka_ops_tests.plugins.migrating",
    "chanuka_ops_tests.plugins.nodes",
    "chanuka_ops_tests.plugins.pooler",
    "chanuka_ops_tests.plugins.postgres",
    "chanuka_ops_tests.plugins.planting",  # after postgres, which it imports
    "chanuka_ops_tests.plugins.majors",
    "chanuka_ops_tests.plugins.processes",
    "chanuka_ops_tests.plugins.proxy",
    "chanuka_ops_tests.plugins.replicas",
    "chanuka_ops_tests.plugins.restoring",
    "chanuka_ops_tests.plugins.s3",
    "chanuka_ops_tests.plugins.site",
    "chanuka_ops_tests.plugins.tls",
    "chanuka_ops_tests.plugins.desk",  # after those it imports: pytest rewrites the asserts of a plugin at its import
]
