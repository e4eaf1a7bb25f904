"""Getting data back: whole databases, schemas, tables; refusals come before any change."""
