"""The data-plane tests, through the Envoy pod that the chart renders: its init container, its sidecar, its Envoy.

The tests themselves are those of tests/dataplane; here is only the stack that they run against.
"""

import copy
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from dataplane.conftest import MAX_BODY_BYTES
from dataplane.harness import Edit, Files, Json, Stack, connection_manager, rules
from dataplane.pki import Issuer
from dataplane.test_backstop import (  # noqa: F401  # pytest collects what is named here
    Seam,
    mutate,
    seams,
    test_a_server_that_never_answers_is_given_up,
    test_nothing_passes_a_server_that_fails_to_answer,
    test_unmutated_all_three_pass_what_should_pass,
)
from dataplane.test_credentials import (  # noqa: F401
    test_a_doubtful_key_is_401,
    test_a_key_is_read_where_each_protocol_puts_it,
    test_a_tenant_with_an_entry_keeps_the_operators_tier,
    test_a_token_that_envoy_does_not_verify_is_an_unknown_key,
    test_a_verified_token_names_its_tenant,
    test_token_and_key_must_agree,
)
from dataplane.test_forgery import (  # noqa: F401
    test_a_forged_header_reaches_neither_upstream_nor_log,
    test_nor_in_trailers_of_a_chunked_body,
    test_nor_over_http2,
)
from dataplane.test_routes import (  # noqa: F401
    test_a_body_of_exactly_the_limit_passes_and_one_byte_more_is_413,
    test_ambiguous_framing_is_refused,
    test_what_an_engine_serves_beside_the_api_is_404,
)
from dataplane.test_streaming import (  # noqa: F401
    test_a_client_that_leaves_is_an_abort_and_the_engine_is_told,
    test_a_post_costs_two_messages_however_long_its_stream,
    test_an_event_arrives_while_the_next_is_not_there_yet,
    test_an_upstream_that_dies_is_a_failure,
    test_response_headers_come_before_the_first_token,
)
from dataplane.upstream import Upstream

from helm.drills import Release, bootstrap_of
from helm.toy_cluster.cluster import Pod, cluster
from helm.toy_cluster.containers import Image

pytestmark = pytest.mark.asyncio(loop_scope="session")

TAP = """
from tenantry.adapters.sidecar import Sidecar
take = Sidecar.access_log_message
def tap(self, message):
    with open({path!r}, "ab") as file:
        file.write(message)
    take(self, message)
Sidecar.access_log_message = tap
"""
"""What the sidecar's process runs first: access-log messages are kept as Envoy sends them."""

Running = tuple[Stack, Pod, Path]


@pytest.fixture(scope="session")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("idp"))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> AsyncIterator[Running]:
    """A release of the chart, installed by Helm 4, and its pod run."""
    files = Files(folder=tmp_path_factory.mktemp("release"))
    messages = files.folder / "access-log-messages"
    messages.touch()
    async with Upstream().running() as upstream, cluster(Image(prelude=TAP.format(path=str(messages)))) as here:
        document = rules(upstream, identity={"jwt": issuer.rules}, limits={"maxBodyBytes": MAX_BODY_BYTES})
        release = Release(cluster=here, helm="helm4", files=files)
        release.done(await release.install(document))
        async with release.running(upstream, document) as (stack, pod):
            yield stack, pod, messages


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(running: Running) -> Stack:
    """What the tests ask for."""
    return running[0]


class Messages:
    """The access-log messages so far, for whoever joins them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[bytes]:
        return iter([self._path.read_bytes()])

    def __len__(self) -> int:
        return self._path.stat().st_size


@pytest.fixture
def access_log(running: Running) -> Messages:
    return Messages(running[2])


def as_rendered(pod: Pod, files: Files, socket: str) -> Edit:
    """Put the pod's configuration in place of the generator's; only where it listens, and whom it asks, is another."""
    run = str(pod.volumes.folder_of("run"))
    text = json.dumps(bootstrap_of(pod)).replace(f"{run}/sidecar.sock", socket)
    rendered: Json = json.loads(text.replace(f"{run}/clusters", str(files.cds.parent)))
    assert str(files.cds) in text.replace(f"{run}/clusters", str(files.cds.parent))
    assert socket in text
    for listener in (rendered["admin"], *rendered["static_resources"]["listeners"]):
        if "socket_address" in listener.get("address", {}):
            listener["address"]["socket_address"]["port_value"] = 0

    processor = next(entry for entry in connection_manager(rendered)["http_filters"] if "ext_proc" in entry["name"])
    processor["typed_config"]["message_timeout"] = "1s"  # as those tests have it, to wait less

    def put(config: Json) -> None:
        config.clear()
        config |= copy.deepcopy(rendered)

    return put


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def seam(running: Running, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Seam]:
    """Three Envoys with the configuration that the pod's init container wrote."""

    def given(files: Files, socket: str) -> Edit:
        return as_rendered(running[1], files, socket)

    async with seams(tmp_path_factory.mktemp("seam"), given) as seamed:
        yield seamed
