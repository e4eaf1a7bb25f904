"""Alerts: what fires once, means something, and resolves by itself."""
