"""Turns several NTP servers into one time with an error bound, and falls back to logical time.

One round: `synchronizer` asks the servers that `resolver` found through `ntp`, one exchange each, validated by
`ntp_answer`; `source` keeps the last samples of one server and picks the best by `sample_filter`; `discipline` (pure)
has them intersected by `intersection` and steers a software clock; `leap` leaves smearing servers out around a leap
second, `host_chrony` asks the host's chronyd where there is one. One answer: `fast_path` -> `service` -> the software clock
and the hybrid logical clock. No promise of Trivet about data depends on the time being right (docs/promises.md, P7).
"""
