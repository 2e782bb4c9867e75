"""A stand-in Kubernetes API server: what the real Helm asks of one, in memory, over plain HTTP on the loopback."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import yaml
from aiohttp import web

from helm.toy_cluster import kinds, patches
from helm.toy_cluster.kinds import BY_PLURAL, Kind
from helm.toy_cluster.objects import Objects, RefusedError
from helm.toy_cluster.wire_secret import CONTENT_TYPE, read_secret

Json = dict[str, Any]
Log = Callable[[str, str], str]
"""Namespace and name of a pod to its containers' log."""

_ROOTS = "/{root:api/v1|apis/[^/]+/[^/]+}"
_PLACES = (_ROOTS, _ROOTS + "/namespaces/{namespace}")


class Api:
    """The routes. Objects are `objects`'; logs of pods are asked of `log`."""

    def __init__(self, objects: Objects, log: Log) -> None:
        self._objects, self._log = objects, log

    def application(self) -> web.Application:
        """The server's application."""
        application = web.Application(middlewares=[_statuses], client_max_size=16 * 1024 * 1024)
        major, minor, _ = kinds.RELEASE.split(".")
        served: dict[str, Json] = {
            "/version": {"major": major, "minor": minor, "gitVersion": f"v{kinds.RELEASE}", "platform": "stand-in"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": kinds.groups(),
            "/openapi/v3": kinds.openapi_index(),
        }
        for kind in kinds.KINDS:
            served[kind.root] = kinds.resources(kind.api)
            served[f"/openapi/v3{kind.root}"] = kinds.openapi(kind.root)
        for path, document in served.items():
            application.router.add_get(path, _fixed(document))
        application.router.add_get(_PLACES[1] + "/pods/{name}/log", self._pod_log)
        for place in _PLACES:
            application.router.add_get(place + "/{plural}", self._collection)
            application.router.add_post(place + "/{plural}", self._create)
            application.router.add_delete(place + "/{plural}", self._delete_all)
            one = place + "/{plural}/{name}"
            application.router.add_get(one, self._read)
            application.router.add_put(one, self._replace)
            application.router.add_patch(one, self._patch)
            application.router.add_delete(one, self._delete)
        return application

    async def _read(self, request: web.Request) -> web.Response:
        return web.json_response(self._objects.find(*_named(request)))

    async def _create(self, request: web.Request) -> web.Response:
        kind, namespace = _kind(request)
        return web.json_response(self._objects.create(kind, namespace, await _body(request)), status=201)

    async def _replace(self, request: web.Request) -> web.Response:
        kind, namespace, _ = _named(request)
        return web.json_response(self._objects.replace(kind, namespace, await _body(request)))

    async def _delete(self, request: web.Request) -> web.Response:
        return web.json_response(self._objects.delete(*_named(request)))

    async def _delete_all(self, request: web.Request) -> web.Response:
        kind, namespace = _kind(request)
        for item in self._selected(request):
            self._objects.delete(kind, namespace, item["metadata"]["name"])
        return web.json_response({"kind": "Status", "apiVersion": "v1", "status": "Success"})

    async def _patch(self, request: web.Request) -> web.Response:
        kind, namespace, name = _named(request)
        way, body = request.content_type, await request.text()
        if way == "application/apply-patch+yaml":
            made, created = self._apply(kind, namespace, name, yaml.safe_load(body), request.query)
            return web.json_response(made, status=201 if created else 200)
        merges = {
            "application/strategic-merge-patch+json": patches.strategic_merge,
            "application/merge-patch+json": patches.json_merge,
        }
        if way not in merges:
            raise RefusedError(415, "UnsupportedMediaType", f"the stand-in API server knows no {way}")
        live = self._objects.find(kind, namespace, name)
        return web.json_response(self._objects.replace(kind, namespace, merges[way](json.loads(body), live)))

    def _apply(self, kind: Kind, namespace: str, name: str, now: Json, query: Any) -> tuple[Json, bool]:
        manager = query["fieldManager"]
        try:
            live = self._objects.find(kind, namespace, name)
        except RefusedError:
            made, created = self._objects.create(kind, namespace, now), True
        else:
            before = self._objects.applied(kind, namespace, name, manager)
            made, created = self._objects.replace(kind, namespace, patches.apply(before, now, live)), False
        self._objects.remember(kind, namespace, name, manager, now)
        return made, created

    async def _collection(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") in ("1", "true"):
            return await self._watch(request)
        kind, _ = _kind(request)
        listed = {"kind": f"{kind.kind}List", "apiVersion": kind.api, "items": self._selected(request)}
        return web.json_response(listed | {"metadata": {"resourceVersion": str(self._objects.version)}})

    def _selected(self, request: web.Request) -> list[Json]:
        kind, namespace = _kind(request)
        return [item for item in self._objects.list(kind, namespace or None) if _selects(request, item)]

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        kind, namespace = _kind(request)
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)

        async def send(type_: str, item: Json) -> None:
            await response.write(json.dumps({"type": type_, "object": item}).encode() + b"\n")

        asked = request.query.get("resourceVersion", "")
        since = int(asked or 0)
        if request.query.get("sendInitialEvents") == "true" or since == 0:
            since = self._objects.version
            for item in self._selected(request):
                await send("ADDED", item)
        if request.query.get("sendInitialEvents") == "true":
            ends = {"resourceVersion": str(since), "annotations": {"k8s.io/initial-events-end": "true"}}
            await send("BOOKMARK", {"kind": kind.kind, "apiVersion": kind.api, "metadata": ends})
        seconds = float(request.query.get("timeoutSeconds", "300"))
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(seconds):
                async for change in self._objects.changes(kind, namespace or None, since):
                    if _selects(request, change.object):
                        await send(change.type, change.object)
        return response

    async def _pod_log(self, request: web.Request) -> web.Response:
        return web.Response(text=self._log(request.match_info["namespace"], request.match_info["name"]))


def _fixed(document: Json) -> Callable[[web.Request], Any]:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(document)

    return answer


@web.middleware
async def _statuses(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        answer: web.StreamResponse = await handler(request)
    except (RefusedError, web.HTTPNotFound) as error:
        code, reason = (error.code, error.reason) if isinstance(error, RefusedError) else (404, "NotFound")
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}
        return web.json_response(status | {"message": str(error)}, status=code)
    return answer


async def _body(request: web.Request) -> Json:
    if request.content_type == CONTENT_TYPE:
        return read_secret(await request.read())
    made: Json = await request.json()
    return made


def _kind(request: web.Request) -> tuple[Kind, str]:
    root, plural = "/" + request.match_info["root"], request.match_info["plural"]
    kind = BY_PLURAL.get((root, plural))
    if kind is None:
        raise RefusedError(404, "NotFound", f"the stand-in API server serves no {plural} at {root}")
    return kind, request.match_info.get("namespace", "")


def _named(request: web.Request) -> tuple[Kind, str, str]:
    return *_kind(request), request.match_info["name"]


def _selects(request: web.Request, item: Json) -> bool:
    """Whether the request's label and field selectors (`a=b,c!=d`, `a in (b,c)`: not used by Helm) name an object."""
    labels = item["metadata"].get("labels") or {}
    fields = {f"metadata.{name}": item["metadata"].get(name) for name in ("name", "namespace")}
    for selector, values in (("labelSelector", labels), ("fieldSelector", fields)):
        for term in filter(None, request.query.get(selector, "").split(",")):
            name, unequal, value = term.partition("!=") if "!=" in term else term.replace("==", "=").partition("=")
            if (values.get(name.strip()) == value.strip()) == (unequal == "!="):
                return False
    return True


@contextlib.asynccontextmanager
async def serving(api: Api) -> AsyncIterator[str]:
    """Serve on a free port of the loopback; yield the URL."""
    runner = web.AppRunner(api.application(), shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()
