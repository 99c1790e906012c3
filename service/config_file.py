"""config.yaml: its values as the text that was written, and the line and column of each.

YAML's implicit types are left out on purpose: ``version: 1.10`` is no number, ``on`` no boolean, ``012`` no octal and
``12:30`` no sexagesimal number. A scalar stays the text that it is, only null is null; the settings' own types read it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from service import config_problems
from service.config_problems import ConfigErrors, Origin, Place, Problem

_STANDARD = "tag:yaml.org,2002:"
_SCALARS = {_STANDARD + name for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")}
_NULL = _STANDARD + "null"
_MERGE = _STANDARD + "merge"
_DEEPEST = 50
# libyaml is ten times as fast; both count lines and columns alike.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Document:
    """The mapping that a file holds. ``problems``: what is wrong with the YAML though it can be read."""

    origin = Origin.FILE

    def __init__(self, name: str, text: str) -> None:
        """Raises ConfigErrors when ``text`` is no YAML, or no mapping."""
        self.name = name
        self.problems: list[Problem] = []
        self.values: dict[str, Any] = {}
        try:
            self._check_depth(text)
            self._root: yaml.Node | None = yaml.compose(text, Loader=_Loader)
            if self._root is None:
                return
            values = self._value(self._root, (), ())
        except yaml.MarkedYAMLError as error:
            raise ConfigErrors([self._syntax(error, text)]) from None
        except yaml.reader.ReaderError as error:
            place = self._at(text[: error.position])
            raise ConfigErrors([Problem(place, "", "holds a control character that YAML does not allow")]) from None
        if values is not None and not isinstance(values, dict):
            raise ConfigErrors([Problem(self._of(self._root), "", "must be a mapping of keys to values")])
        self.values = values or {}

    def place(self, path: config_problems.Path) -> Place | None:
        """Where the key at ``path`` is written (an element of a list: the element), None where it is not."""
        node, found = self._root, self._root
        for part in path:
            if isinstance(node, yaml.MappingNode):
                pair = next(((key, value) for key, value in _pairs(node) if key.value == part), None)
                if pair is None:
                    return None
                found, node = pair
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                found = node = node.value[part]
            else:
                return None
        return self._of(found) if found else Place(Origin.FILE, 1, 1, self.name)

    def _check_depth(self, text: str) -> None:
        """libyaml builds its nodes by recursion in C: a text of 100,000 brackets would end the process."""
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise ConfigErrors([Problem(self._of(event), "", "is nested too deeply")])

    def _value(self, node: yaml.Node, path: config_problems.Path, above: tuple[yaml.Node, ...]) -> Any:
        if any(node is other for other in above):
            return self._problem(node, path, "an alias stands inside of what it stands for")
        above = (*above, node)
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_STANDARD}map":
            self._check_keys(node, path)
            return {key.value: self._value(value, (*path, key.value), above) for key, value in _pairs(node)}
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_STANDARD}seq":
            return [self._value(part, (*path, index), above) for index, part in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return None if node.tag == _NULL else node.value
        return self._problem(node, path, "a YAML tag (!) is not supported here; quote a value that begins with !")

    def _check_keys(self, mapping: yaml.MappingNode, path: config_problems.Path) -> None:
        first: dict[str, yaml.Node] = {}
        for key, value in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                self._problem(key, path, "a key must be plain text")
            elif key.tag == _MERGE:
                if not all(isinstance(node, yaml.MappingNode) for node in _merged(value)):
                    self._problem(key, path, "<< takes a mapping or a list of mappings")
            elif key.value in first:
                line = first[key.value].start_mark.line + 1
                self._problem(key, (*path, key.value), f"is given twice, first in line {line}")
            else:
                first[key.value] = key

    def _problem(self, node: yaml.Node, path: config_problems.Path, message: str) -> None:
        self.problems.append(Problem(self._of(node), config_problems.dotted(path), message))

    def _of(self, node: yaml.Node | yaml.Event) -> Place:
        return self._marked(node.start_mark)

    def _marked(self, mark: Any) -> Place:
        # Without a mark the file as a whole is meant.
        return (
            Place(Origin.FILE, mark.line + 1, mark.column + 1, self.name)
            if mark
            else Place(Origin.FILE, name=self.name)
        )

    def _at(self, before: str) -> Place:
        return Place(Origin.FILE, before.count("\n") + 1, len(before) - before.rfind("\n"), self.name)

    def _syntax(self, error: yaml.MarkedYAMLError, text: str) -> Problem:
        mark, message = _explained(error, text.splitlines())
        return Problem(self._marked(mark), "", message)


def read(path: Path, name: str) -> Document:
    """The file at ``path``, called ``name`` in messages. Raises ConfigErrors; FileNotFoundError where there is none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ConfigErrors([Problem(Place(Origin.FILE, name=name), "", f"can't be read: {reason}")]) from None
    try:
        return Document(name, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8", "replace")
        place = Place(Origin.FILE, before.count("\n") + 1, len(before) - before.rfind("\n"), name)
        raise ConfigErrors([Problem(place, "", f"is not UTF-8 (byte 0x{error.object[error.start]:02x})")]) from None


def _pairs(mapping: yaml.MappingNode) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    """The keys and values of a mapping, those that ``<<`` brings in last, each key once."""
    seen: set[str] = set()
    for key, value in _with_merged(mapping, ()):
        if key.value not in seen:
            seen.add(key.value)
            yield key, value


def _with_merged(
    mapping: yaml.MappingNode, above: tuple[yaml.Node, ...]
) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    keys = [(key, value) for key, value in mapping.value if isinstance(key, yaml.ScalarNode)]
    yield from ((key, value) for key, value in keys if key.tag != _MERGE)
    for key, value in keys:
        for other in _merged(value) if key.tag == _MERGE else ():
            if isinstance(other, yaml.MappingNode) and not any(other is node for node in (*above, mapping)):
                yield from _with_merged(other, (*above, mapping))


def _merged(node: yaml.Node) -> list[yaml.Node]:
    return node.value if isinstance(node, yaml.SequenceNode) else [node]


def _explained(error: yaml.MarkedYAMLError, lines: list[str]) -> tuple[yaml.Mark | None, str]:
    """Where and why the text is no YAML; only in the parser's own words, since its excerpt could show a secret."""
    context, problem = str(error.context or ""), str(error.problem or "")
    mark = error.problem_mark or error.context_mark
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    before, character = (line[: mark.column].rstrip(), line[mark.column : mark.column + 1]) if mark else ("", "")
    if "alias" in context or "alias" in problem:
        return error.context_mark or mark, 'a value that begins with * must be quoted: schedule: "*/10 * * * *"'
    if "quoted scalar" in context and "end of" in problem:
        return error.context_mark or mark, "a quote is opened here but not closed"
    if "\t" in line[: len(line) - len(line.lstrip())] or character == "\t":
        return mark, "indent with blanks, not with tabs"
    if character and character in "@`%" and (not before or before[-1] in ":-[,"):
        return mark, f"a value that begins with {character} must be quoted" + ': "@hourly"' * (character == "@")
    return mark, f"is no YAML here: {problem}" + (f" ({context})" if context else "")
