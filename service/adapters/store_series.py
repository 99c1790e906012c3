"""The series that went by lately: what a row's number stands for, and which rows the table is known to have.

A daemon sends the same series with every run. Whoever reads a point needs no join for them, and whoever writes one need
not hash and insert them again.
"""

from service.adapters import store_rows as rows
from service.domain.samples import Kind

# Characters that are kept at most: two hundred thousand short series are none of ours, and long ones come once.
_MOST_TEXT = 12_000_000

Series = tuple[str, Kind, int, str]  # metric, kind, interval, tags


class RecentSeries:
    """By number, which is a hash of the content, so it stands for the same for ever.

    The writer counts on the table to have what is here, so a transaction that is undone must ``forget``.
    Readers use ``by_id`` from another thread.
    """

    def __init__(self) -> None:
        self.by_id: dict[int, Series] = {}
        self._written: dict[tuple[str, Kind, int], dict[str, int]] = {}
        self._text = 0

    def forget(self) -> None:
        """Rows may be missing from the table now."""
        for numbers in self._written.values():
            numbers.clear()  # a writer may be at it
        self.by_id, self._written, self._text = {}, {}, 0

    def written(self, metric: str, kind: Kind, interval: int) -> dict[str, int]:
        """The numbers, by their tags, of those series that the table has; ``number`` adds to it."""
        return self._written.setdefault((metric, kind, interval), {})

    def number(self, series: Series) -> int:
        """The number of a series that is written now."""
        number = rows.series_id(*series)
        self.add(number, series)
        self.written(*series[:3])[series[3]] = number
        return number

    def add(self, number: int, series: Series) -> None:
        """Keeps what a number stands for."""
        self._text += len(series[3])
        if self._text > _MOST_TEXT:
            self.forget()
            self._text = len(series[3])
        self.by_id[number] = series
