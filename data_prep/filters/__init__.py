"""Which documents are dropped, and under which reason."""
