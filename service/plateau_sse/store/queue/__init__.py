"""From those who ask to those who execute: the queue, its leases, an owner's share of it."""
