"""Proving a backup: every byte reread, a copy restored and compared with its source."""
