"""Where backups are kept: directories and object stores, behind one interface."""
