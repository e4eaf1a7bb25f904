"""What the settings of a store of objects say, and what of it never shows."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.backup.storing import causes, clients
from chanuka_ops.backup.storing.objects import ObjectStore
from chanuka_ops.config import SecretSource, StoreSettings

SECRET = "s3cret+of/the=store"  # a secret: nothing but this test knows it
KEY = "YWNjb3VudCBrZXk="


def opened(url: str, options: dict[str, str], secrets: dict[str, SecretSource] | None = None) -> ObjectStore:
    store = ObjectStore("cloud", StoreSettings(url=url, options=options, secrets=secrets or {}))
    _ = store._bucket._client
    return store


@pytest.fixture
def in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_SECRET", SECRET)
    monkeypatch.setenv("STORE_KEY", KEY)


def test_the_examples_in_the_docstrings() -> None:
    assert doctest.testmod(causes).failed == 0


@pytest.mark.parametrize("scheme", ["s3", "gs", "gcs", "az", "azure", "adl", "abfs", "abfss"])
def test_each_cloud_opens_without_a_request(scheme: str, in_the_environment: None) -> None:
    options, secrets = {}, {}
    if scheme not in {"s3", "gs", "gcs"}:
        options = {"account_name": "account"}
        secrets = {"account_key": SecretSource(env="STORE_KEY")}
    elif scheme != "s3":
        options = {"skip_signature": "true"}
    store = opened(f"{scheme}://bucket/pre/fix", options, secrets)
    assert store.where == f"{scheme}://bucket/pre/fix"
    assert KEY not in repr(store) + repr(vars(store))


@pytest.mark.parametrize("key", sorted(clients.CLIENT_KEYS - {"root_certificate", "proxy_ca_certificate"}))
@pytest.mark.parametrize("prefix", ["", "aws_", "AWS_"])
def test_no_key_of_the_http_client_is_taken_for_one_of_the_store(key: str, prefix: str) -> None:
    """obstore panics there; a panic is no error that could be caught."""
    value = {"pool": "3", "http": "1", "prox": "http://localhost:1"}.get(key[:4], "true")
    if "timeout" in key or "interval" in key:
        value = "5s"
    elif key.startswith("http1") or key.endswith(("_only", "_idle")):
        value = "true"
    opened("s3://bucket", {f"{prefix}{key}": value})


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_an_unknown_option_is_named(scheme: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=f"stores.cloud: 'colour' is not an option of {scheme}://"):
        opened(f"{scheme}://bucket", {"colour": "red"})


@pytest.mark.parametrize(("key", "value"), [("allow_http", "maybe"), ("root_certificate", "no certificate")])
def test_a_value_that_can_not_be_read(key: str, value: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"stores\.cloud: s3://bucket can't be opened: "):
        opened("s3://bucket", {key: value})


@pytest.mark.parametrize("key", ["timeout", "connect_timeout", "AWS_READ_TIMEOUT"])
def test_the_deadline_is_ours(key: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=f"{key} can't be set"):
        opened("s3://bucket", {key: "5 days"})


def test_nothing_is_read_or_opened_before_the_first_request(tmp_path: Path) -> None:
    missing = {"secret_access_key": SecretSource(file=tmp_path / "missing")}
    store = ObjectStore("cloud", StoreSettings(url="s3://bucket", options={"colour": "red"}, secrets=missing))
    with pytest.raises(errors.ConfigurationError, match=r"secret_access_key of store cloud is to come from .*missing"):
        store.list()


def test_a_secret_by_an_unknown_name(in_the_environment: None) -> None:
    with pytest.raises(errors.ConfigurationError, match="'pass_phrase' is not an option") as failure:
        opened("s3://bucket", {}, {"pass_phrase": SecretSource(env="STORE_SECRET")})
    assert SECRET not in str(failure.value)


SIGNATURE = """Generic S3 error: Error performing PUT https://h/b?X-Amz-Signature=abc in 8.031832ms, after 2 retries, \
max_retries: 2, retry_timeout: 5s  - Server returned non-2xx status code: 403 Forbidden: <?xml?>
<Error><Code>SignatureDoesNotMatch</Code><Message>It does not match</Message><StringToSign>s3cret</StringToSign></Error>

Debug source:
Generic {"s3cret+of/the=store"}"""


def test_what_a_client_says_is_cut_down() -> None:
    assert causes.of(ValueError(SIGNATURE), [SECRET]) == (
        "PUT in 8.031832ms, after 2 retries: Server returned non-2xx status code: 403 Forbidden:"
        " SignatureDoesNotMatch: It does not match"
    )


@pytest.mark.parametrize(
    "said",
    [
        f"error sending request for url (https://h/c?sv=2024&sig={KEY})",
        "proxy http://user:s3cret+of/the=store@h:1 refused",
        "header s3cret%2Bof%2Fthe%3Dstore is not valid",
        f'Debug source: message: "{SECRET}"',
        "password=s3cret+of/the=store",
    ],
)
def test_no_credential_in_a_cause(said: str) -> None:
    cut = causes.of(OSError(said), [SECRET])
    assert SECRET not in cut
    assert KEY not in cut
    assert "s3cret" not in cut
    assert len(cut) <= 300
