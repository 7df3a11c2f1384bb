"""Reconcile: makes a node hold what it should hold, and no more.

rules.py: when a replica may be deleted.
"""
