"""What the administrator's commands work on: the database and the audit log of a configuration."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Engine

from contract.settings_base import SettingsError, load
from gateway.admin.operations import Administration
from gateway.audit.audit_settings import AuditSettings
from gateway.audit.keys import AuditKeys
from gateway.audit.log import FileAuditLog, key_path
from gateway.configuration import Configuration
from gateway.database import open_database
from gateway.tenants.directory import Directory
from gateway.usage.ledger import Ledger

T = TypeVar("T")


class Workplace:
    """What the commands work on, opened as they need it."""

    def __init__(self, config: Path) -> None:
        self._config = config

    @cached_property
    def _configuration(self) -> Configuration:
        return load(Configuration, self._config)

    @property
    def actor(self) -> str:
        """Who the audit log says did it."""
        return f"command:{getpass.getuser()}"

    def engine(self) -> Engine:
        """The database.

        Raises:
            SettingsError: The configuration names none.
        """
        if self._configuration.database is None:
            raise SettingsError("the configuration names no database: set `database`")
        return open_database(self._configuration.database.get_secret_value())

    def audit(self) -> AuditSettings:
        """The audit log's settings.

        Raises:
            SettingsError: The configuration names none.
        """
        if self._configuration.audit is None:
            raise SettingsError("the configuration names no audit log: set `audit.directory`")
        return self._configuration.audit

    def audit_keys(self) -> AuditKeys:
        """The keys of the audit log's digests and chains."""
        return AuditKeys.load(key_path(self.audit()))

    def ledger(self) -> Ledger | None:
        """The sums of the audit log, where there are both."""
        if self._configuration.database is None or self._configuration.audit is None:
            return None
        settings = self._configuration.audit
        keys = AuditKeys.load_or_create(key_path(settings))  # nobody may have opened the log yet
        return Ledger(self.engine(), settings.directory, keys)

    def directory(self) -> Directory:
        """Tenants, keys and admins, to look at."""
        return Directory(self.engine())

    def change(self, make: Callable[[Administration], Awaitable[T]]) -> T:
        """Make a change, which goes into the audit log where there is one."""

        async def run() -> T:
            settings = self._configuration.audit
            log = None if settings is None else FileAuditLog.open(settings)
            try:
                return await make(Administration(self.engine(), log))
            finally:
                if log is not None:
                    await log.close()

        return asyncio.run(run())
