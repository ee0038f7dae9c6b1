"""Helpers of the tests that resolve models."""

from typing import Any

import pytest

from lmi_cli.checkpoints import resolve
from lmi_cli.errors import LmiError


def refusal(spec: str | None, **options: Any) -> LmiError:
    """Resolve a model that must be refused in one line."""
    with pytest.raises(LmiError) as caught:
        resolve.resolve(spec, **options)
    assert "\n" not in caught.value.message
    return caught.value
