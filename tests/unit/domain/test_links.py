"""Which addresses become links."""

import pytest

from service.domain.links import may_link, web_hosts


@pytest.mark.parametrize(
    ("api", "hosts"),
    [
        ("https://api.github.com", {"github.com"}),
        ("https://ghe.example/api/v3", {"ghe.example"}),
        ("https://ghe.example:8443/api/v3", {"ghe.example:8443"}),
        ("https://api.acme.ghe.com", {"acme.ghe.com"}),
        ("http://127.0.0.1:9000", {"127.0.0.1:9000", "github.com"}),
        ("http://[::1]:9000", {"[::1]:9000", "github.com"}),
        ("https://user:secret@ghe.example/api/v3", {"ghe.example"}),
    ],
)
def test_the_web_host_follows_from_the_api_address(api: str, hosts: set[str]) -> None:
    assert web_hosts(api) == hosts


@pytest.mark.parametrize(
    "url", ["https://github.com/o/r/actions/runs/1", "http://github.com/o/r", "https://GitHub.com/o/r?a=b#c"]
)
def test_a_page_of_github_becomes_a_link(url: str) -> None:
    assert may_link(url, frozenset({"github.com"}))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "javascript:alert(1)//github.com",
        "data:text/html,x",
        "//github.com/o",
        "/o/r",
        "ftp://github.com/",
        "https://github.com.evil.example/",
        "https://github.com@evil.example/",
        "https://user@github.com/",
        "https://github.com:444/",
        "https://evil.example/github.com",
        "https://evil.example\\@github.com/",
        "https://github.com/\nx",
        "https://github.com/ x",
        "https://github.com／evil.example",
        "https://[github.com/",
    ],
)
def test_nothing_else_does(url: str) -> None:
    assert not may_link(url, frozenset({"github.com"}))
