"""What an operator needs when something is lost: backup, check, restore, and a new cluster from a surviving member.

Promises: a backup is the metadata at exactly one log index, with the list of the chunks that it needs and a manifest that proves
both; a restored or rescued cluster is another cluster than before, so that no old member can join it; its log indexes have
a generation that the old one never gave out, so that no version, receipt or cursor means two things. Nothing is ever written
into the folder that data is rescued from.

The path of a rescue: `survivors` (who has what) -> `new_cluster` (a folder for the first member) -> the member starts, and
others are added with empty folders. The path of a backup: `backup_pin` (the cluster keeps the chunks), `backup_files` from a
copy, restored by `new_cluster` too.

Refuses to: bring back what no surviving disk holds, or to hide that it may be missing.
"""
