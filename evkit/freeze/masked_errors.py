"""pages of failures on their way into a freeze → the same without what policies hide of errors (`evkit.error_texts`)."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from evkit.error_texts import HIDDEN, hides_errors
from evkit.masking import Policy


def errors_as_seen(page: pa.Table, policies: Sequence[Policy]) -> pa.Table:
    """Rows of failures without what they say of events that a policy may be about; what a table does not tell of the event
    (its topic, its type) is not known."""
    unknown = [None] * page.num_rows
    topics, kinds = (
        page[name].to_pylist() if name in page.column_names else unknown for name in ("topic", "event_type")
    )
    hides = {of: hides_errors(policies, *of) for of in set(zip(topics, kinds, strict=True))}
    seen = [
        HIDDEN if text and hides[of] else text
        for text, of in zip(page["error_message"].to_pylist(), zip(topics, kinds, strict=True), strict=True)
    ]
    place = page.column_names.index("error_message")
    return page.set_column(place, page.schema.field(place), pa.array(seen, page.schema.field(place).type))
