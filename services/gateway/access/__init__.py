"""Who a request is made by, and that nothing is read or changed that this principal may not.

`principal` says what a principal is, and `policy` decides what it may do, purely; `context` carries the one of a request to
wherever data is touched. What runs in the background begins with none, and says `as_system()` when it reads or changes anything
for Trivet itself. `sealing` keeps the secrets of access keys unreadable for everything but gateways.
"""
