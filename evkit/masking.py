"""What must not be seen of a payload: policies, and the payload without it.

    [[masking]]                        # for every profile; [[profiles.prod.masking]] for one
    topic = "order*"                   # patterns with * and ?; default: all
    event_type = "order.*"
    field = "customer.email"           # or items.*.note, **.iban (at any depth); or header = "tenant"
    action = "mask"                    # ***; remove takes the field out; replace puts `replacement` there; hash: see below
    errors = "hide"                    # what errors say of such an event: see below

`hash` puts `hash:` and a keyed hash there (HMAC-SHA-256 with the profile's `masking_key`, its first 96 bits): equal values
stay equal, and who has not the key cannot find a value by trying out all names or numbers that there are.

Views apply them before there is a frame, and `evkit dlq` before it prints or writes a letter. A record whose event type
cannot be told is under every policy of its topic. A path that is not there masks nothing; a value that cannot be read as
JSON while a policy applies to it is withheld whole, for nobody can say what is in it. Names of fields and keys of records
are no payload. An error may quote the payload in any form; `errors` says what is shown of it, in `evkit/error_texts.py`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PrivateAttr, model_validator

from evkit.errors import InvalidParameter, SettingsError
from evkit.fields import Steps, steps_of

MASK = "***"
MASKED, WITHHELD = "masked", "withheld"
# What evkit's tables have for the type of a record that is no event, and of one that a decode function passed over.
UNKNOWN_TYPE, PASSED_OVER = "(unknown)", "(passed over)"
Headers = Iterable[tuple[str, bytes | None]]

HASHED = "hash:"
NO_KEY = (
    'a policy of action hash needs a key: set masking_key = "env:NAME" or "file:PATH" in the profile, '
    "or the variable EVKIT_MASKING_KEY"
)
# 96 bits: among a thousand million values the chance that two look equal is one in a hundred thousand million.
_HASH_CHARACTERS = 24
# Shorter ones would be found everywhere in an error's text.
_HIDDEN_CHARACTERS_MIN = 3
_GONE = object()


class Policy(BaseModel):
    """One thing that must not be seen.

    Attributes:
        topic, event_type  patterns of what it applies to
        field              path in the JSON payload; `*` is any one name or place, `**` any number of them
        header             name of a header, in place of `field`
        action             mask, remove, replace or hash
        replacement        what `replace` puts there
        errors             hide (what errors say of an event with such a field or header), replace (only the value itself,
                           wherever an error quotes it letter for letter), or show
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: str = "*"
    event_type: str = "*"
    field: str | None = None
    header: str | None = None
    action: Literal["mask", "remove", "replace", "hash"] = "mask"
    replacement: str | None = None
    errors: Literal["hide", "replace", "show"] = "hide"
    _key: bytes = PrivateAttr(default=b"")

    @model_validator(mode="after")
    def _whole(self) -> Policy:
        if (self.field is None) == (self.header is None):
            raise ValueError("a policy needs a field or a header, one of them")
        if (self.action == "replace") != (self.replacement is not None):
            raise ValueError("action replace, and no other, needs a replacement")
        if self.header in ("ce_id", "ce_type", "id"):
            raise ValueError(f"header '{self.header}' names the event and cannot be masked")
        if self.field is not None:
            try:
                steps_of(self.field)
            except InvalidParameter as error:
                raise ValueError(str(error)) from None
        return self

    @property
    def steps(self) -> Steps:
        return steps_of(self.field or "")

    def keyed(self, key: str) -> Policy:
        """The same policy with the key that it hashes by."""
        made = self.model_copy()
        made._key = key.encode()
        return made

    def shown(self, value: Any) -> str:
        """What is seen in the place of a value that stays.

        Raises:
            SettingsError: it is to be hashed, and there is no key.
        """
        if self.action != "hash":
            return MASK if self.replacement is None else self.replacement
        if not self._key:
            raise SettingsError(NO_KEY)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
        digest = hmac.new(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
        return f"{HASHED}{digest[:_HASH_CHARACTERS]}"


def applying(policies: Iterable[Policy], topic: str, event_type: str | None) -> tuple[Policy, ...]:
    """The policies that a record is under."""
    if event_type in (UNKNOWN_TYPE, PASSED_OVER):
        event_type = None
    return tuple(
        p
        for p in policies
        if fnmatchcase(topic, p.topic) and (event_type is None or fnmatchcase(event_type, p.event_type))
    )


def of_topic(policies: Iterable[Policy], topic: str | None) -> tuple[Policy, ...]:
    """The policies that some record of a topic is under, or of any topic when it is None."""
    return tuple(policies) if topic is None else applying(policies, topic, None)


def masked_document(document: Any, policies: Iterable[Policy], hidden: list[str] | None = None) -> Any:
    """A copy of a JSON document without what the policies hide; `hidden` is given the texts that were.

    Paths count from the document, from its `data` (CloudEvents) and from its `payload` (Kafka Connect's envelope); JSON
    inside of a string is opened.
    """
    taken: list[str] = [] if hidden is None else hidden
    for policy in policies:
        if policy.field is None:
            continue
        document = _without(document, policy.steps, policy, taken)
        for envelope in ("data", "payload"):
            document = _without(document, (envelope, *policy.steps), policy, taken)
    return None if document is _GONE else document


def masked_value(
    value: bytes | None, policies: Sequence[Policy], hidden: list[str] | None = None
) -> tuple[bytes | None, str | None]:
    """A record's value as it may be seen, and whether it is `masked` or `withheld` (then it is None); None: no policy."""
    if not any(p.field is not None for p in policies):
        return value, None
    if value is None:
        return None, MASKED
    try:
        document = json.loads(value.decode("utf-8-sig"), parse_constant=_no_number)
        if isinstance(document, str) and not isinstance(_inside(document), (dict, list)):
            return None, WITHHELD
        if isinstance(document, dict) and "data_base64" in document:
            return None, WITHHELD
        # Written anew also where nothing was found: of a name that comes twice, only the last was looked at.
        return _bytes(masked_document(document, policies, hidden)), MASKED
    except (ValueError, RecursionError):
        return None, WITHHELD


def masked_headers(headers: Headers, policies: Sequence[Policy]) -> list[tuple[str, bytes | None]]:
    """Headers as they may be seen."""
    of_name = {p.header: p for p in policies if p.header is not None}
    found: list[tuple[str, bytes | None]] = []
    for name, value in headers:
        policy = of_name.get(name)
        if policy is None or value is None:
            found.append((name, value))
        elif policy.action != "remove":
            found.append((name, policy.shown(value.decode("utf-8", "backslashreplace")).encode()))
    return found


def hidden_headers(headers: Headers, policies: Sequence[Policy]) -> list[str]:
    """What policies hide of headers, as text: an error may quote it."""
    names = {p.header for p in policies}
    texts = [
        value.decode("utf-8", "backslashreplace") for name, value in headers if name in names and value is not None
    ]
    return [text for text in texts if len(text) >= _HIDDEN_CHARACTERS_MIN]


def masked_at(value: Any, steps: Steps, policies: Sequence[Policy]) -> Any:
    """A part of a document, which lies there at these steps, without what the policies hide; MASK where nothing is left."""
    if not any(p.field is not None for p in policies):
        return value
    if not steps and not isinstance(value, (dict, list)):
        return MASK  # no JSON document: nobody can say what is in it
    document = value
    for step in reversed(steps):
        document = {step: document}
    seen = masked_document(document, policies)
    for step in steps:
        if not isinstance(seen, dict) or step not in seen:
            return MASK
        seen = seen[step]
    return seen


def hides(policies: Iterable[Policy], steps: Steps) -> list[tuple[Policy, bool]]:
    """Policies that hide something of what is at these steps of a payload: all of it (True), or what is in or around it."""
    found = []
    for policy in policies:
        if policy.field is None:
            continue
        for hidden in (policy.steps, ("data", *policy.steps), ("payload", *policy.steps)):
            until = hidden.index("**") if "**" in hidden else len(hidden)
            if all(a in ("*", b) for a, b in zip(hidden[:until], steps, strict=False)):
                found.append((policy, "**" not in hidden and len(hidden) == len(steps)))
                break
    return found


def masked_text(text: str | None, hidden: Iterable[str]) -> str | None:
    """A text that may quote the payload, without what was hidden of it."""
    if text is not None:
        for quoted in sorted(set(hidden), key=len, reverse=True):
            for form in {quoted, repr(quoted)[1:-1], json.dumps(quoted)[1:-1]}:
                text = text.replace(form, MASK)
    return text


def _without(node: Any, steps: Steps, policy: Policy, hidden: list[str]) -> Any:
    if not steps:
        _collect(node, hidden)
        return _GONE if policy.action == "remove" else policy.shown(node)
    step, rest = steps[0], steps[1:]
    if isinstance(node, str):
        inner = _inside(node)
        if not isinstance(inner, (dict, list)):
            return node
        return _bytes(_without(inner, steps, policy, hidden)).decode("utf-8", "surrogatepass")
    if not isinstance(node, (dict, list)):
        return node
    if step == "**":
        if rest:
            node = _without(node, rest, policy, hidden)
            if not isinstance(node, (dict, list)):
                return node
        elif policy.action == "remove":
            _collect(node, hidden)
            return type(node)()
    if isinstance(node, dict):
        made = {name: _child(name, value, step, steps, rest, policy, hidden) for name, value in node.items()}
        return {name: value for name, value in made.items() if value is not _GONE}
    places = [_child(str(i), value, step, steps, rest, policy, hidden) for i, value in enumerate(node)]
    return [value for value in places if value is not _GONE]


def _child(name: str, value: Any, step: str, steps: Steps, rest: Steps, policy: Policy, hidden: list[str]) -> Any:
    if step == "**":
        # At the last step every value that has none below it is meant.
        if not rest and not isinstance(value, (dict, list)):
            return _without(value, (), policy, hidden)
        return _without(value, steps, policy, hidden)
    return _without(value, rest, policy, hidden) if step in ("*", name) else value


def _collect(node: Any, hidden: list[str]) -> None:
    if isinstance(node, dict):
        for value in node.values():
            _collect(value, hidden)
    elif isinstance(node, list):
        for value in node:
            _collect(value, hidden)
    elif node is not None and not isinstance(node, bool) and len(str(node)) >= _HIDDEN_CHARACTERS_MIN:
        hidden.append(str(node))
        if isinstance(node, str) and (inner := _inside(node)) != node:
            _collect(inner, hidden)


def _inside(text: str) -> Any:
    """The JSON in a string; the string itself when there is none."""
    if not text.lstrip().startswith(("{", "[", '"')):
        return text
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return text


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _bytes(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
