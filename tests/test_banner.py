"""What serve prints: addresses that work as they stand, and no passwords."""

from __future__ import annotations

import pytest

from plateau_sse.serve.banner import LAST_LINE, banner, page_url
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
    printed = banner(settings, frozenset())
    assert '  redis-cli -u "$REDIS_URL" INFO memory\n' in printed
    assert "  redis-cli -u redis://box/0 --askpass INFO memory\n" in printed
    assert "secret" not in printed


def test_a_line_for_ours_is_short() -> None:
    settings = Settings(redis_url="redis://127.0.0.1:8001/0")
    lines = banner(settings, frozenset({"streams"})).splitlines()
    assert "  redis-cli -p 8001 INFO memory" in lines


def test_the_banner_ends_with_how_to_stop() -> None:
    settings = Settings(redis_url="redis://a/0")
    lines = banner(settings, frozenset()).splitlines()
    assert lines[0] == "Plateau is up: http://127.0.0.1:8000/"
    assert lines[-2] == "There is no cache: CACHE_REDIS_URL is not set."
    assert lines[-1] == LAST_LINE
