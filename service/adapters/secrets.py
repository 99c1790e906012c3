"""Secrets: from the settings (environment, file), else from AWS Secrets Manager. Their values leave in no text."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import structlog

from service import logs
from service.domain.errors import ConfigError, Unavailable

log = structlog.get_logger(__name__)

# Any of these says that the process was given an identity in AWS (static keys, IRSA, ECS, a profile, a stand-in).
_AWS_SIGNS = (
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_ENDPOINT_URL",
)


def aws_is_configured(environ: Mapping[str, str]) -> bool:
    """Whether a look-up in AWS can work at all: without an identity it would only wait for the metadata service."""
    if any(environ.get(name) for name in _AWS_SIGNS):
        return True
    home = Path(environ.get("HOME", "/nonexistent"))
    return any((home / ".aws" / name).exists() for name in ("credentials", "config"))


class SecretsManager:
    """Reads secrets from AWS Secrets Manager: 2 s to connect, one try, region and role from the usual AWS chain."""

    async def read(self, name: str) -> str:
        """The secret's string. Raises Unavailable (AWS out of reach) or ConfigError (no such secret, no access)."""
        # aioboto3 takes most of a second to import: only who needs it pays, in a thread, so probes are answered.
        aioboto3, config, errors = await anyio.to_thread.run_sync(_import_aws)
        try:
            async with aioboto3.Session().client("secretsmanager", config=config) as client:
                answer = await client.get_secret_value(SecretId=name)
        except errors.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in ("ResourceNotFoundException", "AccessDeniedException", "InvalidRequestException"):
                raise ConfigError(f"AWS Secrets Manager, secret {name}: {code}") from error
            raise Unavailable(f"AWS Secrets Manager, secret {name}: {code or 'no answer'}") from error
        except errors.NoRegionError as error:
            raise ConfigError(f"AWS Secrets Manager, secret {name}: no region; set AWS_REGION") from error
        except errors.NoCredentialsError as error:
            raise ConfigError(f"AWS Secrets Manager, secret {name}: no credentials") from error
        except (errors.BotoCoreError, OSError) as error:
            raise Unavailable(f"AWS Secrets Manager, secret {name}: {type(error).__name__}") from error
        return _plain(answer.get("SecretString") or "", name)


class Secret:
    """One secret that an adapter needs, looked up when it is first asked for and again when it was refused.

    ``source`` names where the value came from ("settings", "AWS Secrets Manager", "nowhere"), never the value.
    ``trouble`` says why the last look-up failed, None when it did not.
    """

    def __init__(
        self,
        title: str,
        remedy: str,
        value: str | None = None,
        *,
        manager: SecretsManager | None = None,
        name: str = "",
    ) -> None:
        self.title = title
        self.remedy = remedy
        self.source = "settings" if value else "nowhere"
        self.trouble: str | None = None
        self._value = value
        self._manager = manager if not value else None
        self._name = name
        self._lock = anyio.Lock()

    async def get(self) -> str | None:
        """The value, None while there is none."""
        if self._value is None and self._manager:
            await self.ask_again()
        return self._value

    async def ask_again(self) -> bool:
        """Looks the value up anew, True when it changed. A value from the settings can't change."""
        if self._manager is None:
            return False
        async with self._lock:
            before = self._value
            try:
                self._value = await self._manager.read(self._name)
            except (Unavailable, ConfigError) as error:
                # The value that is known goes on working while AWS is away.
                if self.trouble != str(error):
                    log.warning("secret could not be looked up", secret=self.title, reason=str(error))
                self.trouble = str(error)
                return False
            logs.mask([self._value])
            self.source, self.trouble = "AWS Secrets Manager", None
            return self._value != before

    @property
    def missing(self) -> str:
        """What to tell the operator when there is no value."""
        return f"no {self.title}: {self.remedy}" + (f" ({self.trouble})" if self.trouble else "")


def _import_aws() -> tuple[Any, Any, Any]:
    import aioboto3
    from aiobotocore.config import AioConfig
    from botocore import exceptions

    return (
        aioboto3,
        AioConfig(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1}),
        exceptions,
    )


def _plain(text: str, name: str) -> str:
    """A secret is a plain string, or a JSON object with a single value (as the console writes it)."""
    if not text.strip():
        raise ConfigError(f"AWS Secrets Manager, secret {name}: is empty")
    if text.lstrip().startswith("{"):
        try:
            values = [value for value in json.loads(text).values() if isinstance(value, str)]
        except ValueError:
            return text.strip()
        if len(values) != 1:
            raise ConfigError(f"AWS Secrets Manager, secret {name}: JSON with {len(values)} values, one is needed")
        return values[0].strip()
    return text.strip()
