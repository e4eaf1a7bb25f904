"""Rates, not totals: what counters stood at before, and how much was added since."""
