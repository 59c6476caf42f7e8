"""MODULE:CONSUMER → Consumer: find what a service's own code has made."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from evkit.errors import UsageError, closest
from evkit.runtime.consumer import Consumer


def consumer_at(where: str) -> Consumer:
    """The consumer named as `package.module:attribute`; the working directory is importable.

    Raises:
        UsageError: the name has no colon, the module cannot be imported, or there is no consumer of that name in it.
    """
    module_name, colon, attribute = where.partition(":")
    if not colon or not module_name or not attribute:
        raise UsageError(f"'{where}' names no consumer: write MODULE:CONSUMER, for example orders.billing:consumer")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"module '{module_name}' cannot be imported from {Path.cwd()}: {error}") from error
    except Exception as error:
        raise UsageError(
            f"module '{module_name}' fails while it is imported: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, attribute, None)
    if not isinstance(found, Consumer):
        consumers = [name for name, value in vars(module).items() if isinstance(value, Consumer)]
        near = closest(attribute, consumers) or consumers
        hint = f"; it has {', '.join(near)}" if near else "; it has none"
        raise UsageError(f"module '{module_name}' has no consumer '{attribute}'{hint}")
    return found
