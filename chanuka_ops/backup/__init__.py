"""Backups that count when a copy restored from them held the same data."""
