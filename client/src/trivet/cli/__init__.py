"""The command line `trivet`: files of a store, its buckets, its keys and its cluster from a terminal.

A call goes through `main` (which ends with the codes of `exit_codes`), `lazy` (which imports the module of the one command that
was asked for), that module in `commands`, and `session`, which opens the client. What a command has to say goes through `output`:
a table on a terminal, lines with tabs elsewhere, JSON when asked.

`trivet --help` imports neither a client nor anything that draws: the names of the commands stand in `main`.
"""
