"""What a request means by RFC 9110: names, ranges, conditions, digests, dates and headers of a file, as pure functions."""
