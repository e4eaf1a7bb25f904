"""The connection manager, shared by every operation."""
