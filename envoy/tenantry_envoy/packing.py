"""Small constructors that every part of the configuration uses."""

from datetime import timedelta
from typing import Any as Json
from typing import cast

from betterproto2 import Casing, Message
from envoy_data_plane.envoy.config.core.v3 import DataSource, TypedExtensionConfig
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.google.protobuf import Any


def seconds(value: float) -> timedelta:
    """Return a duration."""
    return timedelta(seconds=value)


def extension(name: str, config: Message) -> TypedExtensionConfig:
    """Return a named extension with its typed configuration."""
    return TypedExtensionConfig(name=name, typed_config=Any.pack(config))


def http_filter(name: str, config: Message) -> HttpFilter:
    """Return an HTTP filter with its typed configuration."""
    return HttpFilter(name=name, typed_config=Any.pack(config))


def file(path: str) -> DataSource:
    """Return the contents of a file on the proxy's disk."""
    return DataSource(filename=path)


def text(content: str) -> DataSource:
    """Return a text that stands in the configuration itself."""
    return DataSource(inline_string=content)


def plain(message: Message) -> dict[str, Json]:
    """Return a message as plain data, with the field names of Envoy's documentation."""
    # Not Casing.SNAKE, which makes `consecutive_5_xx` of a field; the classes have Envoy's names already.
    data: dict[str, Json] = message.to_dict(casing=cast(Casing, _unchanged))
    return data


def _unchanged(name: str) -> str:
    return name
