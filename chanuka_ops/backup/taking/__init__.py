"""Taking a backup: pg_dump beside the fingerprint, on one snapshot."""
