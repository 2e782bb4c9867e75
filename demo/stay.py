"""What `make up` says once everything runs: addresses, keys, and what to curl."""

import json

from rich.console import Console
from rich.table import Table
from tenantry.core.keyring import ADMIN_TOKEN

from demo.retrieval_story import TENANT, TIERS
from demo.scenario import FORGED_HEADERS, MODEL, Scenario
from demo.stack import Stack


def tell(scenario: Scenario, stack: Stack, console: Console) -> None:
    """Print it."""
    kind = "stand-in engines: no model runs" if scenario.engine == "stand-in" else "real vLLM with a tiny model"
    console.print(f"tenantry is up ({kind}). Ctrl-C stops everything.\n")
    console.print(f"  clients   {stack.base_url}/v1")
    console.print(f"  rules     {stack.rules}  (save it: the change is live within a second)")
    console.print(f"  outcomes  {stack.outcomes}")
    console.print(f"  sidecar   http://{stack.admin}/metrics")
    console.print(f"  ledger    {stack.ledger}")
    console.print(f"  Envoy     {stack.up.envoy.admin}")
    if not isinstance(stack.store, str):
        console.print(f"  Milvus    {stack.store.engine.uri}  (past the sidecar: the operator's view)")
    for engine in (*stack.engines, *stack.rollout_engines):
        console.print(f"  {engine.model} {engine.version}  {engine.record_url}  (what reached this engine)")
    table = Table("tenant", "tier", "rule", "key", title="\ntenants", title_justify="left")
    for plan in scenario.founding:
        table.add_row(plan.name, plan.tier, plan.rule, stack.keys[plan.name])
    for name, tier in scenario.crowd.items():
        table.add_row(name, tier, "no rule: split", stack.keys[name])
    if not isinstance(stack.store, str):
        for name, tier in TIERS.items():
            table.add_row(name, tier, "no rule: stable", stack.keys[name])
    console.print(table)
    console.print("\nWhat was used, and what it costs (a tenant reads its own: --token-file with its key):\n")
    for command in ("usage", "invoice"):
        told = f"  .venv/bin/tenantry {command} --ledger {stack.ledger} --token-file {stack.secrets / ADMIN_TOKEN}"
        console.print(told, markup=False, soft_wrap=True)
    if scenario.rollouts:
        console.print("\nWhere the rollouts stand:\n")
        told = f"  .venv/bin/tenantry rollout status --admin {stack.admin} --secrets {stack.secrets}"
        console.print(told, markup=False, soft_wrap=True)
    if not isinstance(stack.store, str):
        console.print("\nA vector store of its own, as it seems to each tenant (pymilvus):\n")
        told = f'  MilvusClient("{stack.base_url}", token="{stack.keys[TENANT]}").list_collections()'
        console.print(told, markup=False, soft_wrap=True)
    console.print("\nA streamed answer for acme:\n")
    console.print(_curl(stack, "acme"), markup=False, soft_wrap=True)
    console.print("\nhooli claims to be acme; the engine's record shows who it was:\n")
    forged = "".join(f" -H '{name}: {value}'" for name, value in FORGED_HEADERS[:1])
    console.print(_curl(stack, "hooli", forged), markup=False, soft_wrap=True)
    console.print(f"  curl -s '{stack.engines[0].record_url}' | tail -c 1500\n", markup=False, soft_wrap=True)


def _curl(stack: Stack, tenant: str, extra: str = "") -> str:
    body = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "Hello"}]})
    return (
        f"  curl -N {stack.base_url}/v1/chat/completions -H 'Authorization: Bearer {stack.keys[tenant]}'{extra} \\\n"
        f"       -H 'content-type: application/json' -d '{body}'"
    )
