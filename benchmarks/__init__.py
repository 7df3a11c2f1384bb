"""Measurements of the real system, each with a floor or a peer in the same run. Results stand in RESULTS.md."""
