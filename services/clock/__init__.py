"""Turns several NTP servers into one time with an error bound, and falls back to logical time.

One round: `synchronizer` asks the servers through `ntp` (one validated exchange), `discipline` (pure) intersects the
samples and steers a software clock, `api` publishes. Nothing in Trivet depends on its being right (DESIGN.md, P7).
"""
