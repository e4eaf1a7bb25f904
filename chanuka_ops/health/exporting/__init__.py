"""What other monitoring systems read: Prometheus's text format, Nagios's line. Pure."""
