"""Named, versioned SQL: read from files, chosen by the server's version."""
