"""Defaults of Self-Extend."""

import pytest

from lmi_cli.errors import UsageError
from lmi_cli.methods import Circumstances, SelfExtend

TRAINED = 8192


@pytest.mark.parametrize("tokens", [8193, 10_000, 32_768, 1_000_000])
@pytest.mark.parametrize("window", [None, 512, 1024, 4096])
def test_groups_are_the_smallest_that_leave_room(tokens: int, window: int | None) -> None:
    given = {} if window is None else {"window": window}
    method = SelfExtend.build(given, Circumstances(TRAINED, 0, TRAINED, tokens))
    assert method.window == (window or TRAINED // 4)

    def farthest(group: int) -> float:
        return method.window + (tokens - method.window) / group

    most = (method.window + TRAINED) / 2
    assert farthest(method.group) <= most
    assert method.group == 1 or farthest(method.group - 1) > most


def test_a_text_that_fits_is_read_as_it_is() -> None:
    method = SelfExtend.build({}, Circumstances(TRAINED, 0, TRAINED, 8000))
    assert method.exact_length == TRAINED
    assert SelfExtend.build({}, Circumstances(2048, 0, TRAINED)) == SelfExtend(2048, 8)


@pytest.mark.parametrize("lengths", [(0, 4), (4, 0)])
def test_lengths_that_make_no_sense_are_refused(lengths: tuple[int, int]) -> None:
    with pytest.raises(UsageError):
        SelfExtend(*lengths)
