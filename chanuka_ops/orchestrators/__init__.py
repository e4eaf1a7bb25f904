"""What joins capabilities: the command line and Dagster both call these, and nothing below."""
