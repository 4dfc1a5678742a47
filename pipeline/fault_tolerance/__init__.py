"""Loss spikes and rollbacks, and a watchdog for ranks that hang."""
