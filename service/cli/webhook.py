"""``webhook test``: the way that GitHub's deliveries take, tried from here."""

import hashlib
import hmac
from typing import TYPE_CHECKING

import click

from service.cli.options import Exit, Options, command, exit_with, message

if TYPE_CHECKING:
    import httpx

_BODY = b'{"zen": "infra-health webhook test"}'


@click.group(help="docs/webhooks.md says how to set it up.\n\n\b\nExample: infra-health webhook test")
def webhook() -> None: ...


@command(group=webhook, example="infra-health webhook test")
def test(options: Options) -> None:
    """Posts a signed ping to http.public_url, as GitHub does, and says what is wrong.

    Whether GitHub itself gets there, only GitHub can tell: Settings, Webhooks, Recent Deliveries.
    """
    import httpx

    from service.config.clients import sync_http_client
    from service.config.secrets import credentials
    from service.domain.errors import ConfigError, Unavailable

    settings, environ = options.open("warning").settings, options.environ()
    if settings.http.public_url is None:
        raise ConfigError("http.public_url is not set: it is the address that GitHub delivers to")
    known = credentials(settings, environ).webhook_secret
    keys = [key.strip() for key in (options.run(known.get) or "").split(",") if key.strip()]
    if not keys:
        raise ConfigError(known.missing)
    url = f"{settings.http.public_url.rstrip('/')}/api/v1/webhooks/github"
    try:
        with sync_http_client(environ, base_url=url) as http:
            answers = [http.post(url, content=_BODY, headers=_sign(key)) for key in keys]
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(f"no connection to {url}: {error}") from error
    troubles = [trouble for answer in answers if (trouble := _find_trouble(answer))]
    done = "" if troubles else f"{url}: the ping was taken" + (", with either secret" if len(keys) > 1 else "")
    found = {"url": url, "statuses": [each.status_code for each in answers], "troubles": troubles}
    options.show(found, lambda: click.echo(done, nl=bool(done)))
    for text in troubles:
        message(f"{url}: {text}", "red")
    exit_with(Exit.FAILED if troubles else Exit.DONE)


def _sign(key: str) -> dict[str, str]:
    signature = hmac.new(key.encode(), _BODY, hashlib.sha256).hexdigest()
    signed = {"X-GitHub-Event": "ping", "X-Hub-Signature-256": f"sha256={signature}"}
    return {"Content-Type": "application/json", **signed}


def _find_trouble(answer: "httpx.Response") -> str:
    """What is wrong, with the remedy; empty where all is well."""
    is_ours = answer.headers.get("content-type", "").startswith("application/problem+json")
    match answer.status_code:
        case 200 if not answer.content:
            return ""
        case 401 if is_ours:
            return "401, the daemon there has another secret; is GITHUB_WEBHOOK_SECRET the same here and there?"
        case 404 if is_ours:
            return "404, the daemon there has no secret; set GITHUB_WEBHOOK_SECRET for it, too"
        case 301 | 302 | 307 | 308:
            return f"{answer.status_code}, redirected to {answer.headers.get('location')}; GitHub follows no redirect"
        case status:
            what = "the daemon" if is_ours else "something before the daemon (an Ingress, a login, a proxy)"
            return f"{status} by {what}; let POST to this one path through (docs/webhooks.md)"
