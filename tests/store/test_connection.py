"""Connections: opened when needed, closed when nobody needs them."""

import gc

from provkeep.store.connection import Link


def test_a_link_that_is_forgotten_closes_its_connection():
    """Python 3.13 warns of a connection that is left to the garbage collector."""
    closed = []

    class Connection:
        def close(self):
            closed.append(self)

    link = Link(Connection)
    with link.lock:
        connection = link.get()
    del link
    gc.collect()
    assert closed == [connection]
