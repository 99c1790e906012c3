"""config.yaml: its values as the text that was written, and the line and column of each.

YAML's implicit types are left out on purpose: ``version: 1.10`` is no number, ``on`` no boolean, ``012`` no octal and
``12:30`` no sexagesimal number. A scalar stays the text that it is, only null is null; the settings' own types read it.
"""

import pathlib
from typing import Any

import yaml

from service.config.environment import Layer, Path
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
            if (
                key.tag != f"{_TAG}merge"
                and lines.setdefault(str(key.value), key.start_mark.line) < key.start_mark.line
            ):
                first = lines[key.value] + 1
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} is given twice, first in line {first}", key.start_mark
                )
        return super().construct_mapping(node, deep=deep)


class Document(Layer):
    """The mapping that a file holds."""

    def __init__(self, title: str, text: str) -> None:
        """``title``: what messages call the file. Raises ConfigError when ``text`` is no YAML, or no mapping."""
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
        super().__init__(0, title, values)

    @classmethod
    def read(cls, path: pathlib.Path) -> "Document":
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

    def find(self, path: Path) -> tuple[int, int, int, str]:
        node = found = self._root
        for part in path:
            if isinstance(node, yaml.MappingNode):
                # What << brings in stands first, and what is written here replaces it.
                found, node = [pair for pair in node.value if pair[0].value == part][-1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                found = node = node.value[part]
        line, column = (found.start_mark.line + 1, found.start_mark.column + 1) if found else (1, 1)
        return self.rank, line, column, f"{self.title}:{line}:{column}"


def _explain(error: yaml.MarkedYAMLError, lines: list[str]) -> str:
    """Where and why the text is no YAML; without the parser's excerpt and names, which could show a secret."""
    context, problem = str(error.context or ""), str(error.problem or "")
    mark = error.problem_mark or error.context_mark
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    before, character = (line[: mark.column].rstrip(), line[mark.column : mark.column + 1]) if mark else ("", "")
    what = f"is no YAML here: {problem}" + (f" ({context})" if context else "")
    if "constructor for the tag" in problem:
        what = "a YAML tag (!) is not supported here; quote a value that begins with !"
    elif "given twice" in problem:
        what = problem
    elif "recursive" in problem:
        what = "an alias stands inside of what it stands for"
    elif "alias" in context or "alias" in problem:
        mark, what = error.context_mark or mark, 'a value that begins with * must be quoted: schedule: "*/10 * * * *"'
    elif "quoted scalar" in context and "end of" in problem:
        mark, what = error.context_mark or mark, "a quote is opened here but not closed"
    elif "\t" in line[: len(line) - len(line.lstrip())] or character == "\t":
        what = "indent with blanks, not with tabs"
    elif character and character in "@`%" and (not before or before[-1] in ":-[,"):
        what = f"a value that begins with {character} must be quoted" + ': "@hourly"' * (character == "@")
    return f":{mark.line + 1}:{mark.column + 1}: {what}" if mark else f": {what}"
