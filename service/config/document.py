"""config.yaml: its values as the text that was written, and the place of each.

YAML's implicit types are left out on purpose: ``version: 1.10`` is no number, ``on`` no boolean, ``012`` no octal and
``12:30`` no sexagesimal number. A scalar stays the text that it is, only null is null; the settings' own types read it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from service.domain.errors import ConfigError

# In the order of reports: file, environment, command line, defaults; line and column from 1; in words.
Place = tuple[int, int, int, str]

_TAG = "tag:yaml.org,2002:"


class Values(dict[str, Any]):
    """A mapping that knows where each of its keys was written."""

    def __init__(self, values: Mapping[str, Any] | None = None, places: Mapping[str, Place] | None = None) -> None:
        super().__init__(values or {})
        self.places = dict(places or {})

    def merge(self, values: Mapping[str, Any], place: Place, *, if_absent: bool = False) -> None:
        """Mappings are merged with what is there, anything else replaces it; None changes nothing.

        Raises ValueError where a mapping meets what is none.
        """
        for key, value in values.items():
            known = self.get(key)
            if isinstance(value, Mapping):
                if not isinstance(known, Values | None):
                    raise ValueError(f"{key} is set as a whole ({self.places[key][-1]})")
                # A copy: with an alias the file may have it in two places.
                self[key] = inner = Values(known, known and known.places)
                self.places.setdefault(key, place)
                inner.merge(value, place, if_absent=if_absent)
            elif value is not None and not (if_absent and known is not None):
                self[key], self.places[key] = value, place


class Items(list[Any]):
    """A list that knows where each of its items was written."""

    places: Sequence[Place] = ()


def read_document(path: Path) -> Values:
    """What the file at ``path`` holds. Raises ConfigError, FileNotFoundError where there is none."""
    try:
        return parse_document(str(path), path.expanduser().read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8 (byte 0x{error.object[error.start]:02x})") from None
    except (OSError, RuntimeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise ConfigError(f"{path}: can't be read: {reason}") from None


def parse_document(title: str, text: str) -> Values:
    """What ``text`` holds; ``title`` is what messages call it. Raises ConfigError when it is no YAML or no mapping."""
    loader = _TextLoader(text)
    loader.title = title
    try:
        values = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        raise ConfigError(title + _explain(error, text.splitlines())) from None
    except (yaml.reader.ReaderError, RecursionError) as error:
        what = "is nested too deeply" if isinstance(error, RecursionError) else "holds a control character"
        raise ConfigError(f"{title}: {what}") from None
    finally:
        loader.dispose()
    if not isinstance(values, Values | None):
        raise ConfigError(f"{title}:1:1: must be a mapping of keys to values")
    return values or Values()


# libyaml is ten times as fast; both count lines and columns alike.
class _TextLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    title = ""
    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class has it
        first: [(tag, pattern) for tag, pattern in resolvers if tag in (f"{_TAG}null", f"{_TAG}merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_values(self, node: yaml.MappingNode) -> Values:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line
            if key.tag != f"{_TAG}merge" and lines.setdefault(str(key.value), line) < line:
                problem = f"{key.value} is given twice, first in line {lines[key.value] + 1}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        values = self.construct_mapping(node, deep=True)
        # What << brings in stands first, and what is written here replaces it.
        return Values(values, {self.construct_object(key): self._place(key) for key, _ in node.value})

    def construct_items(self, node: yaml.SequenceNode) -> Items:
        items = Items(self.construct_sequence(node, deep=True))
        items.places = [self._place(each) for each in node.value]
        return items

    def _place(self, node: yaml.Node) -> Place:
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        return 0, line, column, f"{self.title}:{line}:{column}"


_TextLoader.add_constructor(f"{_TAG}map", _TextLoader.construct_values)
_TextLoader.add_constructor(f"{_TAG}seq", _TextLoader.construct_items)


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
