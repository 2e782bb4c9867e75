"""Every error tenantry raises on purpose; this docstring is the tree.

    TenantryError
    |-- RequestRefusedError     the client's fault: answered with a status, never forwarded
    |   |-- UnauthenticatedError    401  UNAUTHENTICATED
    |   |-- ForbiddenError          403  PERMISSION_DENIED
    |   |-- NotFoundError           404  PERMISSION_DENIED
    |   |-- MethodNotAllowedError   405  PERMISSION_DENIED
    |   |-- BadRequestError         400  INVALID_ARGUMENT
    |   |-- TooLargeError           413  INVALID_ARGUMENT
    |   |-- UnsupportedMediaError   415  INVALID_ARGUMENT
    |   |-- RateLimitedError        429  UNAVAILABLE         (later)
    |   |-- QuotaExhaustedError     429  PERMISSION_DENIED   (not in this billing period)
    |   |-- WithheldError           502  PERMISSION_DENIED   (a store's fault: its answer)
    |   `-- UnavailableError        503  UNAVAILABLE         (ours: try again)
    |-- ConversationError       Envoy's (or its configuration's) fault: the ext_proc stream ends with an error
    |-- RulesError              the operator's fault: a rules document that changes nothing
    `-- SecretsError            the operator's fault: key material missing or too weak

A refusal carries a text that is safe to show to the client (it never repeats a credential or a
prompt) and a `code` for logs and metrics. gRPC statuses are confined to three where trying again
is of no use, because clients such as pymilvus do so up to 75 times on most others.
"""

from enum import IntEnum
from typing import ClassVar

import msgspec


class GrpcStatus(IntEnum):
    """The gRPC status codes that tenantry answers with (grpc/grpc, doc/statuscodes.md)."""

    INVALID_ARGUMENT = 3
    PERMISSION_DENIED = 7
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class TenantryError(Exception):
    """Base of every error tenantry raises on purpose."""


class RequestRefusedError(TenantryError):
    """A request that is answered here and does not reach an upstream.

    `code` is a fixed word for logs, metrics and OpenAI's `error.code`; `param` names the field at
    fault in OpenAI's sense; `message` is shown to the client. `headers` go with the answer.
    """

    http_status: ClassVar[int]
    grpc_status: ClassVar[GrpcStatus]
    kind: ClassVar[str] = "invalid_request_error"

    def __init__(
        self, code: str, message: str, *, param: str | None = None, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.headers = headers

    def openai_body(self) -> bytes:
        """Return the JSON body in the shape that OpenAI's clients parse."""
        return msgspec.json.encode(
            {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}
        )


class UnauthenticatedError(RequestRefusedError):
    """No credential, an unknown one, or two that name different tenants."""

    http_status = 401
    grpc_status = GrpcStatus.UNAUTHENTICATED
    kind = "authentication_error"


class ForbiddenError(RequestRefusedError):
    """A verified tenant that may not do this."""

    http_status = 403
    grpc_status = GrpcStatus.PERMISSION_DENIED
    kind = "permission_error"


class NotFoundError(RequestRefusedError):
    """A path or model that does not exist for this tenant; the same answer whether others have it."""

    http_status = 404
    grpc_status = GrpcStatus.PERMISSION_DENIED


class MethodNotAllowedError(RequestRefusedError):
    """A known path with a method that is not on the allow-list."""

    http_status = 405
    grpc_status = GrpcStatus.PERMISSION_DENIED


class BadRequestError(RequestRefusedError):
    """A body or header that was not understood whole."""

    http_status = 400
    grpc_status = GrpcStatus.INVALID_ARGUMENT


class TooLargeError(RequestRefusedError):
    """A body beyond `limits.maxBodyBytes`."""

    http_status = 413
    grpc_status = GrpcStatus.INVALID_ARGUMENT


class UnsupportedMediaError(RequestRefusedError):
    """A content type or encoding that the sidecar cannot read, hence cannot check."""

    http_status = 415
    grpc_status = GrpcStatus.INVALID_ARGUMENT


class RateLimitedError(RequestRefusedError):
    """A tenant that has no room for this request at the moment; `Retry-After` says when to come again."""

    http_status = 429
    grpc_status = GrpcStatus.UNAVAILABLE
    kind = "rate_limit_exceeded"


class QuotaExhaustedError(RequestRefusedError):
    """A tenant that has spent its quota of the billing period."""

    http_status = 429
    grpc_status = GrpcStatus.PERMISSION_DENIED
    kind = "insufficient_quota"


class WithheldError(RequestRefusedError):
    """A store's answer that is not the tenant's, or could not be verified."""

    http_status = 502
    grpc_status = GrpcStatus.PERMISSION_DENIED
    kind = "server_error"


class UnavailableError(RequestRefusedError):
    """A store that cannot be used for the moment: the client may try again."""

    http_status = 503
    grpc_status = GrpcStatus.UNAVAILABLE
    kind = "server_error"


class ConversationError(TenantryError):
    """Envoy sent what the ext_proc conversation does not allow at this point.

    The transport ends the stream with an error status, and Envoy refuses the request
    (`failure_mode_allow: false`): invariant 4, never silently.
    """


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong with a document: where (`tenants.acme.tier`), what, and what would be right.

    `part` is the file of a document in parts, "" for one that is whole.
    """

    path: str
    message: str
    hint: str = ""
    part: str = ""

    def __str__(self) -> str:
        where = f"{self.part}: {self.path}".removesuffix(": ") if self.part else self.path or "(document)"
        return f"{where}: {self.message}" + (f"; {self.hint}" if self.hint else "")


class RulesError(TenantryError):
    """A rules document that was refused whole (invariant 9); `problems` has every reason found."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class SecretsError(TenantryError):
    """Key material that is missing, empty or too short; the message names the file, never its content."""
