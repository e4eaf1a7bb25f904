"""Where a password may stand, and that it stands nowhere else."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

import pytest

from chanuka_ops import config
from chanuka_ops.db import credentials
from chanuka_ops.errors import ConfigurationError
from chanuka_ops.logs import redact

SECRET = "hunter2-sésame"
QUOTED = "hunter2-s%C3%A9same"
URL = f"postgresql://ops:{QUOTED}@db.internal/chanuka"


def loaded(tmp_path: Path, environ: dict[str, str] | None = None, toml: str = "") -> config.Settings:
    (tmp_path / "chanuka.toml").write_text(toml, encoding="utf-8")
    return config.load(environ or {}, tmp_path)


def hidden(words: str) -> bool:
    return "hunter2" not in words


def test_a_password_shows_in_no_form_of_the_settings(tmp_path: Path) -> None:
    settings = loaded(tmp_path, {"DATABASE_URL": URL})
    database = settings.database("main")
    forms = (
        repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump()), repr(database),
        json.dumps(settings.model_dump(mode="json")), str(database.sqlalchemy_url), repr(database.with_dbname("other")),
    )  # fmt: skip
    assert all(hidden(form) for form in forms)
    assert credentials.password_of(database) == SECRET  # and yet it's there
    assert "ops:***@db.internal" in settings.model_dump_json()


@pytest.mark.parametrize("parameter", ["password", "sslpassword"])
def test_a_password_in_the_query_is_refused_for_nothing_masks_it_there(tmp_path: Path, parameter: str) -> None:
    with pytest.raises(ConfigurationError, match=f"query holds {parameter}") as caught:
        loaded(tmp_path, {"DATABASE_URL": f"postgresql://ops@a/b?{parameter}={SECRET}"})
    assert hidden(str(caught.value))


@pytest.mark.parametrize(
    "environ",
    [
        {"DATABASE_URL": f"mysql://ops:{SECRET}@a/b"},
        {"DATABASE_URL": f"postgresql://ops:{SECRET}@a"},
        {"DATABASE_URL": f"postgresql://ops:{SECRET}@a:x/b"},
        {"DATABASE_URL": f"ops:{SECRET}@a/b"},
        {"DATABASE_URL": f"postgresql://ops:{SECRET}@a/b", "CHANUKA__DATABASES__MAIN__PASSWORD__ENV": "X"},
        {"CHANUKA__DATABASES__MAIN": f'{{url = "postgresql://ops:{SECRET}@a/b", x = 1}}'},
        {"CHANUKA__DATABASES__MAIN": f'{{url = "postgresql://ops:{SECRET}@a/b"'},
        {"CHANUKA__DATABASES": f"postgresql://ops:{SECRET}@a/b"},
        {"CHANUKA__ENVIRONMENT": SECRET},
    ],
)
def test_a_message_about_a_wrong_setting_holds_no_value_of_it(tmp_path: Path, environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, environ)
    assert hidden("".join(traceback.format_exception(caught.value)))


def test_a_broken_file_is_told_of_without_its_contents(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, toml=f'[databases.main]\nurl = "postgresql://ops:{SECRET}@a/b\n')
    assert hidden("".join(traceback.format_exception(caught.value)))


def test_a_password_comes_from_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml = '[databases.main]\nurl = "postgresql://ops@a/b"\npassword = {env = "OPS_PASSWORD"}\n'
    database = loaded(tmp_path, toml=toml).database("main")
    monkeypatch.setenv("OPS_PASSWORD", SECRET)
    assert credentials.password_of(database) == SECRET
    monkeypatch.setenv("OPS_PASSWORD", "rotated")
    assert credentials.password_of(database) == "rotated"
    monkeypatch.delenv("OPS_PASSWORD")
    with pytest.raises(ConfigurationError, match="OPS_PASSWORD"):
        credentials.password_of(database)


def test_a_password_comes_from_a_file_without_its_line_end(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n", encoding="utf-8")
    toml = f'[databases.main]\nurl = "postgresql://ops@a/b"\npassword = {{file = "{secret}"}}\n'
    database = loaded(tmp_path, toml=toml).database("main")
    assert credentials.password_of(database) == SECRET
    secret.unlink()
    with pytest.raises(ConfigurationError, match="secret"):
        credentials.password_of(database)


def test_a_password_comes_from_a_command(tmp_path: Path) -> None:
    def password(program: str) -> str | None:
        command = json.dumps([sys.executable, "-c", program])
        toml = f'[databases.main]\nurl = "postgresql://ops@a/b"\npassword = {{command = {command}}}\n'
        return credentials.password_of(loaded(tmp_path, toml=toml).database("main"))

    assert password("print('from the vault')") == "from the vault"
    with pytest.raises(ConfigurationError, match="exited with 3") as caught:
        password(f"import sys; print('{QUOTED}'); sys.exit(3)")
    assert hidden(str(caught.value))  # neither its argument list nor its output


@pytest.mark.parametrize(
    "words",
    [
        f"postgresql://ops:{SECRET}@db/x failed",
        f"host=db password={SECRET} user=ops",
        f"host=db password='{SECRET} a' user=ops",
    ],
)
def test_a_log_line_is_redacted(words: str) -> None:
    assert hidden(redact(words))
