"""Who a request is made by, and that nothing is read or changed that this principal may not.

One request: `api.door` -> `credentials`, `transport` -> `control` (whom the key proves, by the rows in `key_table`) -> `context`,
which carries the `principal` to wherever data is touched. There `authorized_metadata` asks `policy` what `requirements` say about
the very command or query, and again when the log knows of newer rows. What runs in the background begins with no context, and
says `as_system()` when it reads or changes anything for Trivet itself. `sealing` keeps the secrets of access keys unreadable for
everything but gateways, `proofs` remembers which bearers were right, `key_use` records when keys were used last, and `refusals`
counts what was refused. `links` are requests that prove themselves, `visible_lists` takes out of lists what their reader may not
see, `bootstrap` makes the first key.
"""
