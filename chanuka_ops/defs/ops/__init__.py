"""One module for each capability."""
