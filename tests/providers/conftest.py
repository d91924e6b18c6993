from collections.abc import AsyncIterator

import aiohttp
import pytest

from worker.providers.http import open_session

from . import protocols


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as session:
        yield session


@pytest.fixture(params=["one by one", "poured"])
def taken_in_both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is collected is the same whether it is taken part by part, or handed over as it arrives."""
    monkeypatch.setattr(protocols, "is_poured", request.param == "poured")
