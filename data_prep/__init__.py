"""Data preparation: from sources of text to shards of rows. Imports no torch."""

import os

# Arrow takes the allocator that is named here when it is imported, and keeps it. Its own (mimalloc)
# holds up to 100 MB of freed memory beside what malloc holds, see `configs.allocator`.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
