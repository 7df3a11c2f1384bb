"""Commands for operators: make the first cluster, change its members."""
