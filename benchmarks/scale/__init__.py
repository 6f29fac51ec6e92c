"""What the service does at its limits: many readers, many runs, full streams."""
