"""A pair of age keys of the session's own, as the settings name them."""

from __future__ import annotations

import pyrage

_PAIR = pyrage.x25519.Identity.generate()
RECIPIENT = str(_PAIR.to_public())
SECRET_KEY = str(_PAIR)
SECRET_NAME = "TEST_AGE_IDENTITY"
IDENTITY = {"env": SECRET_NAME}
ANOTHER_SECRET_KEY = str(pyrage.x25519.Identity.generate())
