"""config.yaml: its values as the text that was written, and the place of each.

YAML's implicit types are left out on purpose: ``version: 1.10`` is no number, ``on`` no boolean, ``012`` no octal and
``12:30`` no sexagesimal number. A scalar stays the text that it is, only null is null; the settings' own types read it.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from service.domain.errors import ConfigError

_TAG = "tag:yaml.org,2002:"
_HINT = 'quote what begins with * @ ! & or % (schedule: "*/10 * * * *"), close quotes and brackets, indent with blanks'

Keys = tuple[str | int, ...]


class Place(NamedTuple):
    """Where a value was given, in the order of reports. ``rank``: file, environment, defaults."""

    rank: int
    line: int
    column: int
    title: str


class Document(NamedTuple):
    """``places``: of each key and each item of a list, by the keys that lead to it."""

    values: dict[str, Any]
    places: dict[Keys, Place]


def read_document(path: Path) -> Document:
    """What the file at ``path`` holds. Raises ConfigError, FileNotFoundError where there is none."""
    try:
        return _parse(str(path), path.expanduser().read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8 (byte 0x{error.object[error.start]:02x})") from None
    except (OSError, RuntimeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise ConfigError(f"{path}: can't be read: {reason}") from None


def _parse(title: str, text: str) -> Document:
    """Raises ConfigError when ``text`` is no YAML or no mapping. ``title`` is what messages call it."""
    places: dict[Keys, Place] = {}
    loader = _TextLoader(text)
    try:
        if node := loader.get_single_node():
            values = loader.construct_document(node)
            _locate(node, (), places, title)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(title + _explain(error)) from None
    except (yaml.reader.ReaderError, RecursionError) as error:
        what = "is nested too deeply" if isinstance(error, RecursionError) else "holds a control character"
        raise ConfigError(f"{title}: {what}") from None
    finally:
        loader.dispose()
    if node and not isinstance(values, dict | None):
        raise ConfigError(f"{title}:1:1: must be a mapping of keys to values")
    return Document((node and values) or {}, places)


# libyaml is ten times as fast; both count lines and columns alike.
class _TextLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class has it
        first: [(tag, pattern) for tag, pattern in resolvers if tag in (f"{_TAG}null", f"{_TAG}merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_values(self, node: yaml.MappingNode) -> dict[str, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line
            if key.tag != f"{_TAG}merge" and lines.setdefault(str(key.value), line) < line:
                problem = f"{key.value} is given twice, first in line {lines[key.value] + 1}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        values: dict[str, Any] = self.construct_mapping(node, deep=True)
        return values


_TextLoader.add_constructor(f"{_TAG}map", _TextLoader.construct_values)
_TextLoader.add_constructor(f"{_TAG}seq", lambda loader, node: loader.construct_sequence(node, deep=True))


def _locate(node: yaml.Node, path: Keys, places: dict[Keys, Place], title: str) -> None:
    """Adds the places of what is in ``node``. What << brings in stands first, and what is written here replaces it."""
    pairs: list[tuple[str | int, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        pairs = [(key.value, key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        pairs = [(number, item, item) for number, item in enumerate(node.value)]
    for key, written, value in pairs:
        line, column = written.start_mark.line + 1, written.start_mark.column + 1
        places[*path, key] = Place(0, line, column, f"{title}:{line}:{column}")
        _locate(value, (*path, key), places, title)


def _explain(error: yaml.MarkedYAMLError) -> str:
    """Where and why the text is no YAML; without the names that the parser tells, which could be a secret."""
    # Of what is being scanned its beginning counts, else what is in the way.
    is_scanning = str(error.context or "").startswith("while scanning a")
    mark = (error.context_mark if is_scanning else None) or error.problem_mark or error.context_mark
    what = re.sub("['\"].*['\"]", "...", str(error.problem))
    if "given twice" not in what:
        what = f"is no YAML here: {what}; {_HINT}"
    return f":{mark.line + 1}:{mark.column + 1}: {what}" if mark else f": {what}"
