"""JSON path as people write it (`$.customer.id`) → the path that PostgreSQL is given, always as a parameter."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from evkit.errors import InvalidParameter
from evkit.masking import Policy, hides

# Members and places in arrays, nothing else: filters and regular expressions would let a path run for ever.
_STEP = re.compile(r'\.(?P<name>[^\W\d][\w-]*)|\."(?P<quoted>[^"\\\x00-\x1f]+)"|\[(?P<index>\d{1,9})\]')


def json_path(text: str) -> str:
    """The path in one spelling, its names quoted: `$.customer.id` and `$."customer".id` are `$."customer"."id"`.

    Raises:
        InvalidParameter: it is no path of names and numbers that begins with `$`.
    """
    given = text.strip()
    place, steps = 1, []
    if given.startswith("$"):
        while found := _STEP.match(given, place):
            index = found["index"]
            steps.append(f"[{int(index)}]" if index is not None else f'."{found["name"] or found["quoted"]}"')
            place = found.end()
    if not steps or place != len(given):
        raise InvalidParameter(
            f"'{text}' is no path into a payload: write $.customer.id, $.items[0].sku or $.\"odd name\"",
            name="path",
            value=text,
        )
    return "$" + "".join(steps)


def is_json_path(text: str) -> bool:
    """Whether it is meant as one: key, event type and topic are no paths, whatever they say."""
    return text.lstrip().startswith("$")


def path_and_value(text: str) -> tuple[str, str]:
    """`$.customer.id=4711` as path and value.

    Raises:
        InvalidParameter: no path, no `=`, or no value.
    """
    # The value may have a `=`, and so may a quoted name: the path ends where its steps do.
    place = 1
    while found := _STEP.match(text, place):
        place = found.end()
    path, sign, value = text[:place], *text[place:].partition("=")[1:]
    if not sign or not value or text[place] != "=":
        raise InvalidParameter(
            f"'{text}' is no path with a value: write $.customer.id=4711", name="business_id", value=text
        )
    return json_path(path), value


def shown_at(path: str, policies: Sequence[Policy]) -> Callable[[str | None], str | None]:
    """How a value at a path may be seen: as it is, or hashed where a policy says so of just this path.

    Raises:
        InvalidParameter: a policy hides it, or something of it.
    """
    found = _hiding(path, policies)
    for policy, is_whole in found:
        if policy.action != "hash" or not is_whole:
            raise InvalidParameter(
                f"{_hidden(path, policy)}: events cannot be told apart by it", name="path", value=path
            )
    hashing = [policy for policy, _ in found]
    return lambda value: value if value is None or not hashing else hashing[0].shown(value)


def require_shown(path: str, policies: Sequence[Policy]) -> None:
    """Raise InvalidParameter when a policy hides the value at a path, or something of it: who may name a value and is told
    which events have it knows it, hashed or not."""
    for policy, _ in _hiding(path, policies):
        raise InvalidParameter(f"{_hidden(path, policy)}: events cannot be looked for by it", name="path", value=path)


def _hiding(path: str, policies: Sequence[Policy]) -> list[tuple[Policy, bool]]:
    steps = [f["name"] or f["quoted"] or str(int(f["index"])) for f in _STEP.finditer(json_path(path))]
    return hides(policies, tuple(steps))


def _hidden(path: str, policy: Policy) -> str:
    return f"'{path}' is hidden by the masking policy of field '{policy.field}' ({policy.action})"
