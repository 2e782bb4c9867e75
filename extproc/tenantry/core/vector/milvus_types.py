"""What a tenant may say of its own fields and indexes: sizes, built-in analyzers, how an index is built.

Milvus's analyzers can name files, downloads and services of the operator's network (dictionaries, a tokenizer behind
gRPC), so an analyzer is read whole and made of what is known.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from tenantry.core.errors import BadRequestError
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.milvus_wire import MAX_PARAMETERS, MAX_VALUE_CHARACTERS

INDEX_BUILD_PARAMETERS = frozenset(
    {
        "index_type",
        "metric_type",
        "M",
        "efConstruction",
        "nlist",
        "m",
        "nbits",
        "refine",
        "refine_type",
        "sq_type",
        "with_raw_data",
        "intermediate_graph_degree",
        "graph_degree",
        "build_algo",
        "cache_dataset_on_device",
        "adapt_for_cpu",
        "drop_ratio_build",
        "inverted_index_algo",
        "bm25_k1",
        "bm25_b",
        "bm25_avgdl",
        "bitmap_cardinality_limit",
        "min_gram",
        "max_gram",
        "mmap.enabled",
    }
)
"""How an index is built. None of them names a file, a service or another collection."""

PATH_INDEX_PARAMETERS = frozenset({"json_path", "json_cast_type", "json_cast_function"})
"""Over gRPC alone: which member of a JSON field an index is for."""

_SIZE = re.compile(r"[0-9]{1,10}")
_FLAG = re.compile(r"(?i:true|false)")
_TYPE_PARAMETERS = {
    "max_length": _SIZE,
    "dim": _SIZE,
    "max_capacity": _SIZE,
    "enable_analyzer": _FLAG,
    "enable_match": _FLAG,
    "mmap.enabled": _FLAG,
}

Word = Annotated[str, Meta(pattern="^[A-Za-z0-9_]{1,64}$")]


class AnalyzerPart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A built-in tokenizer or filter with its own words and bounds."""

    type: Word
    stop_words: list[str] = []
    max: int | None = None
    min: int | None = None
    language: Word | None = None


class Analyzer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How text becomes words: a built-in analyzer, or built-in parts."""

    type: Word | None = None
    tokenizer: Word | AnalyzerPart | None = None
    filter: Annotated[list[Word | AnalyzerPart], Meta(max_length=32)] = []
    stop_words: list[str] = []


_analyzers = msgspec.json.Decoder(Analyzer)
_members = msgspec.json.Decoder(dict[str, bool | int | float | str | None])
_encode = msgspec.json.Encoder().encode


def check_type_parameters(field: pb.FieldSchema) -> None:
    """Check the parameters of a new field's type; write its analyzer anew."""
    for pair in _once(field.type_params, "type_params"):
        if pair.key == "analyzer_params":
            try:
                pair.value = _encode(_analyzers.decode(pair.value)).decode()
            except (msgspec.MsgspecError, RecursionError):
                raise BadRequestError(
                    "invalid_schema", "analyzer_params may name built-in parts, stop words and lengths.", param="schema"
                ) from None
            continue
        allowed = _TYPE_PARAMETERS.get(pair.key)
        if allowed is None or allowed.fullmatch(pair.value) is None:
            raise BadRequestError(
                "parameter_not_allowed",
                f"A parameter of a field's type is not one of {', '.join(_TYPE_PARAMETERS)}, analyzer_params, or has "
                "another value than a number or a flag.",
                param="schema",
            )


def check_index_parameters(pairs: Sequence[pb.KeyValuePair]) -> None:
    """Check how an index is to be built; parameters may be pairs, or members of the JSON in `params`."""
    for pair in _once(pairs, "extra_params"):
        names: Iterable[str] = (pair.key,)
        if pair.key == "params":
            try:
                names = _members.decode(pair.value or "{}")
            except (msgspec.MsgspecError, RecursionError):
                raise BadRequestError(
                    "invalid_parameter", '"params" is not a JSON object of numbers, texts and flags.',
                    param="extra_params",
                ) from None  # fmt: skip
        if any(name not in INDEX_BUILD_PARAMETERS and name not in PATH_INDEX_PARAMETERS for name in names):
            raise BadRequestError(
                "parameter_not_allowed", "A parameter of the index is not one of those allowed.", param="extra_params"
            )


def _once(pairs: Sequence[pb.KeyValuePair], param: str) -> Sequence[pb.KeyValuePair]:
    if len(pairs) > MAX_PARAMETERS or len({pair.key for pair in pairs}) != len(pairs):
        raise BadRequestError("invalid_parameter", f"{param} has too many parameters, or one twice.", param=param)
    if any(len(pair.value) > MAX_VALUE_CHARACTERS for pair in pairs):
        raise BadRequestError("invalid_parameter", f"A value in {param} is too long.", param=param)
    return pairs
