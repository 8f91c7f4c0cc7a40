"""What the gateway answers when it doesn't answer: its errors as a small tree.

GatewayError
├── InvalidRequest         a field is wrong, or asks for what isn't there   400
├── AuthenticationError    who asks is not known                            401
├── PermissionDenied       known, and may not do this                       403
├── ModelNotFound          no such model                                    404
├── NotKept                an answer that isn't kept, or no longer          404
├── BodyTimeout            the request didn't arrive in time                408
├── BodyTooLarge           a longer body than is read                       413
├── LimitExceeded          a rate or a quota is used up                     429
├── HeadersTooLarge        more headers than are read                       431
├── GenerationFailed       a model took the request and failed              502
├── Overloaded             no room, or the deadline can't be met            503
├── Unavailable            nobody is there who could answer                 503
├── IdentityUnavailable    who asks can't be found out now                  503
├── LimitsUnavailable      what is used up can't be found out now           503
├── AuditUnavailable       what can't be audited isn't served               503
└── DeadlineExceeded       the answer wasn't there in time                  504

Each carries a code of the contract and the HTTP status; how an API says it is the API's own
(`gateway.api.error_objects`). A message is written for the one who asked: it names the field and
the bound, never the inside of the gateway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from contract.codes import ErrorCode
from contract.errors import TriremeError


class GatewayError(TriremeError):
    """Base of every error that ends a request with an answer of its own.

    Attributes:
        message: What to tell the one who asked.
        status: The HTTP status.
        code: What kind of error it is, a word that programs can compare.
        param: The request's field that is to blame, in its API's words; None where none is.
        input_name: The ensemble's input that is to blame, where a model said so; each API has its
            own word for it.
        headers: HTTP headers that the answer carries.
        shown: Tenant, application and public id of the credential that was refused, as far as they
            are known; None where there was none.
    """

    status = 500
    code: ErrorCode | None = None
    shown: tuple[str, str, str] | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        input_name: str | None = None,
        code: ErrorCode | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.input_name = input_name
        self.headers = dict(headers or {})
        if code is not None:
            self.code = code


class InvalidRequest(GatewayError):  # noqa: N818 - OpenAI's word is invalid_request_error
    """A field is missing, wrong, or asks for what isn't supported; the message names it."""

    status = 400


class NotKept(GatewayError):  # noqa: N818 - says what happened
    """No answer of that id is kept, for this tenant."""

    status = 404
    code: ErrorCode | None = "previous_response_not_found"


class ModelNotFound(GatewayError):  # noqa: N818 - says what happened
    """No model has that name, for this tenant."""

    status = 404
    code: ErrorCode | None = "model_not_found"


class BodyTimeout(GatewayError):  # noqa: N818 - says what happened
    """The request's body took too long to arrive."""

    status = 408
    code: ErrorCode | None = "request_timeout"


class BodyTooLarge(GatewayError):  # noqa: N818 - says what happened
    """The request's body is longer than the gateway reads."""

    status = 413
    code: ErrorCode | None = "request_too_large"


class HeadersTooLarge(GatewayError):  # noqa: N818 - says what happened
    """The request's headers are longer than the gateway reads."""

    status = 431
    code: ErrorCode | None = "headers_too_large"


class GenerationFailed(GatewayError):  # noqa: N818 - says what happened
    """A model took the request and failed to answer it, or to finish."""

    status = 502
    code: ErrorCode | None = "generation_failed"


class Overloaded(GatewayError):  # noqa: N818 - says what happened
    """There is no room for the request, or none in time; nothing was done for it."""

    status = 503
    code: ErrorCode | None = "overloaded"

    def __init__(
        self, message: str, *, retry_after_s: float, code: ErrorCode | None = None
    ) -> None:
        retry_after = str(max(1, math.ceil(retry_after_s)))
        super().__init__(message, code=code, headers={"retry-after": retry_after})


class Unavailable(GatewayError):  # noqa: N818 - says what happened
    """No upstream is there that could answer; a probe may find one in a moment."""

    status = 503
    code: ErrorCode | None = "unavailable"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"retry-after": "1"})


class DeadlineExceeded(GatewayError):  # noqa: N818 - says what happened
    """The request's deadline passed before its answer was complete."""

    status = 504
    code: ErrorCode | None = "deadline_exceeded"


class AuthenticationError(GatewayError):
    """No credential, or one that nobody has."""

    status = 401
    code: ErrorCode | None = "invalid_api_key"


class PermissionDenied(GatewayError):  # noqa: N818 - the field's word, as in gRPC
    """The credential is good and doesn't reach so far."""

    status = 403
    code: ErrorCode | None = "permission_denied"


class IdentityUnavailable(GatewayError):  # noqa: N818 - says what happened
    """The database of keys, or the identity provider, doesn't answer."""

    status = 503
    code: ErrorCode | None = "identity_unavailable"


class LimitExceeded(GatewayError):  # noqa: N818 - says what happened
    """A rate, a quota or the number of concurrent requests is used up.

    Attributes:
        limit: The limit's name, such as ``requests_per_minute``.
        retry_after_s: When a try may succeed.
    """

    status = 429
    code: ErrorCode | None = "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        limit: str,
        retry_after_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, headers=headers)
        self.limit = limit
        self.retry_after_s = retry_after_s


class LimitsUnavailable(GatewayError):  # noqa: N818 - says what happened
    """What is used up can't be told, so nothing is given out."""

    status = 503
    code: ErrorCode | None = "limits_unavailable"


class AuditUnavailable(GatewayError):  # noqa: N818 - says what happened
    """The audit log can't take another record, so no request is taken in."""

    status = 503
    code: ErrorCode | None = "audit_unavailable"
