"""What would not fit memory is refused with both figures, before any of it is taken."""

import pytest

from lmi_cli import memory
from lmi_cli.errors import ResourceError


def test_what_fits_is_let_through_and_what_does_not_is_named() -> None:
    memory.require(10**9, "the model", "a smaller one", free=10**9)
    with pytest.raises(ResourceError) as caught:
        memory.require(3 * 10**9, "the model", "a smaller one", free=10**9)
    assert caught.value.message == "the model takes 3.0 GB of memory, but only 1.0 GB is free"
    assert caught.value.hint == "a smaller one"
