"""What the service does when too many come, or come to harm."""
