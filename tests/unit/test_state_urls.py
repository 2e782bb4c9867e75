"""Which stores `open_state` opens, and URLs it refuses without repeating them."""

from pathlib import Path

import pytest
from tenantry.adapters.state import StateUnavailableError, open_state
from tenantry.adapters.state.redis import RedisState
from tenantry.adapters.state.sqlite import SqliteState


@pytest.mark.parametrize(
    "url",
    ["redis://host", "redis://host:6380/2", "rediss://user:p%40ss@[::1]:6379?db=3", "unix:///run/redis.sock?db=1"],
)
def test_a_url_is_a_redis(url: str) -> None:
    assert isinstance(open_state(url), RedisState)


def test_anything_else_is_a_file_that_is_not_opened_yet(tmp_path: Path) -> None:
    assert isinstance(open_state(str(tmp_path / "state.db")), SqliteState)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://:never-shown@host",
        "never-shown@host://",
        "redis:///:never-shown@host",
        "redis://:never/shown@host:6379",
        "redis://:never#shown@host:6379",
        "redis://:never?shown@host:6379",
        "redis://:123#never-shown@host",
        "unix://:123/never-shown@/run/redis.sock",
        "redis://host:never-shown/0",
        "redis://host:99999/0",
        "redis://[never-shown/0",
        "redis://:never-shown@host/zero",
        "redis://host/-1",
        "redis://host/0?never-shown",
        "redis://host/0?socket_timeout=900",
        "rediss://host/0?ssl_cert_reqs=none",
    ],
)
def test_urls_that_no_store_can_have(url: str) -> None:
    with pytest.raises(StateUnavailableError) as caught:
        open_state(url)
    assert caught.value.__context__ is None
    assert "never" not in str(caught.value)
    assert "shown" not in str(caught.value)
