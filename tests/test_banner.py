"""What serve prints: addresses that work as they stand, and no passwords."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from plateau_sse.serve.banner import LAST_LINE, banner, page_url
from plateau_sse.serve.data_dir import DataDir
from plateau_sse.settings import Settings


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000/"),
        ("localhost", "http://localhost:8000/"),
        ("0.0.0.0", "http://127.0.0.1:8000/"),
        ("::1", "http://[::1]:8000/"),
        ("[::]", "http://[::1]:8000/"),
    ],
)
def test_the_page_is_at_an_address_that_a_browser_can_open(host: str, url: str) -> None:
    assert page_url(Settings(host=host)) == url


def test_a_line_for_a_given_redis_can_be_pasted_and_shows_no_password() -> None:
    settings = Settings(
        redis_url="rediss://me:secret@box/0", cache_redis_url="redis://box/0?password=secret"
    )
    printed = banner(settings, {})
    assert '  redis-cli -u "$REDIS_URL" INFO memory\n' in printed
    assert "  redis-cli -u redis://box/0 --askpass INFO memory\n" in printed
    assert "secret" not in printed


def test_a_line_for_ours_finds_the_password_where_it_is_kept(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path / "it's here")
    try:
        url = f"redis://:{data_dir.password}@127.0.0.1:"
        data_dir.publish({"streams": f"{url}8001/0", "cache": f"{url}8002/0"})
        settings = Settings(redis_url=f"{url}8001/0")
        lines = banner(settings, {"streams": data_dir.path}).splitlines()
        (line,) = (it for it in lines if it.endswith(" redis-cli -p 8001 INFO memory"))
        assert data_dir.password not in line
        asked = line.replace(" redis-cli -p 8001 INFO memory", " env")
        found = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=9)
        assert f"REDISCLI_AUTH={data_dir.password}\n" in found.stdout
    finally:
        data_dir.close()


def test_the_banner_ends_with_how_to_stop() -> None:
    settings = Settings(redis_url="redis://a/0")
    lines = banner(settings, {}).splitlines()
    assert lines[0] == "Plateau is up: http://127.0.0.1:8000/"
    assert lines[-2] == "There is no cache: CACHE_REDIS_URL is not set."
    assert lines[-1] == LAST_LINE
