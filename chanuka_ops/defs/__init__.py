"""Face 2: Dagster and nothing but. An op is a Config in, one call of an orchestrator, metadata out."""
