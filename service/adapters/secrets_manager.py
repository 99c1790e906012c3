"""AWS Secrets Manager: region and role from the usual AWS chain (IRSA included), imported only when it is asked."""

import json
from collections.abc import Mapping
from pathlib import Path

import anyio
import anyio.to_thread

from service.domain.errors import ConfigError, Unavailable

# Any of these says that the process was given an identity in AWS (static keys, IRSA, ECS, a profile, a stand-in).
_AWS_SIGNS = (
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_SECRETS_MANAGER",
)
_REFUSALS = (
    "ResourceNotFoundException",
    "AccessDeniedException",
    "InvalidRequestException",
    "InvalidParameterException",
)
_WHOLE = 20.0  # seconds for the client, its credentials and the answer


def aws_is_configured(environ: Mapping[str, str]) -> bool:
    """Whether a look-up in AWS can work at all: without an identity it would only wait for the metadata service."""
    if any(environ.get(name) for name in _AWS_SIGNS):
        return True
    home = Path(environ.get("HOME", "/nonexistent"))
    return any((home / ".aws" / name).exists() for name in ("credentials", "config"))


class SecretsManager:
    """Reads secrets: 2 s to connect, one try."""

    async def read(self, name: str) -> str:
        """The value of the secret NAME, or with NAME#KEY of one key of its JSON.

        Raises Unavailable (AWS out of reach) or ConfigError (no such secret, no access, no such key).
        """
        secret, separator, key = name.partition("#")
        text: str | None = None
        with anyio.move_on_after(_WHOLE):
            # Importing the client and loading its models takes most of a second: in a thread, so probes are answered.
            text = await anyio.to_thread.run_sync(anyio.run, _ask, secret, abandon_on_cancel=True)
        if text is None:
            raise Unavailable(f"AWS Secrets Manager, secret {secret}: no answer within {_WHOLE:.0f} s")
        return _picked(text, secret, key if separator else None)


async def _ask(name: str) -> str:
    import aioboto3
    from aiobotocore.config import AioConfig
    from botocore import exceptions

    config = AioConfig(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1})
    try:
        async with aioboto3.Session().client("secretsmanager", config=config) as client:
            answer = await client.get_secret_value(SecretId=name)
    except exceptions.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in _REFUSALS:
            raise ConfigError(f"AWS Secrets Manager, secret {name}: {code}") from error
        raise Unavailable(f"AWS Secrets Manager, secret {name}: {code or 'no answer'}") from error
    except exceptions.NoRegionError as error:
        raise ConfigError(f"AWS Secrets Manager, secret {name}: no region; set AWS_REGION") from error
    except (exceptions.NoCredentialsError, exceptions.ProfileNotFound) as error:
        raise ConfigError(f"AWS Secrets Manager, secret {name}: no credentials") from error
    except (exceptions.BotoCoreError, OSError) as error:
        raise Unavailable(f"AWS Secrets Manager, secret {name}: {type(error).__name__}") from error
    found = answer.get("SecretString") or answer.get("SecretBinary") or b""
    return found if isinstance(found, str) else bytes(found).decode(errors="replace")


def _picked(text: str, name: str, key: str | None) -> str:
    """A secret is a plain string, or a JSON object: its ``key``, without one its only value (as consoles write)."""
    place = f"AWS Secrets Manager, secret {name}"
    try:
        values = json.loads(text) if text.lstrip().startswith("{") else None
    except ValueError:
        values = None
    if values is None:
        if key is not None:
            raise ConfigError(f"{place}: is no JSON object, so it has no key {key}")
        if not text.strip():
            raise ConfigError(f"{place}: is empty")
        return text.strip()
    if key is None:
        texts = [value for value in values.values() if isinstance(value, str)]
        if len(texts) != 1:
            raise ConfigError(f"{place}: JSON with {len(texts)} values; name one as {name}#KEY (aws.names)")
        value = texts[0]
    else:
        value = values.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{place}: its JSON has no text under the key {key}")
    return value.strip()
