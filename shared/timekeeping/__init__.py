"""Every process's own disciplined copy of the time, and the hybrid logical clock that stamps from it."""
