"""The store guard: no answer of a vector store reaches a client before the sidecar has verified it.

ext_proc alone does not hold that: when its stream ends cleanly after the request, Envoy takes it for consent and the
answer passes as it is (measured). So two things stand around it:

    mark     a filter between the router and the store puts a header on each answer that really came from there;
             Envoy's own errors and the sidecar's own answers never have it
    guard    a Lua filter before ext_proc in the list, hence behind it on the way back: what has the mark passes only
             if the sidecar wrote `verified` with its last response-phase reply; else nothing of it is left

The guard is on wherever it is not switched off, and only the routes of models switch it off. So a path that the
sidecar rewrites cannot lead around it: which route the answer belongs to counts, not which one the request came in by.

REST clients get 502. gRPC clients get PERMISSION_DENIED, since pymilvus repeats a call up to 75 times on most other
codes. Trailers are seen by nobody who could verify them, so of a verified answer `grpc-status` passes and no more.
"""

from typing import Final

import msgspec
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation
from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExtProcOverrides,
    ExtProcPerRoute,
    ProcessingMode,
    ProcessingModeBodySendMode,
    ProcessingModeHeaderSendMode,
)
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutationPerRoute, Mutations
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua, LuaPerRoute
from envoy_data_plane.google.protobuf import Any

from tenantry_envoy import packing
from tenantry_envoy.names import (
    EXT_PROC,
    FROM_UPSTREAM_HEADER,
    METADATA_NAMESPACE,
    REQUEST_ID_HEADER,
    STORE_GUARD,
    UPSTREAM_HEADERS,
    VERIFIED_KEY,
    VERIFIED_VALUE,
)

WITHHELD: Final = "The store's answer could not be verified and was withheld."

_REST_BODY = msgspec.json.encode(
    {"error": {"message": WITHHELD, "type": "server_error", "param": None, "code": "unverified_response"}}
).decode()

SCRIPT: Final = f"""\
local MARK = "{FROM_UPSTREAM_HEADER}"
local WITHHELD = "{WITHHELD}"
local BODY = [==[{_REST_BODY}]==]

-- Removes all but what `kept` names. Removing while looking is an error in Envoy, and an error lets pass.
local function keep(headers, kept)
  local names = {{}}
  for name in pairs(headers) do
    if not kept[name] then names[#names + 1] = name end
  end
  for _, name in ipairs(names) do headers:remove(name) end
end

local function verified(handle)
  local ours = handle:streamInfo():dynamicMetadata():get("{METADATA_NAMESPACE}")
  return ours ~= nil and ours["{VERIFIED_KEY}"] == "{VERIFIED_VALUE}"
end

local function status(headers)
  headers:replace("grpc-status", "7")
  headers:replace("grpc-message", WITHHELD)
end

function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get(MARK) == nil then return end
  local grpc = string.find(handle:streamInfo():routeName(), ".grpc", 1, true) ~= nil
  if verified(handle) then
    headers:remove(MARK)
    if grpc then
      local trailers = handle:trailers()
      if trailers ~= nil then keep(trailers, {{["grpc-status"] = true}}) end
    end
    return
  end
  keep(headers, {{[":status"] = true, ["{REQUEST_ID_HEADER}"] = true}})
  if grpc then
    headers:replace(":status", "200")
    headers:replace("content-type", "application/grpc")
    local body = handle:body()
    if body ~= nil then body:setBytes("") end
    headers:remove("content-length")
    local trailers = handle:trailers()
    if trailers ~= nil then
      keep(trailers, {{}})
      status(trailers)
    else
      status(headers)
    end
  else
    headers:replace(":status", "502")
    headers:replace("content-type", "application/json")
    handle:body(true):setBytes(BODY)
    local trailers = handle:trailers()
    if trailers ~= nil then keep(trailers, {{}}) end
  end
end
"""
"""The guard. It sees the answer after ext_proc. While `body` waits for the whole of it, its headers wait too."""


def guard() -> Lua:
    """Return the guard's configuration."""
    return Lua(default_source_code=packing.text(SCRIPT))


def unguarded() -> dict[str, Any]:
    """Return what a route of models says: no guard, which costs time and has nothing to look for."""
    return {STORE_GUARD: Any.pack(LuaPerRoute(disabled=True))}


def guarded() -> dict[str, Any]:
    """Return what a route of stores says: the sidecar sees answers whole, and what comes from upstream is marked."""
    modes = ProcessingMode(
        request_header_mode=ProcessingModeHeaderSendMode.SEND,
        request_body_mode=ProcessingModeBodySendMode.BUFFERED,
        request_trailer_mode=ProcessingModeHeaderSendMode.SKIP,
        response_header_mode=ProcessingModeHeaderSendMode.SEND,
        response_body_mode=ProcessingModeBodySendMode.BUFFERED,
        response_trailer_mode=ProcessingModeHeaderSendMode.SKIP,
    )
    mark = HeaderMutation(
        append=HeaderValueOption(
            header=HeaderValue(key=FROM_UPSTREAM_HEADER, value="yes"),
            append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
        )
    )
    return {
        EXT_PROC: Any.pack(ExtProcPerRoute(overrides=ExtProcOverrides(processing_mode=modes))),
        UPSTREAM_HEADERS: Any.pack(HeaderMutationPerRoute(mutations=Mutations(response_mutations=[mark]))),
    }
