"""A member with a planted bug: the first row of a file that it writes gets another content type than the entry says."""

from services.consensus.main import main
from services.consensus.metadata.tables import Tables

insert_version = Tables.insert_version
planted = iter([{"content_type": "text/other"}])


def insert_other(self, incarnation, version, **options):
    version = version.model_copy(update=next(planted, {}))
    insert_version(self, incarnation, version, **options)


Tables.insert_version = insert_other
main()
