"""As much GraphQL as counting clients write: aliases, arguments, variables, fragments; no schema, no directives.

Grammar: https://spec.graphql.org/October2021/#sec-Document-Syntax
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Arguments = Mapping[str, Any]
# A type's fields: plain values, objects, lists of objects, or functions of the field's arguments.
Object = Mapping[str, Any]
Resolver = Callable[[Arguments], Any]

_TOKEN = re.compile(
    r"(?P<skip>[\s,\ufeff]+|\#[^\n\r]*)"
    r'|(?P<block>"""(?:\\"""|[^"]|"(?!""))*""")'
    r'|(?P<string>"(?:[^"\\\n\r]|\\.)*")'
    r"|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[_A-Za-z]\w*)"
    r"|(?P<mark>\.\.\.|[{}()\[\]:=!$])"
)
_CONSTANTS = {"true": True, "false": False, "null": None}
_END = ("end", "end of document")


class InvalidQuery(Exception):
    """The document can't be read or asks for a field that is not there: it is answered with errors alone."""


class NotFound(Exception):
    """A resolver's object does not exist: the field is null, beside an error of type NOT_FOUND."""


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    key: str  # the alias, else the name
    arguments: Arguments = field(default_factory=dict)
    selections: tuple["Selection", ...] = ()


@dataclass(frozen=True, slots=True)
class Spread:
    """``...name``, or an inline fragment with its own selections."""

    name: str = ""
    selections: tuple["Selection", ...] = ()


Selection = Field | Spread


def execute(document: str, variables: Mapping[str, Any], root: Object) -> dict[str, Any]:
    """The answer's body: ``data``, beside ``errors`` where a resolver raised NotFound; ``errors`` alone if invalid."""
    errors: list[dict[str, Any]] = []
    try:
        reader = _Reader(document, variables)
        selections = reader.document()
        data = _select(root, selections, reader.fragments, errors, ())
    except InvalidQuery as error:
        return {"errors": [{"message": str(error)}]}
    return {"data": data, "errors": errors} if errors else {"data": data}


def _select(
    source: Object,
    selections: Sequence[Selection],
    fragments: Mapping[str, tuple[Selection, ...]],
    errors: list[dict[str, Any]],
    path: tuple[str, ...],
) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for item in _flat(selections, fragments, ()):
        here = (*path, item.key)
        if item.name not in source:
            raise InvalidQuery(f"Field '{item.name}' doesn't exist on type '{source.get('__typename', 'Query')}'")
        value = source[item.name]
        try:
            value = value(item.arguments) if callable(value) else value
        except NotFound as error:
            errors.append({"type": "NOT_FOUND", "path": list(here), "message": str(error)})
            value = None
        if isinstance(value, Mapping) and not item.selections:
            raise InvalidQuery(f"Field '{item.name}' must have selections")
        if isinstance(value, Mapping):
            value = _select(value, item.selections, fragments, errors, here)
        elif isinstance(value, list):
            value = [_select(entry, item.selections, fragments, errors, here) for entry in value]
        chosen[item.key] = value
    return chosen


def _flat(
    selections: Sequence[Selection], fragments: Mapping[str, tuple[Selection, ...]], inside: tuple[str, ...]
) -> Iterator[Field]:
    for item in selections:
        if isinstance(item, Field):
            yield item
        elif not item.name:
            yield from _flat(item.selections, fragments, inside)
        elif item.name not in fragments or item.name in inside:
            raise InvalidQuery(f"Fragment {item.name} was used, but not defined")
        else:
            yield from _flat(fragments[item.name], fragments, (*inside, item.name))


class _Reader:
    """A recursive descent over the document's tokens; variables become their values on the way."""

    def __init__(self, document: str, variables: Mapping[str, Any]) -> None:
        self.fragments: dict[str, tuple[Selection, ...]] = {}
        self._variables = dict(variables)
        self._tokens = list(_tokens(document))
        self._at = 0

    def document(self) -> tuple[Selection, ...]:
        """The selections of the document's first query; its fragments are in ``fragments``."""
        queries: list[tuple[Selection, ...]] = []
        while self._peek() != _END:
            if self._peek() == ("mark", "{"):
                queries.append(self._selections())
                continue
            word = self._expect("name")
            if word == "query":
                if self._peek()[0] == "name":
                    self._next()
                self._definitions()
                queries.append(self._selections())
            elif word == "fragment":
                name = self._expect("name")
                self._expect("name", "on")
                self._expect("name")
                self.fragments[name] = self._selections()
            else:
                raise InvalidQuery(f"Expected a query, actual: {word}")
        if not queries:
            raise InvalidQuery("A query attribute must be specified and must be a string.")
        return queries[0]

    def _definitions(self) -> None:
        if not self._take("("):
            return
        while not self._take(")"):
            self._expect("mark", "$")
            name = self._expect("name")
            self._expect("mark", ":")
            while self._take("["):
                pass
            self._expect("name")
            while self._take("]") or self._take("!"):
                pass
            default = self._value() if self._take("=") else None
            self._variables.setdefault(name, default)

    def _selections(self) -> tuple[Selection, ...]:
        self._expect("mark", "{")
        chosen: list[Selection] = []
        while not self._take("}"):
            chosen.append(self._spread() if self._take("...") else self._field())
        return tuple(chosen)

    def _spread(self) -> Spread:
        if self._peek()[0] == "name":
            name = self._expect("name")
            if name != "on":
                return Spread(name)
            self._expect("name")
        return Spread(selections=self._selections())

    def _field(self) -> Field:
        key = name = self._expect("name")
        if self._take(":"):
            name = self._expect("name")
        arguments = self._pairs(")") if self._take("(") else {}
        selections = self._selections() if self._peek() == ("mark", "{") else ()
        return Field(name, key, arguments, selections)

    def _pairs(self, end: str) -> dict[str, Any]:
        pairs = {}
        while not self._take(end):
            name = self._expect("name")
            self._expect("mark", ":")
            pairs[name] = self._value()
        return pairs

    def _value(self) -> Any:
        kind, text = self._next()
        match kind, text:
            case "mark", "$":
                name = self._expect("name")
                if name not in self._variables:
                    raise InvalidQuery(f"Variable ${name} is used but not declared")
                return self._variables[name]
            case "mark", "[":
                items = []
                while not self._take("]"):
                    items.append(self._value())
                return items
            case "mark", "{":
                return self._pairs("}")
            case "block", _:
                return text[3:-3].replace('\\"""', '"""').strip()
            case (("string" | "number"), _):
                try:
                    return json.loads(text)
                except ValueError:
                    raise InvalidQuery(f"Bad {kind}: {text}") from None
            case "name", _:
                return _CONSTANTS.get(text, text)
        raise InvalidQuery(f"Expected a value, actual: {text}")

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else _END

    def _next(self) -> tuple[str, str]:
        token = self._peek()
        self._at += 1
        return token

    def _take(self, mark: str) -> bool:
        taken = self._peek() == ("mark", mark)
        self._at += taken
        return taken

    def _expect(self, kind: str, text: str | None = None) -> str:
        actual = self._next()
        if actual[0] != kind or text not in (None, actual[1]):
            raise InvalidQuery(f"Expected {text or kind}, actual: {actual[1]}")
        return actual[1]


def _tokens(document: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(document):
        match = _TOKEN.match(document, at)
        if match is None or match.lastgroup is None:
            raise InvalidQuery(f"Unexpected character: {document[at]!r}")
        if match.lastgroup != "skip":
            yield match.lastgroup, match[0]
        at = match.end()
