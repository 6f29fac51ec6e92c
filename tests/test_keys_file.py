"""API_KEYS_FILE: what is read of it, and what a file that changes changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from plateau_sse import keysfile
from plateau_sse.api import keys
from plateau_sse.api.keys import ApiKeys
from plateau_sse.errors import SettingsError
from plateau_sse.keysfile import FILE_BYTES, digest
from plateau_sse.owners import of_name
from plateau_sse.settings import Settings

WEB, CI, NEW = "key-of-the-web", "key-of-ci", "key-of-the-web-in-2027"


def line(owner: str, name: str, key: str) -> str:
    return f"{owner} {name} sha256:{digest(key)}\n"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(keys, "LOOK_S", 0)
    found = tmp_path / "keys"
    found.write_text("# ours\n\n" + line("acme", "web", WEB) + line("bebra", "ci", CI))
    return found


def put(path: Path, content: str) -> None:
    """As an editor does it: another file in its place."""
    other = path.with_name("other")
    other.write_text(content)
    os.replace(other, path)


def test_an_owner_is_a_name(path: Path) -> None:
    found = ApiKeys(["a-key-of-the-setting"], path)
    assert found.owner_of(WEB) == of_name("acme")
    assert found.owner_of(CI) == of_name("bebra")
    assert found.owner_of("a-key-of-the-setting") not in (None, of_name("acme"))
    for wrong in ("", WEB.upper(), digest(WEB), f"sha256:{digest(WEB)}", "acme", "\ud800"):
        assert found.owner_of(wrong) is None


def test_keys_are_rotated_while_it_runs(path: Path) -> None:
    found = ApiKeys([], path)
    put(path, line("acme", "web", WEB) + line("acme", "web-2027", NEW))
    assert found.owner_of(NEW) == found.owner_of(WEB) == of_name("acme")
    assert found.owner_of(CI) is None
    put(path, line("acme", "web-2027", NEW))
    assert found.owner_of(NEW) == of_name("acme")
    assert found.owner_of(WEB) is None


def test_a_file_that_is_wrong_changes_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = ApiKeys([], path)
    for content in (f"acme web {NEW}\n", "\0", line("a", "b", NEW) * 2):
        put(path, content)
        assert found.owner_of(WEB) == of_name("acme") and found.owner_of(NEW) is None
    path.unlink()
    assert found.owner_of(WEB) == of_name("acme")
    assert "stay in force" in caplog.text
    # Whoever has put the key itself there does not find it in the log.
    assert NEW not in caplog.text
    put(path, "")
    assert found.owner_of(WEB) is None


def test_one_that_may_be_read_after_all_counts(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was wrong were its rights, and those alone are mended."""
    found, really = ApiKeys([], path), keysfile.read

    def refused(_: Path) -> Any:
        raise SettingsError("API_KEYS_FILE cannot be read: Permission denied.")

    monkeypatch.setattr(keysfile, "read", refused)
    put(path, line("acme", "web-2027", NEW))
    assert found.owner_of(WEB) == of_name("acme")
    monkeypatch.setattr(keysfile, "read", really)
    path.chmod(0o640)
    assert found.owner_of(WEB) is None and found.owner_of(NEW) == of_name("acme")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("acme web\n", "line 1"),
        ("\nacme web sha256:abc\n", "line 2"),
        (f"acme web {WEB}\n", "line 1"),
        (f"acme web sha256:{digest(WEB)} more\n", "line 1"),
        (f"ac/me web sha256:{digest(WEB)}\n", "line 1"),
        (line("acme", "web", WEB) + line("acme", "web", CI), "line 2"),
        (line("acme", "web", WEB) + line("bebra", "ci", WEB), "line 2"),
        ("#" * (FILE_BYTES + 1), "bytes"),
    ],
)
def test_what_is_wrong_is_said_at_the_start(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(SettingsError, match=said) as refused:
        Settings.from_env({"API_KEYS_FILE": str(path), "HOST": "0.0.0.0"})
    assert WEB not in str(refused.value)


def test_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        Settings.from_env({"API_KEYS_FILE": str(tmp_path / "none")})


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    os.mkfifo(path)
    with pytest.raises(SettingsError, match="is a pipe"):
        Settings.from_env({"API_KEYS_FILE": str(path)})


def test_one_of_an_editor_that_marks_its_encoding(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(line("acme", "web", WEB), encoding="utf-8-sig")
    assert ApiKeys([], path).owner_of(WEB) == of_name("acme")


def test_an_empty_one_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# none yet\n")
    assert not Settings.from_env({"API_KEYS_FILE": str(path), "HOST": "0.0.0.0"}).is_keyless
    assert ApiKeys([], path).owner_of(WEB) is None
