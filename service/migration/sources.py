"""What a SOURCE is: a helmfile, manifests, a crontab, or a crontab line itself."""

import sys
from pathlib import Path

from service.domain.errors import ConfigError
from service.migration import crontab, helmfile, manifests, texts
from service.migration.workload import Workload

_LONGEST = 20 * 2**20  # bytes
_NAMED = 100  # objects of one kind that are listed by name


def read(source: str) -> tuple[list[Workload], list[str]]:
    """The workloads of one SOURCE ("-" is standard input), and what else it holds. Raises ConfigError."""
    if source == "-":
        return _read(sys.stdin.read(_LONGEST), "standard input", Path())
    path = Path(source)
    try:
        is_file = path.is_file()
        exists = is_file or path.exists()
    except (OSError, ValueError):  # a line can be too long for a file's name
        is_file = exists = False
    if not is_file:
        if crontab.is_line(source):
            return crontab.workloads(source, "command line"), []
        raise ConfigError(
            f"{source}: is a folder; name its helmfile.yaml or its manifests"
            if exists
            else f"{source}: there is no such file"
        )
    try:
        if path.stat().st_size > _LONGEST:
            raise ConfigError(f"{source}: is larger than {_LONGEST // 2**20} MiB")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{source}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: is not UTF-8") from error
    return _read(text, source, path.parent)


def _read(text: str, name: str, folder: Path) -> tuple[list[Workload], list[str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if any(crontab.is_line(line) for line in lines) and not any(line.rstrip().endswith(":") for line in lines):
        return crontab.workloads(text, name), []
    documents, unsure = texts.read(text, name)
    told = [f"{name}: {each}" for each in unsure]
    if helmfile.is_helmfile(documents):
        releases, more = helmfile.workloads(documents, name, folder)
        return releases, told + more
    found: list[Workload] = []
    others: dict[str, list[str]] = {}
    for item in manifests.objects(documents):
        if item.get("kind") == "CronJob":
            found.append(manifests.workload(item, name))
        else:
            metadata = item.get("metadata")
            called = metadata.get("name") if isinstance(metadata, dict) else None
            others.setdefault(str(item.get("kind") or "document"), []).append(str(called or "without a name"))
    if not found and not others:
        raise ConfigError(f"{name}: holds no releases, no CronJob and no crontab line")
    for kind, names in others.items():
        more_of_it = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        told.append(f"{name}: left alone, no CronJob: {kind} {', '.join(names[:_NAMED])}{more_of_it}")
    return found, told
