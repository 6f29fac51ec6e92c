"""What serve prints: addresses that work as they stand, and no passwords."""

from __future__ import annotations

import pytest

from service.serve.banner import LAST_LINE, banner, page_url, redis_command
from service.settings import Settings


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


@pytest.mark.parametrize(
    ("url", "command"),
    [
        ("redis://box:6380/1", "redis-cli -u redis://box:6380/1 INFO memory"),
        ("redis://:secret@box/0", "redis-cli -u 'redis://:***@box/0' INFO memory"),
        ("rediss://me:secret@box", "redis-cli -u 'rediss://me:***@box' INFO memory"),
        ("unix:///run/my redis.sock", "redis-cli -s '/run/my redis.sock' INFO memory"),
        ("redis://box/0?password=secret", "redis-cli -u redis://box/0 INFO memory"),
    ],
)
def test_a_line_for_a_given_redis_shows_no_password(url: str, command: str) -> None:
    assert redis_command(url, ours=False) == command


def test_a_line_for_ours_is_short() -> None:
    assert redis_command("redis://127.0.0.1:8001/0", ours=True) == (
        "redis-cli -p 8001 INFO memory"
    )


def test_the_banner_ends_with_how_to_stop() -> None:
    settings = Settings(redis_url="redis://a/0")
    lines = banner(settings, frozenset()).splitlines()
    assert lines[0] == "Plateau is up: http://127.0.0.1:8000/"
    assert lines[-2] == "There is no cache: CACHE_REDIS_URL is not set."
    assert lines[-1] == LAST_LINE
