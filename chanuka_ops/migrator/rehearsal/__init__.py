"""Rehearsal: run it on a restored copy first, and look at what each statement locks, reads, rewrites and writes."""
