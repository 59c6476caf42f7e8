"""inbox → transaction: open it around a batch, and let whoever keeps count write into it before it is committed.

A live consumer keeps no count in the database: its inbox rows and its offsets tell. A replay does (replay_ledger.py), and
a dry one rolls the transaction back.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from evkit import postgres
from evkit.runtime.delivery import Delivery
from evkit.runtime.failure import Failure
from evkit.runtime.outcome import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator


class Ledger:
    """Keeps no count.

    Attributes:
        dry  what is done in the transactions does not stay
    """

    dry: bool = False

    def transaction(
        self,
        connection: postgres.Connection,
        batch: Sequence[Delivery],  # noqa: ARG002 - for those who keep count
        failure: Failure | None = None,  # noqa: ARG002
    ) -> AbstractContextManager[Counts]:
        """A transaction about these deliveries; whoever opened it adds to the counts what came to its end in it.

        Args:
            failure  of the one delivery, when it is about that
        """
        return _transaction(connection)


@contextmanager
def _transaction(connection: postgres.Connection) -> Iterator[Counts]:
    with connection.transaction():
        yield Counts()
