"""Lint: what a script or a revision would do to a server full of data, told before it runs."""
