"""Which addresses a page may make links of: those of the configured GitHub's web pages, not what a source made up."""

from ipaddress import ip_address
from urllib.parse import urlsplit

_PUBLIC = "github.com"


def web_hosts(api_url: str) -> frozenset[str]:
    """The hosts (with a port where it is not the scheme's) of the pages that belong to a GitHub API address.

    https://docs.github.com/enterprise-server/rest/using-the-rest-api/getting-started-with-the-rest-api
    (``HOST/api/v3``) and https://docs.github.com/enterprise-cloud@latest/admin/data-residency (``api.NAME.ghe.com``).
    What answers on loopback stands in for github.com, whose addresses it passes on.
    """
    parts = urlsplit(api_url)
    name = (parts.hostname or "").lower()
    if name == "api.github.com":
        return frozenset({_PUBLIC})
    if name.startswith("api.") and name.endswith(".ghe.com"):
        return frozenset({name.removeprefix("api.")})
    own = parts.netloc.rpartition("@")[2].lower()
    return frozenset({own, _PUBLIC}) if _is_loopback(name) else frozenset({own})


def may_link(url: str, hosts: frozenset[str]) -> bool:
    """Whether ``url`` is an http(s) address of one of ``hosts``, with nothing in it that a browser reads otherwise."""
    if not url.isascii() or not url.isprintable() or any(sign in url for sign in ' \\"<>'):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() in hosts


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
