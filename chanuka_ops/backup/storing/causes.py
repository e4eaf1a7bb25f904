"""What an object store's client says of a failure, cut down to a sentence without credentials. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

from chanuka_ops.logs import MASK, redact

_MOST_CHARACTERS = 300
_DEBUG = "Debug source:"
_REQUEST = re.compile(
    r"Error performing (?P<method>[A-Z]+) \S+ in (?P<time>\S+?)(?P<retries>, after \d+ retries)?, ?.*? - "
)
_ALREADY_SAID = re.compile(r"^(?:Generic \S+ error: |Object at location .*? (?:not found|already exists): )")
_CODE = re.compile(r"<Code>(?P<code>[^<]*)</Code>(?:\s*<Message>(?P<message>[^<]*)</Message>)?")
_XML = re.compile(r"<[?A-Za-z].*", re.DOTALL)
_QUERY = re.compile(r"\?[^\s\"'<>)]+")  # a shared access signature stands in one
_DEEPEST = re.compile(r'message: "(?P<message>[^"]+)"|(?P<timed_out>TimedOut)')
_QUOTED = re.compile(r"'(?P<word>[^']*)'")


def of(error: BaseException, secrets: Iterable[str] = ()) -> str:
    """Say in a sentence what failed.

    >>> of(ValueError("Generic S3 error: Error performing GET http://h/b?sig=abc in 2.1ms, after 2 retries, "
    ...               "max_retries: 2, retry_timeout: 5s  - HTTP error: error sending request"))
    'GET in 2.1ms, after 2 retries: HTTP error: error sending request'
    >>> of(OSError("can't reach http://h/b?sig=abc with s3cret+"), ["s3cret+"])
    "can't reach http://h/b?******** with ********"
    """
    said, _, debug = str(error).partition(_DEBUG)
    code = _CODE.search(said)
    text = _XML.sub("", said)
    text = _ALREADY_SAID.sub("", " ".join(text.split()))
    text = _REQUEST.sub(lambda m: f"{m['method']} in {m['time']}{m['retries'] or ''}: ", text).rstrip(": ")
    if code is not None:
        text += f": {code['code']}" + (f": {code['message']}" if code["message"] else "")
    else:
        causes = {"timed out" if found["timed_out"] else found["message"] for found in _DEEPEST.finditer(debug)}
        text += "".join(f": {cause}" for cause in sorted(causes) if cause not in text)
    return _masked(text, secrets)[:_MOST_CHARACTERS] or type(error).__name__


def not_implemented(error: BaseException) -> bool:
    """Tell whether the server says that it doesn't know how.

    >>> not_implemented(ValueError("... - Server returned error response: <Code>NotImplemented</Code>"))
    True
    """
    said = str(error).partition(_DEBUG)[0]
    return "501 Not Implemented" in said or "<Code>NotImplemented</Code>" in said


def quoted(text: str) -> str:
    """Return the first word in quotes.

    >>> quoted("Configuration key: 'colour' is not valid for store 'S3'.")
    'colour'
    """
    found = _QUOTED.search(text)
    return found["word"] if found else text.splitlines()[0]


def _masked(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        for form in {secret, quote(secret, safe="")} - {""}:
            text = text.replace(form, MASK)
    return redact(_QUERY.sub(f"?{MASK}", text))
