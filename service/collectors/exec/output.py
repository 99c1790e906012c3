"""Prometheus text and OpenMetrics on stdout, as samples. Pure.

https://prometheus.io/docs/instrumenting/exposition_formats/ and https://github.com/prometheus/OpenMetrics
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus
from prometheus_client.samples import Sample as ParsedSample

from service.collectors.records import MAX_RECORDS, BadRecord, PrintedSample
from service.domain.errors import Rejected, TooLarge
from service.domain.runs import PartialFailure
from service.domain.samples import Kind, normalize_metric_name

_OPENMETRICS_TYPES = {"unknown", "info", "stateset", "gaugehistogram"}
_DISTRIBUTIONS = ("histogram", "gaugehistogram", "summary")
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
_LEFT_OUT = {"info", "stateset", *_DISTRIBUTIONS}
_PARSED_TYPES = {"untyped": "unknown"}  # which both parsers know
_NAME = re.compile(r"[\s{]")  # what ends it


@dataclass(slots=True)
class TextOutput:
    """What a text says. ``counters``: the value of each counter, for the next run's increase."""

    samples: list[PrintedSample] = field(default_factory=list)
    failures: list[PartialFailure] = field(default_factory=list)
    counters: dict[str, float] = field(default_factory=dict)


def read_text(body: bytes, form: str, before: Mapping[str, float]) -> TextOutput:
    """``form``: prometheus, openmetrics or auto. ``before``: the counters of the last run.

    Gauges and unknowns become gauges, a counter a count of its increase since the last run. Raises Rejected, TooLarge.
    """
    text = _Text(body)
    result, left_out = TextOutput(), dict[str, str]()
    for count, sample in enumerate(text.parse(form), 1):
        if count > MAX_RECORDS:
            raise TooLarge(f"stdout holds more than {MAX_RECORDS:,} samples")
        family, kind = text.find_family(sample.name)
        if kind in _LEFT_OUT:
            left_out[family] = kind
        elif not sample.name.endswith("_created") or kind != "counter":
            _add(result, text.find_name(sample.name), sample, kind, before)
    if not result.samples and not result.failures and not result.counters and not left_out:
        raise Rejected("stdout holds no sample")
    for name, kind in left_out.items():
        result.failures.append(PartialFailure(f"of type {kind}: left out", f"metric {name}"))
    return result


def _add(result: TextOutput, name: str, sample: ParsedSample, kind: str, before: Mapping[str, float]) -> None:
    metric, value = normalize_metric_name(name), float(sample.value)
    if metric is None or not math.isfinite(value):
        reason = "the value is no finite number" if metric else "the name does not begin with a letter"
        result.failures.append(PartialFailure(reason, f"metric {name}"))
    elif kind == "counter":
        key = "\0".join((name, *chain.from_iterable(sorted(sample.labels.items()))))
        result.counters[key] = value
        if key in before:
            # Less than before: the program counts anew from 0.
            increase = value - before[key] if value >= before[key] else value
            result.samples.append(PrintedSample(metric=metric, value=increase, tags=sample.labels, kind=Kind.COUNT))
    else:
        at = None if sample.timestamp is None else float(sample.timestamp)
        try:
            result.samples.append(PrintedSample(metric=metric, value=value, tags=sample.labels, timestamp=at))
        except BadRecord as bad:
            result.failures.append(PartialFailure(str(bad), f"metric {name}"))


class _Text:
    """The lines of a text that count: its samples, and the first TYPE of each family, which parsers take once only."""

    def __init__(self, body: bytes) -> None:
        self._types: dict[str, str] = {}
        self._names: set[str] = set()
        self._lines: list[str] = []
        self._is_marked = self._has_end = False  # by what only OpenMetrics has
        try:
            lines = body.decode().split("\n")
        except UnicodeDecodeError as error:
            raise Rejected(f"stdout is neither JSON nor text: byte {error.start} is no UTF-8") from error
        for line in map(str.strip, lines):
            words = line.split(maxsplit=3)
            if not line.startswith("#"):
                if line:
                    self._names.add(_NAME.split(line, maxsplit=1)[0])
                    self._lines.append(line)
            elif words[1:2] == ["TYPE"] and len(words) == 4 and words[2].strip('"') not in self._types:
                self._types[words[2].strip('"')] = words[3]
                self._lines.append(f"# TYPE {words[2]} {_PARSED_TYPES.get(words[3], words[3])}")
            self._is_marked |= words[:2] == ["#", "UNIT"]
            self._has_end |= words == ["#", "EOF"]

    def parse(self, form: str) -> Iterable[ParsedSample]:
        """Raises Rejected."""
        is_open = form == "openmetrics" or (form == "auto" and self._is_openmetrics())
        text = "\n".join([*self._lines, "# EOF", ""] if is_open else self._lines)
        try:
            for family in (parse_openmetrics if is_open else parse_prometheus)(text):
                yield from family.samples
        except (ValueError, LookupError) as error:
            other = "prometheus" if is_open else "openmetrics"
            forms = f"JSON, nor {'OpenMetrics' if is_open else 'Prometheus text'} (format: {other} reads the other one)"
            raise Rejected(f"stdout is no {forms}: {str(error)[:200] or 'a line is no sample'}") from error

    def find_family(self, name: str) -> tuple[str, str]:
        """The family that a sample belongs to, and its type."""
        if name in self._types:
            return name, self._types[name]
        for suffix, kinds in _SUFFIXES.items():
            family = name.removesuffix(suffix)
            if family != name and self._types.get(family) in kinds:
                return family, self._types[family]
        return name, "unknown"

    def find_name(self, name: str) -> str:
        """As it is printed: the parser of Prometheus' text adds _total to a counter that has none."""
        printed = name.removesuffix("_total")
        return printed if name not in self._names and printed in self._names else name

    def _is_openmetrics(self) -> bool:
        """Its times are seconds, not milliseconds, and a counter's TYPE stands without the _total of its samples."""
        counters = {name for name, kind in self._types.items() if kind == "counter"}
        if self._is_marked or not _OPENMETRICS_TYPES.isdisjoint(self._types.values()):
            return True
        if not self._names.isdisjoint(f"{name}_total" for name in counters - self._names):
            return True
        return self._has_end and self._names.isdisjoint(counters)
