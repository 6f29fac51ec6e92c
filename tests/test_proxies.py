"""Which addresses are reached by way of a proxy: what the machine's variables say."""

from __future__ import annotations

import pytest

from plateau_sse.agents.proxies import Proxy, proxy_for

BOTH = {"HTTPS_PROXY": "http://secure:3128", "HTTP_PROXY": "http://plain:8080/"}


@pytest.mark.parametrize(
    ("environ", "is_secure", "found"),
    [
        ({}, True, None),
        (BOTH, True, Proxy("HTTPS_PROXY", "secure", 3128, {})),
        (BOTH, False, Proxy("HTTP_PROXY", "plain", 8080, {})),
        ({"https_proxy": "box"}, True, Proxy("https_proxy", "box", 80, {})),
        (BOTH | {"https_proxy": "http://low"}, True, Proxy("https_proxy", "low", 80, {})),
        ({"ALL_PROXY": "http://[::1]:1"}, True, Proxy("ALL_PROXY", "::1", 1, {})),
        ({"HTTPS_PROXY": " "}, True, None),
        (
            {"HTTP_PROXY": "http://me:p%40ss@box:1"},
            False,
            Proxy("HTTP_PROXY", "box", 1, {"Proxy-Authorization": "Basic bWU6cEBzcw=="}),
        ),
    ],
)
def test_it_is_the_one_that_the_machine_names(
    environ: dict[str, str], is_secure: bool, found: Proxy | None
) -> None:
    assert proxy_for("api.test", 443, is_secure=is_secure, environ=environ) == found


@pytest.mark.parametrize(
    ("exempt", "host", "is_exempt"),
    [
        ("*", "api.test", True),
        ("api.test", "api.test", True),
        ("test", "api.test", True),
        (".test", "api.test", True),
        ("*.test", "api.test", True),
        ("est", "api.test", False),
        ("other, API.test", "api.test", True),
        ("api.test:443", "api.test", True),
        ("api.test:80", "api.test", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "api.test", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("", "api.test", False),
        (",", "api.test", False),
    ],
)
def test_what_is_exempt_is_reached_without_one(exempt: str, host: str, is_exempt: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        found = proxy_for(host, 443, is_secure=True, environ=BOTH | {name: exempt})
        assert (found is None) == is_exempt


@pytest.mark.parametrize(
    "url", ["socks5://me:secret@box:1", "https://box", "http://", "http://box:secret"]
)
def test_one_that_cannot_be_used_is_an_error_and_no_way_around(url: str) -> None:
    with pytest.raises(ValueError, match="HTTPS_PROXY must be http://host:port") as caught:
        proxy_for("api.test", 443, is_secure=True, environ={"HTTPS_PROXY": url})
    assert "secret" not in str(caught.value)
