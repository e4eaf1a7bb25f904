"""Face 1: people and scripts. No Dagster here."""
