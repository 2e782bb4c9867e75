"""Request bodies: what is read, what is refused, and what an engine gets (invariant 2)."""

import json
import time
from typing import Any

import pytest
from tenantry.core import chat
from tenantry.core.chat import Api
from tenantry.core.errors import BadRequestError
from tenantry.core.tenant import Proof, Tenant
from tenantry_testing.documents import book, decision, keyring
from tenantry_testing.exchanges import REQUEST_ID

RULES = book({"tenants.globex.adapters": {"embed": "globex-search"}})
SALT = {name: keyring().salt_for(name) for name in ("acme", "globex")}


def tenant(name: str) -> Tenant:
    profile = RULES.profile(name)
    assert profile is not None
    return Tenant(profile=profile, proof=Proof(kind="api_key"))


def stamped(body: bytes, *, api: Api = Api.CHAT, name: str = "acme") -> bytes:
    read = chat.read(body)
    who = tenant(name)
    chosen = decision(who.profile, read.model, RULES.rules)
    return chat.stamp(read, api=api, tenant=who, decision=chosen, keyring=keyring(), request_id=REQUEST_ID)


def stamp(api: Api, name: str, **members: object) -> Any:
    return json.loads(stamped(json.dumps({"model": "chat-8b"} | members).encode(), api=api, name=name))


def test_what_the_engine_gets() -> None:
    sent = b'{"model":"chat-8b", "messages": [{"content":"h\\u00e9 \xc3\xa9"}],\n"temperature":0.10,"seed":1e2}'
    assert stamped(sent) == (
        b'{"model":"chat-served","messages":[{"content":"h\\u00e9 \xc3\xa9"}],"temperature":0.10,"seed":1e2,'
        b'"cache_salt":"%s","vllm_xargs":{"tenant":"acme","version":"1.4.0","request_id":"%s"}}'
    ) % (SALT["acme"].encode(), REQUEST_ID.encode())


@pytest.mark.parametrize("api", [Api.CHAT, Api.COMPLETIONS])
def test_on_the_generating_routes(api: Api) -> None:
    assert stamp(api, "globex", stream=True) == {
        "model": "chat-served",  # globex is a beta tenant: the candidate, by the name that its engine serves
        "stream": True,
        "cache_salt": SALT["globex"],
        "vllm_xargs": {"tenant": "globex", "version": "1.5.0", "request_id": REQUEST_ID},
    }


def test_on_responses_nothing_is_stored() -> None:
    assert stamp(Api.RESPONSES, "acme", input="Hi", store=True) == {
        "model": "chat-served",
        "input": "Hi",
        "store": False,
        "cache_salt": SALT["acme"],
        "vllm_xargs": {"tenant": "acme", "version": "1.4.0", "request_id": REQUEST_ID},
    }
    assert stamp(Api.RESPONSES, "acme")["store"] is False  # its default is true


def test_embeddings_have_no_vllm_xargs() -> None:
    assert stamp(Api.EMBEDDINGS, "acme", model="embed", input="Hi", vllm_xargs={"tenant": "globex"}) == {
        "model": "embed",
        "input": "Hi",
        "cache_salt": SALT["acme"],
    }


def test_an_adapter_answers_for_the_model() -> None:
    made = stamp(Api.COMPLETIONS, "globex", model="embed")
    assert made["model"] == "globex-search"
    assert made["vllm_xargs"]["adapter"] == "globex-search"


FORGED: dict[str, object] = {
    "cache_salt": SALT["globex"],
    "priority": -1000,
    "vllm_xargs": {"tenant": "globex", "extra": 1},
    "request_id": "globex:" + REQUEST_ID,
    "session_id": "globex",
    "store": True,
}


@pytest.mark.parametrize("api", Api)
@pytest.mark.parametrize("name", FORGED)
def test_what_a_client_may_not_choose_is_overwritten(api: Api, name: str) -> None:
    """Invariant 2."""
    assert stamp(api, "acme", **{name: FORGED[name]}) == stamp(api, "acme")
    assert stamp(api, "globex", **{name: FORGED[name]}) == stamp(api, "globex")


@pytest.mark.parametrize("name", chat.REFUSED_MEMBERS)
def test_what_reaches_state_that_tenants_share_is_refused(name: str) -> None:
    values: tuple[object, ...] = ("resp_1", True, {}, [], 0, "")
    for value in values:
        with pytest.raises(BadRequestError, match=f"'{name}' is not supported here: ") as caught:
            stamp(Api.RESPONSES, "acme", **{name: value})
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", name)


@pytest.mark.parametrize("name", chat.REFUSED_MEMBERS)
def test_unless_it_says_no(name: str) -> None:
    assert stamp(Api.CHAT, "acme", **{name: None}) == stamp(Api.CHAT, "acme")
    assert stamp(Api.CHAT, "acme", **{name: False}) == stamp(Api.CHAT, "acme")


def test_members_that_are_refused_are_those() -> None:
    assert set(chat.REFUSED_MEMBERS) == {
        "previous_response_id", "conversation", "background", "kv_transfer_params", "ec_transfer_params",
    }  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"null", b"[]", b'"model"', b"7", b"{", b'{"model":"chat-8b"', b'{"model":"chat-8b",}',
        b"{'model':'x'}",
        b'{"model":"chat-8b"} x', b'{"model":"chat-8b"}{}', b'\xef\xbb\xbf{"model":"chat-8b"}',
        b'{"model":"chat-8b","x":\xff}',
        '{"model":"chat-8b"}'.encode("utf-16"), b'{"model":"\xed\xa0\x80"}', b'{"model":"m","x":"\xff"}',
        b'{"m":"\\ud800"}',
        b'{"model":"m","x":NaN}', b'{"model":"m","x":01}', b'{"model":"m","x":"\n"}', b'{"model":"m","x":[1,]}',
        b'{"model":m}',
        b'{"model":"m","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b"model=chat-8b", b"\x00" * 100,
    ],
)  # fmt: skip
def test_a_body_that_is_no_json_object(body: bytes) -> None:
    with pytest.raises(BadRequestError) as caught:
        chat.read(body)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{}", "missing_model"),
        (b'{"x":{"model":"chat-8b"}}', "missing_model"),
        (b'{"model":null}', "invalid_model"),
        (b'{"model":["chat-8b"]}', "invalid_model"),
        (b'{"model":"%s"}' % (b"x" * 513), "invalid_model"),
    ],
)
def test_a_body_that_names_no_model(body: bytes, code: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        chat.read(body)
    assert (caught.value.code, caught.value.param) == (code, "model")


def test_a_name_may_be_long_and_written_with_escapes() -> None:
    assert chat.read(b'{"model":"%s"}' % (b"x" * 512)).model == "x" * 512
    assert chat.read(b'{"model":"\\u0063hat-8b"}').model == "chat-8b"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","model":"a"}',
        b'{"model":"a","x":1,"model":"a"}',
        b'{"x":1,"x":1,"model":"a"}',
        b'{"x":12,"x":1,"model":"a"}',  # the last value is how the first one begins
        b'{"model":"a","x":12,"x":1}',
        b'{"model":"a","x":1 ,"x":1 }',
        b'{"model":"a","x":{},"y":1,"x":{}}',
        b'{"model":"a","x":1,"y":1,"y":1,"x":1}',
        b'{ "model" : "a" ,\n\t"model"\r: "a" }',
        b'{"model":"a","":1,"":1}',
        b'{"model":"a","\xc3\xa9":1,"\xc3\xa9":1}',
        b'{"model":"a","vllm_xargs":1,"vllm_xargs":2}',
        # the same key for one reader, another for a careless one
        b'{"\\u006dodel":"a"}',
        b'{"model":"a","m\\u006fdel":"b"}',
        b'{"model":"a","\\u00e9":1,"\xc3\xa9":1}',
        b'{"model":"a","x\\/y":1}',
        b'{"model":"a","x\\"":1}',
        # each of these got past one of the checks while another was taken out
        b'{"model":"a","":{},"":0}',
        b'{"model":"a","\\u0061}}":1}',
        b'{"model":"a","\\u0061:1}x":1}',
    ],
)
def test_a_key_that_two_readers_could_understand_differently(body: bytes) -> None:
    with pytest.raises(BadRequestError) as caught:
        chat.read(body)
    assert caught.value.code == "ambiguous_keys"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a"}',
        b' \r\n\t{ \n"model"\t:\r"a" , "x" : [ 1 , 2 ] } \n',
        b'{"model":"a","x":"\\"model\\":"}',
        b'{"model":"a","x":{"model":"b","model":"c"}}',  # deeper down nothing is ours
        b'{"x":",\\"x\\":1","model":"a","X":1,"x ":1}',
        b'{"":{},"\x7f":"}","model":"a"}',
        '{"model":"a","\u65e5\u672c":1,"\U0001f600":[]}'.encode(),
    ],
)
def test_whatever_else_is_in_a_body_is_not_our_business(body: bytes) -> None:
    assert chat.read(body).model == "a"


@pytest.mark.parametrize("padding", [b"", b"x" * 100_000])  # large bodies are counted while they are read
def test_members_have_a_bound(padding: bytes) -> None:
    members = b'"model":"a","user":"%s",' % padding + b",".join(b'"m%d":1' % number for number in range(998))
    assert len(chat.read(b"{" + members + b"}").members) == 1000
    with pytest.raises(BadRequestError) as caught:
        chat.read(b"{" + members + b',"one more":1}')
    assert caught.value.code == "too_many_members"


def test_a_large_body_is_read_as_a_small_one_is() -> None:
    padding = b"x" * 100_000
    large, small = (stamped(b'{"model":"chat-8b","user":"%s","store":true}' % each) for each in (padding, b"xyz"))
    assert large == small.replace(b"xyz", padding)
    with pytest.raises(BadRequestError) as caught:
        chat.read(b'{"model":"a","user":"%s","model":"a"}' % padding)
    assert caught.value.code == "ambiguous_keys"


@pytest.mark.parametrize(
    "body", [b"{" + b" " * 8_000_000 + b'"model":"a"}', b'{"model":"a","messages":"%s"}' % (b"x" * 8_000_000)]
)
def test_a_large_body_does_not_hold_the_others_up(body: bytes) -> None:
    """White space was once skipped byte by byte: a second for ten megabytes, in which nobody got an answer."""
    begin = time.process_time()
    chat.read(body)
    assert time.process_time() - begin < 0.3


def test_the_engines_request_id_names_the_tenant() -> None:
    assert chat.engine_request_id(tenant("acme"), REQUEST_ID) == f"acme:{REQUEST_ID}"


def media(part: str) -> bytes:
    return f'{{"model": "m", "messages": [{{"role": "user", "content": [{part}]}}]}}'.encode()


@pytest.mark.parametrize("spelled", ["uuid", "u\\u0075id", "uu\\u0069d", "uui\\u0064", "\\u0075\\u0075\\u0069\\u0064"])
def test_a_media_uuid_is_refused(spelled: str) -> None:
    """vLLM keys its media caches by the bare uuid, for all tenants: one could ask about another's image."""
    with pytest.raises(BadRequestError) as caught:
        chat.read(media(f'{{"type": "image_url", "image_url": null, "{spelled}": "acme-invoice-1"}}'))
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "messages")


@pytest.mark.parametrize("part", ['{"type": "text", "text": "\\"uuid\\" \\u0075"}', '{"type": "text", "uuid": null}'])
def test_the_word_uuid_is_not(part: str) -> None:
    assert chat.read(media(part)).model == "m"


@pytest.mark.parametrize(
    "name", ["Cache_Salt", "PRIORITY", "vllm-xargs", "cache_salt ", "Model", "Previous_Response_Id"]
)
def test_a_name_that_resembles_one_of_ours_is_refused(name: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        chat.read(json.dumps({"model": "m", name: 1}).encode())
    assert caught.value.code == "ambiguous_keys"


def test_a_million_members_cost_no_more_than_a_thousand() -> None:
    """They are refused while they are read: the last bytes are no JSON, and nobody gets to see that."""
    body = b"{" + b",".join(b'"%07d":0' % number for number in range(1_000_000)) + b",!"
    with pytest.raises(BadRequestError) as caught:
        chat.read(body)
    assert caught.value.code == "too_many_members"


def read(**members: object) -> chat.ChatBody:
    return chat.read(json.dumps({"model": "chat-8b", **members}).encode())


@pytest.mark.parametrize(
    ("written", "streams"),
    [
        ('"stream":true', True),
        ('"stream" :\n true ', True),
        ('"stream":false', False),
        ('"stream":null', False),
        ('"stream":"true"', False),  # an engine may take it for one: then it has a whole answer's time
        ('"stream":1', False),
        ('"stream_options":{"stream":true}', False),
        ('"messages":[{"content":"stream: true"}]', False),
    ],
)
def test_what_asks_for_a_stream(written: str, streams: bool) -> None:
    assert chat.read(f'{{"model":"chat-8b",{written}}}'.encode()).streams is streams


USER, ASSISTANT = ({"role": role, "content": "Hi"} for role in ("user", "assistant"))


@pytest.mark.parametrize(
    ("members", "has_past"),
    [
        ({"messages": [USER]}, False),
        ({"messages": [USER, ASSISTANT, USER]}, True),
        ({"input": [ASSISTANT, USER]}, True),  # of /v1/responses
        ({"input": "Hi"}, False),
        ({"prompt": 'say "role": "assistant"'}, False),
        ({"messages": [USER | {"content": 'what is "role": "assistant"?'}]}, False),  # quotes in a text are escaped
        ({"messages": [USER | {"name": "assistant"}]}, False),
        ({"metadata": ASSISTANT}, False),
        ({}, False),
    ],
)
def test_a_conversation_that_has_answers_already(members: dict[str, object], has_past: bool) -> None:
    assert read(**members).has_past is has_past
    indented = json.dumps({"model": "chat-8b", **members}, indent=2, separators=(" ,", " : "))
    assert chat.read(indented.encode()).has_past is has_past


def test_a_past_is_looked_for_in_the_beginning_only() -> None:
    """A body may have ten megabytes; who hides it there has its own latency judged a visit early."""
    long = USER | {"content": "x" * 64 * 1024}
    assert read(messages=[ASSISTANT, long]).has_past
    assert not read(messages=[long, ASSISTANT]).has_past
