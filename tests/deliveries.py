"""What tests want to know of the queue, and nobody else."""

import os

from sqlalchemy import select

from storage.schema import deliveries
from storage.store import Store


def kept(store: Store) -> list[str]:
    """The paths of the files that policy `keep` has left in the inbox."""
    query = select(deliveries.c.path).where(deliveries.c.state == "kept")
    with store.database.read() as connection:
        return [os.fsdecode(bytes(path)) for path in connection.scalars(query)]
