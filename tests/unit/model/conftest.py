"""What every test of the model room may ask for."""

from __future__ import annotations

import pytest
from small_models import VARIANTS


@pytest.fixture(params=sorted(VARIANTS))
def variant(request) -> str:
    return request.param
