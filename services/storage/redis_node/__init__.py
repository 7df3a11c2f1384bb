"""This node's own Redis: the link with its deadline and breaker, the check that it may be trusted, and the key layout.

It promises that a Redis which is dead, hung, full or not ours costs a caller one deadline at most, and then nothing.
"""
