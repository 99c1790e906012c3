"""YAML as the sources hold it: Go templates between, several documents, scalars kept as they are written."""

import re
from typing import Any

import yaml

from service.domain.errors import ConfigError

# What stands for {{ ... }} while YAML is read: it is plain text wherever it stands, and no source writes it.
_MARK = "GoTemplate{}Mark"
_MARKED = re.compile(r"GoTemplate(\d+)Mark")
_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
# Actions that put nothing into the text by themselves.
_CONTROL = re.compile(r"(if|else|end|range|with|define|block|template|include|toYaml|tpl)\b|/\*|\$?\w+\s*:?=")
_CONTENT = re.compile(r"(template|include|toYaml|tpl)\b|.*\|\s*(toYaml|nindent|indent)\b")
_DEEPEST = 60


class _Loader(yaml.SafeLoader):
    """Scalars stay text (an id is no number, ``on`` no boolean); only null is null and << merges."""


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
    """The ``{{ ... }}`` of one text."""

    def __init__(self) -> None:
        self.actions: list[str] = []
        self.dropped: list[str] = []

    def hide(self, text: str) -> str:
        """``text`` as YAML: lines that only steer the template leave, what stands for a value becomes a mark."""
        # Actions over several lines first become one line.
        text = _ACTION.sub(lambda match: " ".join(match[0].split()) if "\n" in match[0] else match[0], text)
        return "\n".join(self._line(line) for line in text.split("\n"))

    def shown(self, text: str) -> str:
        """``text`` with the templates that its marks stand for."""
        return _MARKED.sub(lambda match: self.actions[int(match[1])], text)

    def _line(self, line: str) -> str:
        actions = list(_ACTION.finditer(line))
        if not actions:
            return line
        if not _ACTION.sub("", line).strip():
            said = [match[1] for match in actions]
            if any(_CONTENT.match(each) or not _CONTROL.match(each) for each in said):
                self.dropped.append(line.strip())
            return ""
        return _ACTION.sub(
            lambda match: "" if _CONTROL.match(match[1]) and not _CONTENT.match(match[1]) else self._mark(match[0]),
            line,
        )

    def _mark(self, action: str) -> str:
        self.actions.append(action)
        return _MARK.format(len(self.actions) - 1)


def is_template(text: str | None) -> bool:
    """Whether something in ``text`` is known to the template's renderer alone."""
    return bool(text) and "{{" in str(text)


def read(text: str, name: str) -> tuple[list[Any], list[str]]:
    """The documents of ``text``, templates in place as text, and the template lines that were left out.

    Raises ConfigError when it is no YAML; the message shows no content, which may hold a secret.
    """
    templates = Templates()
    hidden = templates.hide(text) if "{{" in text else text
    try:
        documents = [each for each in yaml.load_all(hidden, Loader=_Loader) if each is not None]
        return [_restored(each, templates, 0) for each in documents], templates.dropped
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{name}{where}: is no YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{name}: is no YAML that can be read ({type(error).__name__})") from None


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
