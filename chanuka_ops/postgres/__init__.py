"""PostgreSQL's own programs and the servers this program starts itself."""
