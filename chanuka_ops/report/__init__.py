"""One self-contained HTML file that says what was done and what was proved."""
