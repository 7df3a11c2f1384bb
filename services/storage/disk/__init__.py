"""The parts that the disk tier is made of: durable files, the catalog in SQLite, group commit, free space.

Promise: what a function here reports as done survives power loss; what failed is never reported as done later.
"""
