from collections.abc import AsyncIterator

import aiohttp
import pytest

from worker.providers.http import open_session


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as session:
        yield session
