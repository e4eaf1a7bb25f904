"""Advice, approved change, measured gain."""
