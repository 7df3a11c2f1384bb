"""Where chunks lie: on disk, in this node's Redis, or in both. Each tier passes tests/contract/storage."""
