"""names and patterns → groups: say whether a consumer group is one of those that a sampler is asked for."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence


def wanted(group: str, patterns: Sequence[str]) -> bool:
    """Whether a group is one of these names and patterns ("billing", "shop-*"); no patterns: it is."""
    return not patterns or any(fnmatch.fnmatchcase(group, pattern) for pattern in patterns)
