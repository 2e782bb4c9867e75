"""How the sidecar's stamp is read back inside vLLM."""

import pytest
from tenantry_vllm.stamp import Stamp, read_stamp

ID = "0123456789abcdef0123456789abcdef"


def test_generating_routes_carry_it_in_extra_args() -> None:
    arguments = {"tenant": "acme", "request_id": ID, "version": "1.4.0", "adapter": "acme-support", "other": 1}
    assert read_stamp("chatcmpl-whatever", arguments) == Stamp(
        tenant="acme", request_id=ID, version="1.4.0", adapter="acme-support"
    )


@pytest.mark.parametrize("tenant", ["acme", "a", "acme-1", "org_7.eu-west", "x" * 63])
@pytest.mark.parametrize("around", ["embd-{}-0-1a2b3c4d", "embd-{}-0", "pool-{}", "resp_{}-1a2b3c4d"])
def test_pooling_routes_carry_it_in_the_engine_request_id(tenant: str, around: str) -> None:
    assert read_stamp(around.format(f"{tenant}:{ID}"), None) == Stamp(tenant=tenant, request_id=ID)


@pytest.mark.parametrize(
    "foreign", ["embd-0a1b", f"embd-:{ID}-0", f"embd-acme:{ID[:-1]}-0", f"embd-acme:{ID}0", f"acme:{ID}", ""]
)
def test_a_request_that_did_not_come_through_the_sidecar_has_none(foreign: str) -> None:
    assert read_stamp(foreign, None) is None
    assert read_stamp(foreign, {"tenant": 7, "request_id": ID}) is None
