"""Row order, loader, shard cache and held-out rows of training."""
