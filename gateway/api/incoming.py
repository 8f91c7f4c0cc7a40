"""A request's body on its way in: read when somebody asks for it, whole, within its bounds.

Nothing of a body is kept before it is known who sends it. What all bodies hold together is bound
as well, and each tenant to a half of that.
"""

from __future__ import annotations

from functools import partial

import anyio
from starlette.types import Message, Receive, Scope

from clients.aside import aside
from gateway.configuration import ListenSettings
from gateway.gateway_errors import BodyTimeout, BodyTooLarge, Overloaded
from gateway.interfaces import Principal
from gateway.open_access import LOCAL
from gateway.visit import Visit

_SILENCE_S = 1.0
"""After how long nothing more is expected of a body that is not read."""
_SHORT_BYTES = 64 << 10
"""The rest of so short a body is taken off the connection, which then goes on."""


class Held:
    """The bytes of all bodies that the gateway has."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._of_tenants: dict[str, int] = {}

    @property
    def total(self) -> int:
        """How many they are now."""
        return self._bytes

    def take(self, tenant: str, count: int) -> None:
        """Hold some more; of nobody's where the tenant is empty.

        Raises:
            Overloaded: There is no room.
        """
        of_tenant = self._of_tenants.get(tenant, 0) + count
        if self._bytes + count > self._most or (tenant and of_tenant > self._most // 2):
            raise Overloaded(
                "requests that are under way hold all the memory that there is for bodies",
                retry_after_s=1.0,
            )
        self._bytes += count
        if of_tenant:
            self._of_tenants[tenant] = of_tenant

    def give_back(self, tenant: str, count: int) -> None:
        """Hold them no longer."""
        self._bytes -= count
        left = self._of_tenants.pop(tenant, 0) - count
        if left:
            self._of_tenants[tenant] = left


def tenant_of(principal: Principal | None) -> str:
    """Whose bytes they are; nobody's where it isn't known who asks, or everybody is the same."""
    return "" if principal is None or principal == LOCAL else principal.tenant


class Incoming:
    """One request's body."""

    def __init__(
        self, scope: Scope, receive: Receive, visit: Visit, settings: ListenSettings, held: Held
    ) -> None:
        headers = dict(scope["headers"])
        self._announced = int(headers.get(b"content-length", b"0"))  # the server has checked it
        self._chunked = b"transfer-encoding" in headers
        self._expects = b"expect" in headers
        self._receive = receive
        self._visit = visit
        self._settings = settings
        self._held = held
        self._tenant: str | None = None
        self._size = 0
        self._begun = self._is_hopeless = False
        self._more = self._chunked or self._announced > 0

    @property
    def unread(self) -> bool:
        """Whether some of it is still to come."""
        return self._more

    async def receive(self) -> Message:
        """All of it at first, and then what else happens to the connection.

        Raises:
            BodyTooLarge: It is too long.
            BodyTimeout: It did not come in time.
            Overloaded: There is no room for it now.
        """
        if self._begun:
            return await self._receive()
        self._begun = True
        return await self._read()

    async def drop(self) -> None:
        """Take what still comes off the connection, for a while, and keep none of it.

        Were the connection closed at once, the kernel would answer what comes with a reset, and
        a client that sends all before it reads would lose the answer.
        """
        if self._is_hopeless:
            return
        with anyio.move_on_after(self._settings.body_timeout_s):
            while self._more:
                more = False
                with anyio.move_on_after(_SILENCE_S):
                    more = (await self._receive()).get("more_body", False)
                    self._more = more
                if not more:
                    return

    async def drop_short(self) -> None:
        """The same before an answer, where it is short: the connection can go on then."""
        if not self._chunked and not self._expects and self._announced <= _SHORT_BYTES:
            await self.drop()

    def release(self) -> None:
        """It is needed no longer."""
        if self._tenant is not None:
            self._held.give_back(self._tenant, self._size)
            self._tenant = None

    async def _read(self) -> Message:
        limit = self._settings.max_body_bytes
        if self._announced > limit:
            raise BodyTooLarge(f"the body has {self._announced} bytes; {limit} are read")
        tenant = self._tenant = tenant_of(self._visit.principal)
        pieces: list[bytes] = []
        try:
            with anyio.fail_after(self._settings.body_timeout_s):
                while self._more:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        self._more = False
                        return message
                    piece = message.get("body", b"")
                    self._more = message.get("more_body", False)
                    if self._size + len(piece) > limit:
                        raise BodyTooLarge(f"the body has more than {limit} bytes")
                    self._held.take(tenant, len(piece))
                    self._size += len(piece)
                    pieces.append(piece)
        except TimeoutError:
            self._is_hopeless = True
            raise BodyTimeout(
                f"the body was not complete after {self._settings.body_timeout_s:g} s"
            ) from None
        body = await aside(partial(b"".join, pieces), num_bytes=self._size)
        return {"type": "http.request", "body": body, "more_body": False}
