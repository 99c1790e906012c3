"""Whether a command is a collector's: ``collect NAME --push``, in whatever arrangement."""

import re
import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from service.config_values import MASK, is_secret_name, shown

# What the replaced system called its collectors; others go by the name of a collector type's stanza.
KNOWN = ("ci", "training", "eval")

_SHELLS = {"sh", "bash", "dash", "ash", "zsh"}
_SEPARATORS = {"&&", "||", ";", "|", "&", "then", "do", "{", "}", "(", ")"}
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_WITH_VALUE = {"-o", "--output", "--config", "-c", "--log-level"}
_PROGRAM = re.compile(r"(^|[./\\])(datadog|infra[-_.]health|service)([./\\]|$)|devops\.datadog", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Call:
    """One ``collect``. ``names``: what it collects. ``environment``: assignments before it in a shell line."""

    names: tuple[str, ...]
    pushes: bool
    environment: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()


def calls(command: Sequence[str]) -> list[Call]:
    """The ``collect`` calls of a command and its arguments, of all commands of a shell line."""
    found = []
    for words in _simple_commands(list(command)):
        environment, words = _assignments(words)
        if call := _call(words, environment):
            found.append(call)
    return found


def line(command: Sequence[str]) -> str:
    """A command that a shell runs (it may hold a time limit, a lock, a log file), without secrets; else nothing."""
    if not any(re.search(r"\s", word.strip()) for word in command):
        return ""
    return re.sub(
        r"\b([A-Za-z_]\w*)=(\"[^\"]*\"|'[^']*'|\S+)",
        lambda match: f"{match[1]}={MASK}" if is_secret_name(match[1]) else f"{match[1]}={shown(match[2])}",
        " ".join(command),
    )


def _call(words: Sequence[str], environment: dict[str, str]) -> Call | None:
    if "collect" not in words:
        return None
    place = words.index("collect")
    names, options, skip = [], [], False
    for word in words[place + 1 :]:
        if skip:
            options.append(word)
            skip = False
        elif word.startswith("-"):
            options.append(word)
            skip = word in _WITH_VALUE
        elif not re.search(r"[<>]", word):
            names.append(word)
        else:
            break  # a redirection: nothing of it is the program's
    program = " ".join(words[:place])
    if not names or not (
        _PROGRAM.search(program) or any(_PROGRAM.search(word) for word in words[:place]) or _is_ours(names)
    ):
        return None
    given = set(options)
    return Call(
        tuple(dict.fromkeys(names)), "--push" in given and "--dry-run" not in given, environment, tuple(options)
    )


def _is_ours(names: Collection[str]) -> bool:
    return all(name in KNOWN or "{{" in name for name in names)


def _assignments(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    environment: dict[str, str] = {}
    rest = list(words)
    while rest:
        if rest[0] in ("env", "export", "exec", "time", "nice", "nohup", "command"):
            rest.pop(0)
        elif match := _ASSIGNMENT.fullmatch(rest[0]):
            environment[match[1]] = match[2]
            rest.pop(0)
        else:
            break
    return environment, rest


def _simple_commands(command: list[str]) -> Iterable[list[str]]:
    """The commands that are run one by one; a shell's line is taken apart."""
    exported: dict[str, str] = {}
    for words in _split(_shell_words(command)):
        environment, rest = _assignments(words)
        if environment and not rest:
            exported |= environment  # export A=b; holds for what follows
        elif words:
            yield [*(f"{name}={value}" for name, value in exported.items()), *words]


def _shell_words(command: list[str]) -> list[str]:
    """The words as a shell sees them: of ``sh -c LINE`` those of the line; one word with blanks is a line as well."""
    for place, word in enumerate(command):
        if word.rpartition("/")[2] not in _SHELLS:
            continue
        for after, option in enumerate(command[place + 1 :], place + 1):
            if re.fullmatch(r"-\w*c", option) and after + 1 < len(command):
                return [*command[:place], ";", *_words(command[after + 1])]
            if not option.startswith("-"):
                break
    words: list[str] = []
    for word in command:
        words += _words(word) if re.search(r"\s", word.strip()) and ("collect" in word or len(command) == 1) else [word]
    return words


def _words(line: str) -> list[str]:
    line = re.sub(r"\\\n", " ", line)
    lexer = shlex.shlex(line.replace("\n", " ; "), posix=True, punctuation_chars=";&|()")
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        return list(lexer)
    except ValueError:  # a quote that is not closed
        return line.split()


def _split(words: Sequence[str]) -> Iterable[list[str]]:
    current: list[str] = []
    for word in words:
        if word in _SEPARATORS or set(word) <= set(";&|()"):
            if current:
                yield current
            current = []
        else:
            current.append(word)
    if current:
        yield current
