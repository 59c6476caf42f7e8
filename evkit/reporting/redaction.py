"""Secrets → ***, in everything that leaves a kernel: notebook, page, summary, log."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

from evkit.settings import Settings

HIDDEN = "***"

# scheme://user:password@host, and the two ways in which libpq and librdkafka write a password as a property.
_USERINFO = re.compile(r"(?P<before>\b[a-z][a-z0-9+.-]*://[^\s:/@\"']*:)[^\s/@\"']+(?=@)", re.IGNORECASE)
_PROPERTY = re.compile(
    r"(?P<before>\b(?:sasl\.|ssl\.key\.)?password\s*[=:]\s*)('[^']*'|\"[^\"]*\"|[^\s,;'\"}&<\\]+)", re.IGNORECASE
)


class Redactor:
    """Replaces the given secrets, in every way of writing them that a notebook knows, and userinfo of any URL."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {secret for secret in secrets if secret.strip()}
        # Twice: a JSON text inside a printed dict has been escaped by both.
        for _ in range(2):
            forms |= {escaped for form in forms for escaped in _escaped(form)}
        # The longest first: of two secrets one may begin with the other.
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        self._secrets = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    @classmethod
    def of(cls, settings: Settings) -> Redactor:
        """For the secrets of these settings."""
        return cls(settings.secrets())

    def text(self, text: str) -> str:
        """The text without secrets."""
        if self._secrets is not None:
            text = self._secrets.sub(HIDDEN, text)
        if "://" in text:
            text = _USERINFO.sub(rf"\g<before>{HIDDEN}", text)
        if "assword" in text or "ASSWORD" in text:
            text = _PROPERTY.sub(rf"\g<before>{HIDDEN}", text)
        return text

    def document(self, value: Any) -> Any:
        """The same for every text inside a JSON-like document; a new one, of plain dicts and lists."""
        return _mapped(value, self.text)


def _escaped(text: str) -> tuple[str, ...]:
    """The ways in which a text comes to be written: in a URL, in HTML by two libraries, in JSON and by repr."""
    return (
        quote(text, safe=""),
        html.escape(text),
        html.escape(text).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        repr(text)[1:-1],
        text.replace("\\", "\\\\").replace("'", "\\'"),
    )


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        # Keys are names of fields and mimetypes, never data; changing one would break the document.
        return {k: _mapped(v, change) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(v, change) for v in value]
    return value
