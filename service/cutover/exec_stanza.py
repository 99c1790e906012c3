"""What becomes of a CronJob's command that is no collector of ours: a stanza of type exec."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from service.config.masking import is_secret_name

# The daemon gives them to every program as it is configured itself.
_UNIFIED = ("DD_ENV", "DD_SERVICE", "DD_VERSION", "DD_SITE")
_COMMENT = "runs no collector of ours: what it prints on stdout becomes samples, see docs/collectors.md"


def to_exec_stanza(
    command: Sequence[str], environment: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], list[str]]:
    """The keys of the stanza beside those of the schedule, and what should be known of it.

    ``environment``: ``{"value": text}`` or ``{"valueFrom": ...}`` by variable. Values that are plain are the program's
    alone; what comes from elsewhere, and what seems to be secret, is the Deployment's, from where it is passed on.
    """
    own = {name: entry for name, entry in environment.items() if name not in _UNIFIED}
    plain = {name: entry["value"] for name, entry in own.items() if "value" in entry and not is_secret_name(name)}
    passed = [name for name in own if name not in plain]
    values = {"type": "exec", "command": list(command), "environment": plain, "pass_environment": passed}
    notes = [_COMMENT]
    if any(re.search(r"\$\(\w+\)", word) for word in command):
        notes.append("Kubernetes puts values in the place of $(NAME); here nothing does")
    return {key: value for key, value in values.items() if value}, notes
