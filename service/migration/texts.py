"""YAML as the sources hold it: Go templates between, several documents, scalars kept as they are written."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from service.domain.errors import ConfigError

# What stands for {{ ... }} while YAML is read: it is plain text wherever it stands, and no source writes it.
_MARK = "GoTemplate{}Mark"
_MARKED = re.compile(r"GoTemplate(\d+)Mark")
# {{`...`}} is what helmfile renders later, for each release, such as {{`{{ .Release.Name }}`}}.
_ACTION = re.compile(r"\{\{-?\s*(`[^`]*`|.*?)\s*-?\}\}", re.DOTALL)
# Actions that put nothing into the text by themselves.
_CONTROL = re.compile(r"(if|else|end|range|with|define|block|template|include|toYaml|tpl)\b|/\*|\$?\w+\s*:?=")
_CONTENT = re.compile(r"(template|include|toYaml|tpl)\b|.*\|\s*(toYaml|nindent|indent)\b")
_OPENS = re.compile(r"(if|range|with|define|block)\b")
_DEEPEST = 60
# Nodes once every alias is followed: a cluster's whole output has some hundred thousand, ten lines of aliases billions.
_MOST = 2_000_000


class _Loader(yaml.SafeLoader):
    """Scalars stay text (an id is no number, ``on`` no boolean); only null is null and << merges."""

    def __init__(self, text: str, templates: "Templates") -> None:
        super().__init__(text)
        self.templates = templates

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if not self.check_event(yaml.AliasEvent):
            # An anchor may be given anew: an alias means the last one before it.
            self.anchors.pop(self.peek_event().anchor, None)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        by_key: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            merges = key.tag == "tag:yaml.org,2002:merge"  # several << are as good as one with a list
            name: Any = key.value if isinstance(key, yaml.ScalarNode) and not merges else id(key)
            if name in by_key:
                value = self.templates.either(name, key.start_mark.line + 1, value)
            by_key[name] = key, value
        node.value = list(by_key.values())
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in ("null", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = dict(yaml.SafeLoader.yaml_constructors)
for _name in ("int", "float", "bool", "timestamp", "binary"):
    _Loader.yaml_constructors[f"tag:yaml.org,2002:{_name}"] = yaml.SafeLoader.construct_yaml_str
# A tag of somebody's own (!Ref and the like) is read as the value that it stands before.
_Loader.add_multi_constructor("!", lambda loader, suffix, node: _untagged(loader, node))


class Templates:
    """The ``{{ ... }}`` of one text. ``told``: what of the text could not be read for sure."""

    def __init__(self) -> None:
        self.actions: list[str] = []
        self.told: list[str] = []

    def hide(self, text: str) -> str:
        """``text`` as YAML: lines that only steer the template leave, what stands for a value becomes a mark."""
        # Actions over several lines first become one line.
        text = _ACTION.sub(lambda match: " ".join(match[0].split()) if "\n" in match[0] else match[0], text)
        return "\n".join(self._line(line) for line in text.split("\n"))

    def shown(self, text: str) -> str:
        """``text`` with the templates that its marks stand for."""
        return _MARKED.sub(lambda match: self.actions[int(match[1])], text)

    def either(self, key: str, line: int, last: yaml.Node) -> yaml.Node:
        """What a key has that stands twice in a mapping: of a template's branches nobody knows which."""
        if not self.actions and not self.told:
            self.told.append(f"line {line}: {self.shown(key)} is there twice; the last one counts")
            return last
        self.told.append(f"line {line}: {self.shown(key)} is there twice; the template alone knows which one counts")
        mark = self._mark("{{ if ... }} one or another {{ end }}")
        return yaml.ScalarNode("tag:yaml.org,2002:str", mark, last.start_mark, last.end_mark)

    def _line(self, line: str) -> str:
        actions = list(_ACTION.finditer(line))
        if not actions:
            return line
        if not _ACTION.sub("", line).strip():
            said = [match[1] for match in actions]
            if any(_CONTENT.match(each) or not _CONTROL.match(each) for each in said):
                self.told.append(f"{line.strip()} is known to the template alone")
            elif any(_OPENS.match(each) or each.startswith("else") for each in said):
                self.told.append(f"{line.strip()}: what follows was read as if it held, once")
            return ""
        line = self._branches(line, actions)
        return _ACTION.sub(
            lambda match: "" if _CONTROL.match(match[1]) and not _CONTENT.match(match[1]) else self._mark(match[0]),
            line,
        )

    def _branches(self, line: str, actions: Sequence[re.Match[str]]) -> str:
        """``line`` with a mark for each {{ if }} ... {{ end }} within it, whose text nobody knows."""
        parts, at, depth, start = [], 0, 0, 0
        for match in actions:
            if _OPENS.match(match[1]):
                start = start if depth else match.start()
                depth += 1
            elif match[1] == "end" and depth:
                depth -= 1
                if not depth:
                    parts += [line[at:start], self._mark(line[start : match.end()])]
                    at = match.end()
        return "".join([*parts, line[at:]])

    def _mark(self, action: str) -> str:
        self.actions.append(action)
        return _MARK.format(len(self.actions) - 1)


def is_template(text: str | None) -> bool:
    """Whether something in ``text`` is known to the template's renderer alone, or to its store of secrets (vals)."""
    return bool(text) and ("{{" in str(text) or bool(re.match(r"(ref|secretref)\+\w", str(text))))


def read(text: str, name: str) -> tuple[list[Any], list[str]]:
    """The documents of ``text``, templates in place as text, and what of it could not be read for sure.

    Raises ConfigError when it is no YAML; the message shows no content, which may hold a secret.
    """
    templates = Templates()
    try:
        loader = _Loader(templates.hide(text) if "{{" in text else text, templates)
        documents = []
        while loader.check_node():
            node = loader.get_node()
            if node and _nodes(node, {}) > _MOST:
                raise ConfigError(f"{name}: is too large once its aliases are followed")
            documents.append(_restored(loader.construct_document(node), templates, 0))
        return [each for each in documents if each is not None], templates.told
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{name}{where}: is no YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{name}: is no YAML that can be read ({type(error).__name__})") from None


def _nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """How many nodes there are with every alias followed, counted without following it twice."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if (count := known.get(id(node))) is not None:
        if not count:
            raise ValueError("an alias of itself")
        return count
    known[id(node)] = 0
    below = [each for pair in node.value for each in pair] if isinstance(node, yaml.MappingNode) else node.value
    known[id(node)] = 1 + sum(_nodes(each, known) for each in below)
    return known[id(node)]


def _restored(value: Any, templates: Templates, depth: int) -> Any:
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        return {
            str(_restored(key, templates, depth + 1)): _restored(part, templates, depth + 1)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_restored(part, templates, depth + 1) for part in value]
    return templates.shown(value) if isinstance(value, str) else value


def _untagged(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)  # type: ignore[arg-type]  # there is no fourth kind of node


def mapping_of(value: Any) -> Mapping[str, Any]:
    """``value`` where it is a mapping: what should be one may be anything in somebody's file."""
    return value if isinstance(value, dict) else {}


def list_of(value: Any) -> list[Any]:
    """``value`` as a list: empty for nothing, of one for what is no list."""
    return value if isinstance(value, list) else [] if value is None else [value]
