"""Prompts, keys, tokens and forgeries stand in no log, no outcome and no metric, whatever goes wrong."""

import asyncio
import base64
import json
from pathlib import Path

from dataplane.harness import ENGINE_SECRET, KEYS, Json, Stack, rules, until, write
from dataplane.pki import Issuer
from dataplane.processes import Process, beside
from dataplane.upstream import CUT, SSE_HEAD, Upstream, chunk
from dataplane.wire import CHAT, Connection, chat, chat_body, request
from dataplane.wire_h2 import ask_h2

PROMPT, FORGED, MODEL, PATH, UNKNOWN = (
    f"canary-{word}" for word in ("prompt", "forged", "model", "path", "unknown-key")
)
AGENT, ANSWER, SECRET = (f"canary-{word}" for word in ("agent", "answer", "secret"))
JSON = ("Content-Type", "application/json")

PLANTED_BUGS = """
from tenantry.core import chat, model_api

stamp, check = chat.stamp, model_api.check_body_headers

def buggy_stamp(body, **arguments):
    if "bug" in body.members:
        raise RuntimeError(f"cannot stamp {body!r} {dict(body.members)} {arguments}")
    return stamp(body, **arguments)

def buggy_check(headers, limit):
    if any(name == "x-bug" for name, _ in headers):
        raise KeyError(f"cannot check {headers}")
    return check(headers, limit)

chat.stamp, model_api.check_body_headers = buggy_stamp, buggy_check
"""
"""Bugs whose exceptions quote all that they choked on."""


def everything_written(here: Stack, sidecar: Process) -> dict[str, str]:
    """What the sidecar and Envoy left on disk."""
    paths = {"log": sidecar.log, "out": sidecar.out, "outcomes": here.files.outcomes}
    paths["Envoy's log"] = here.files.folder / "state" / "envoy.log"
    return {name: path.read_text("utf-8", "replace") for name, path in paths.items()}


async def traffic(here: Stack, token: str) -> None:
    """Good and bad requests, each with canaries in all places."""
    message = {"messages": [{"role": "user", "content": PROMPT}], "user": PROMPT, "metadata": {PROMPT: PROMPT}}
    headers = [
        ("x-tenantry-tenant", FORGED), ("x-request-id", FORGED), ("cookie", FORGED), ("User-Agent", AGENT),
        ("x-forwarded-for", FORGED), ("Referer", FORGED), ("traceparent", FORGED),
    ]  # fmt: skip
    acme, hello = KEYS["acme"], chat_body()

    def ask(key: str | None, **members: object) -> bytes:
        return chat(key, headers=headers, **{**message, **members})  # type: ignore[arg-type]

    here.upstream.scripts["sse"] = lambda _seen: [SSE_HEAD, chunk(ANSWER.encode()), 0.05, CUT]
    here.upstream.scripts["dies"] = lambda _seen: [CUT]
    here.upstream.scripts["forever"] = lambda _seen: [asyncio.Event()]
    expected = [
        (ask(acme), 200),
        (ask(token), 200),
        (ask(acme, script="sse"), 200),
        (ask(acme, script="dies"), 503),
        (ask(UNKNOWN), 401),
        (ask(KEYS["late"]), 401),
        (ask(token[:-5]), 401),
        (request(headers=[JSON, ("Api-Key", acme), ("Authorization", f"Bearer {KEYS['globex']}")], body=hello), 401),
        (request(headers=[JSON, ("Authorization", base64.b64encode(UNKNOWN.encode()).decode())], body=hello), 401),
        (ask(acme, model=MODEL), 404),
        (chat(acme, target=f"/{PATH}?key={acme}&p={PROMPT}", headers=headers), 404),
        (chat(acme, target=f"{CHAT}?key={acme}", headers=headers), 400),
        (request(headers=[JSON, *headers], body=f'{{"{PROMPT}": "{PROMPT}'.encode(), key=acme), 400),
        (request(headers=[JSON], body=f'{{"model":"chat-8b","{PROMPT}":1,"{PROMPT}":2}}'.encode(), key=acme), 400),
        (ask(acme, kv_transfer_params=PROMPT), 400),
        (request(headers=[("Content-Type", f"text/{FORGED}")], body=PROMPT.encode(), key=acme), 415),
        (ask(acme, bug=PROMPT), 503),
        (chat(acme, headers=[*headers, ("x-bug", FORGED)]), 503),
        (request(CHAT, method=FORGED, key=acme), 400),
    ]  # fmt: skip
    for data, status in expected:
        assert (data, (await here.ask(data)).status) == (data, status)
    async with await Connection.open(here.address) as leaving:
        await leaving.send(ask(acme, script="forever", mark="forever"))
        await until(lambda: here.upstream.marked("forever"))
    await ask_h2(
        here.address, headers=[("content-type", "application/grpc")], body=PROMPT.encode(), key=acme, target=f"/{PATH}"
    )


async def test_canaries_are_nowhere(tmp_path: Path, issuer: Issuer) -> None:
    def build(upstream: Upstream) -> Json:
        return rules(upstream, identity={"jwt": issuer.rules})

    token = issuer.token()
    async with beside(tmp_path, build, prelude=PLANTED_BUGS) as (here, (sidecar,)):
        await traffic(here, token)
        # A document with a key in the clear, then one that is no YAML just there, then a secret of two lines.
        document = json.loads(json.dumps(here.document))
        document["tenants"]["acme"]["keys"] = [KEYS["acme"]]
        write(here.files.rules, json.dumps(document))
        await here_refuses(sidecar, 1)
        write(here.files.rules, json.dumps(here.document)[:-1] + f", {KEYS['acme']}: [[")
        await here_refuses(sidecar, 2)
        here.files.save(here.document)
        await sidecar.line("rules live")
        write(here.files.secrets / "engine", f"{SECRET}\n{SECRET}\n")
        await here_refuses(sidecar, 3)
        # The last exchanges' entries, those of the abort among them.
        await until(lambda: {outcome["ended"] for outcome in here.outcomes()} == {"completed", "failed", "aborted"})

        written = everything_written(here, sidecar)
        written["metrics"] = str(await here.metrics())
        written["/rules"] = str(await here.status())

    assert [line["error"] for line in sidecar.lines() if line["event"] == "ext_proc stream ended with an error"] == [
        "RuntimeError", "KeyError"
    ]  # fmt: skip
    secrets = [path.read_text().strip() for path in here.files.secrets.iterdir() if path.name != "engine"]
    canaries = ["canary", ENGINE_SECRET, token, token.split(".")[2], *KEYS.values(), *secrets]
    canaries += [base64.b64encode(text.encode()).decode() for text in (*KEYS.values(), UNKNOWN)]
    found = {(place, canary) for place, text in written.items() for canary in canaries if canary in text}
    assert found == set()
    # The search can find: what should be written is.
    assert "acme" in written["outcomes"]
    assert "invalid_api_key" in written["metrics"]
    assert "rules refused" in written["log"]


async def here_refuses(sidecar: Process, times: int) -> None:
    await until(
        lambda: (
            [line["event"] for line in sidecar.lines()].count("rules refused; the last good document stays live")
            == times
        )
    )
