"""Rounds of the garbage collector are put off until the last one that asked for it is done."""

import gc

import pytest

from service.domain import garbage


def test_the_last_one_lets_the_collector_go_on() -> None:
    with garbage.put_off():
        with pytest.raises(KeyError), garbage.put_off():
            raise KeyError
        assert not gc.isenabled()
    assert gc.isenabled()
