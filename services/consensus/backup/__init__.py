"""Backups of everything: the metadata and every chunk that it needs, in a folder or in a bucket of S3.

    chunks/ab/abcd…                             the bytes of one chunk, under its digest; never changed
    snapshots/INDEX-CLUSTER/metadata.sqlite     the state machine at one log index, and
                            chunks.txt          the chunks that it needs,
                            manifest.json       sealed; written last, so that what has one is whole

Promises: a snapshot that is listed had all of its chunks when it was made, whatever was deleted in the cluster meanwhile. A chunk
is copied once for all snapshots, because its name is its content; so a backup is incremental, and one that was killed goes on
where it was. Nothing that a medium or a thief changes is restored: the seal proves the list, and its digests prove the bytes.

The path of a backup: `rescue.backup_pin` keeps the chunks, `rescue.download` copies the metadata, `copying` the chunks that
`targets` lacks, `snapshots` publishes. The path of a restore: `snapshots` fetches the metadata, from which `rescue restore` makes
the first member of a new cluster; when that runs, `restoring` puts the chunks back and has the nodes prove them.

Refuses to: publish a snapshot with a chunk that could not be read, or call a restore complete that the nodes have not verified.
"""
