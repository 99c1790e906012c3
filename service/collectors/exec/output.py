"""Prometheus text and OpenMetrics on stdout, as samples. Pure.

https://prometheus.io/docs/instrumenting/exposition_formats/ and https://github.com/prometheus/OpenMetrics

Of a line the library reads name, labels, value and time. Types are told apart here: its two parsers disagree on how a
counter is called, and refuse a whole text for one family that is odd.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample as ParsedSample

from service.collectors.records import MAX_RECORDS, BadRecord, PrintedSample
from service.domain.errors import Rejected, TooLarge
from service.domain.runs import PartialFailure
from service.domain.samples import Kind, normalize_metric_name

_DISTRIBUTIONS = ("histogram", "gaugehistogram", "summary")
_LEFT_OUT = {"info", "stateset", *_DISTRIBUTIONS}
# What a family's samples are called beside the family itself.
_SUFFIXES = {
    "_total": ("counter",),
    "_created": ("counter", *_DISTRIBUTIONS),
    "_info": ("info",),
    "_bucket": _DISTRIBUTIONS,
    "_count": _DISTRIBUTIONS,
    "_sum": _DISTRIBUTIONS,
    "_gcount": ("gaugehistogram",),
    "_gsum": ("gaugehistogram",),
}
_MAX_LINE = 10_000  # characters; the parser's time grows with the square of a line's
# A sample, and behind it an exemplar.
_EXEMPLAR = re.compile(r'((?:[^"#]++|"(?:[^"\\]++|\\.)*+")*+)#.*')
# Prometheus' times are milliseconds, those of OpenMetrics seconds: no time is between 1973 in the one and 5138 in the
# other.
_FIRST_MILLISECOND = 1e11


@dataclass(slots=True)
class TextOutput:
    """What a text says. ``counters``: the value of each counter, for the next run's increase."""

    samples: list[PrintedSample] = field(default_factory=list)
    failures: list[PartialFailure] = field(default_factory=list)
    counters: dict[str, float] = field(default_factory=dict)


def read_text(body: bytes, before: Mapping[str, float]) -> TextOutput:
    """``before``: the counters of the last run.

    Gauges and unknowns become gauges, a counter a count of its increase since the last run. Raises Rejected, TooLarge.
    """
    types, lines = _read_lines(body)
    if len(lines) > MAX_RECORDS:
        raise TooLarge(f"stdout holds more than {MAX_RECORDS:,} samples")
    result, left_out = TextOutput(), dict[str, str]()
    try:
        for family in text_string_to_metric_families("\n".join(lines)):
            for sample in family.samples:
                name, kind = _find_family(sample.name, types)
                if kind in _LEFT_OUT:
                    left_out[name] = kind
                elif kind != "counter" or not sample.name.endswith("_created"):
                    _add(result, sample, before, is_counter=kind == "counter")
    except (ValueError, LookupError) as error:
        reason = str(error)[:200] or "a line is no sample"
        raise Rejected(f"stdout is neither JSON nor Prometheus text nor OpenMetrics: {reason}") from error
    if not lines:
        raise Rejected("stdout holds no sample")
    result.failures += [
        PartialFailure(f"of type {kind}: left out", f"metric {name}") for name, kind in left_out.items()
    ]
    return result


def _read_lines(body: bytes) -> tuple[dict[str, str], list[str]]:
    """The types of the families, the first of each; and the lines of samples."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Rejected(f"stdout is neither JSON nor text: byte {error.start} is no UTF-8") from error
    types, lines = dict[str, str](), list[str]()
    for line in map(str.strip, text.split("\n")):
        words = line.split(maxsplit=3)
        if words[:2] == ["#", "TYPE"] and len(words) == 4:
            types.setdefault(words[2].strip('"'), words[3])
        elif line and not line.startswith("#"):
            if len(line) > _MAX_LINE:
                raise Rejected(f"stdout is neither JSON nor text: a line has more than {_MAX_LINE:,} characters")
            lines.append(_EXEMPLAR.sub(r"\1", line))
    return types, lines


def _find_family(name: str, types: Mapping[str, str]) -> tuple[str, str]:
    """The family that a sample belongs to, and its type."""
    if name in types:
        return name, types[name]
    for suffix, kinds in _SUFFIXES.items():
        family = name.removesuffix(suffix)
        if family != name and types.get(family) in kinds:
            return family, types[family]
    return name, "unknown"


def _add(result: TextOutput, sample: ParsedSample, before: Mapping[str, float], *, is_counter: bool) -> None:
    value, at = float(sample.value), None
    if is_counter and math.isfinite(value):
        key = "\0".join((sample.name, *chain.from_iterable(sorted(sample.labels.items()))))
        result.counters[key] = value
        if key not in before:
            return
        # Less than before: the program counts anew from 0.
        value = value - before[key] if value >= before[key] else value
    elif not is_counter and sample.timestamp is not None:
        at = float(sample.timestamp)  # taken for milliseconds by the parser
        at = at if at * 1000 >= _FIRST_MILLISECOND else at * 1000
    kind, metric = Kind.COUNT if is_counter else Kind.GAUGE, normalize_metric_name(sample.name)
    try:
        if metric is None:
            raise BadRecord("the name does not begin with a letter")
        result.samples.append(PrintedSample(metric=metric, value=value, tags=sample.labels, kind=kind, timestamp=at))
    except BadRecord as bad:
        result.failures.append(PartialFailure(str(bad), f"metric {sample.name}"))
