"""Whole files between a disk and the store: by parts or ranges, several at a time, going on after an interruption.

`plan` cuts a file; `journal` remembers what is done, in a file; `own_files` opens such files; `hashing` reads what is there;
`parallel` runs the pieces; `uploading` and `downloading` are the two ways.
"""
