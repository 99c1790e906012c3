"""config.yaml: its values as the text that was written, and the line and column of each.

YAML's implicit types are left out on purpose: ``version: 1.10`` is no number, ``on`` no boolean, ``012`` no octal and
``12:30`` no sexagesimal number. A scalar stays the text that it is, only null is null; the settings' own types read it.
"""

from pathlib import Path
from typing import Any

import yaml

from service.domain.errors import ConfigError

_TAG = "tag:yaml.org,2002:"


# libyaml is ten times as fast; both count lines and columns alike.
class _TextLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class has it
        first: [(tag, pattern) for tag, pattern in resolvers if tag in (f"{_TAG}null", f"{_TAG}merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line
            if key.tag != f"{_TAG}merge" and lines.setdefault(str(key.value), line) < line:
                problem = f"{key.value} is given twice, first in line {lines[key.value] + 1}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep=deep)


class Document:
    """The mapping that a file holds: ``values``. ``title``: what messages call the file."""

    def __init__(self, title: str, text: str) -> None:
        """Raises ConfigError when ``text`` is no YAML, or no mapping."""
        self.title = title
        loader = _TextLoader(text)
        loader.deep_construct = True  # so that an alias inside of what it stands for is an error, not a cycle
        try:
            self._root = loader.get_single_node()
            values = loader.construct_document(self._root) if self._root else {}
        except yaml.MarkedYAMLError as error:
            raise ConfigError(title + _explain(error, text.splitlines())) from None
        except (yaml.reader.ReaderError, RecursionError) as error:
            what = "is nested too deeply" if isinstance(error, RecursionError) else "holds a control character"
            raise ConfigError(f"{title}: {what}") from None
        finally:
            loader.dispose()
        if not isinstance(values, dict | None):
            raise ConfigError(f"{title}:1:1: must be a mapping of keys to values")
        self.values: dict[str, Any] = values or {}

    @classmethod
    def read(cls, path: Path) -> "Document":
        """The file at ``path``. Raises ConfigError, FileNotFoundError where there is none."""
        try:
            data = path.expanduser().read_bytes()
            return cls(str(path), data.decode("utf-8-sig"))
        except FileNotFoundError:
            raise
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise ConfigError(f"{path}:{line}: is not UTF-8 (byte 0x{error.object[error.start]:02x})") from None
        except (OSError, RuntimeError) as error:
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            raise ConfigError(f"{path}: can't be read: {reason}") from None

    def find(self, path: tuple[str | int, ...]) -> tuple[int, int] | None:
        """Line and column of the key or list item at ``path``, from 1; None where the file has none."""
        node = found = self._root
        for part in path:
            if isinstance(node, yaml.MappingNode):
                # What << brings in stands first, and what is written here replaces it.
                pairs = [pair for pair in node.value if pair[0].value == part]
                found, node = pairs[-1] if pairs else (None, None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                found = node = node.value[part]
            else:
                return None
        return (found.start_mark.line + 1, found.start_mark.column + 1) if found else None


def _explain(error: yaml.MarkedYAMLError, lines: list[str]) -> str:
    """Where and why the text is no YAML; without the names that the parser tells, which could be a secret."""
    context, problem = str(error.context or ""), str(error.problem or "")
    mark = error.problem_mark or error.context_mark
    character = lines[mark.line][mark.column :][:1] if mark and mark.line < len(lines) else ""
    what = f"is no YAML here: {problem}" + (f" ({context})" if context else "")
    if "given twice" in problem:
        what = problem
    elif "tab character" in problem or character == "\t":
        what = "indent with blanks, not with tabs"
    elif "start any token" in problem:
        what = f"a value that begins with {character} must be quoted"
    elif "constructor for the tag" in problem:
        what = "a YAML tag (!) is not supported here; quote a value that begins with !"
    elif "alias" in context or "alias" in problem:
        mark, what = error.context_mark or mark, 'a value that begins with * must be quoted: schedule: "*/10 * * * *"'
    elif "quoted scalar" in context and "end of" in problem:
        mark, what = error.context_mark or mark, "a quote is opened here but not closed"
    return f":{mark.line + 1}:{mark.column + 1}: {what}" if mark else f": {what}"
