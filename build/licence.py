"""Whether a checkpoint's licence allows what a recipe does with it.

The licence is read from the model card (the front matter of ``README.md``) and recognised in the
text of licence files; the two must not contradict each other. It goes by its SPDX identifier, or by
``LicenseRef-`` and Hugging Face's name where SPDX has none. The policy decides; a licence that is
unknown or not allowed stops the build, unless the recipe overrides that and says why.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from build.build_errors import LicenceError

UNKNOWN = "NOASSERTION"
"""SPDX's word for a licence that nobody has stated."""

# Hugging Face's identifiers that SPDX knows under another spelling.
_SPDX = {
    each.lower(): each
    for each in (
        "Apache-2.0 MIT BSD-2-Clause BSD-3-Clause ISC Zlib Unlicense CC0-1.0 CC-BY-4.0 "
        "CC-BY-SA-4.0 CC-BY-NC-4.0 CC-BY-NC-SA-4.0 CC-BY-NC-ND-4.0 CC-BY-ND-4.0 "
        "GPL-3.0-only LGPL-3.0-only AGPL-3.0-only MPL-2.0 OpenRAIL++"
    ).split()
} | {"gpl-3.0": "GPL-3.0-only", "agpl-3.0": "AGPL-3.0-only", "lgpl-3.0": "LGPL-3.0-only"}

# Words that only this licence's text has, all of them.
_TEXTS: dict[str, tuple[str, ...]] = {
    "Apache-2.0": ("Apache License", "Version 2.0, January 2004"),
    "MIT": ("Permission is hereby granted, free of charge", "THE SOFTWARE IS PROVIDED"),
    "BSD-3-Clause": ("Redistribution and use in source and binary forms", "Neither the name of"),
    "CC-BY-NC-4.0": ("Creative Commons Attribution-NonCommercial 4.0",),
    "LicenseRef-llama2": ("LLAMA 2 COMMUNITY LICENSE AGREEMENT",),
    "LicenseRef-llama3": ("META LLAMA 3 COMMUNITY LICENSE AGREEMENT",),
    "LicenseRef-llama3.1": ("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT",),
    "LicenseRef-llama3.2": ("LLAMA 3.2 COMMUNITY LICENSE AGREEMENT",),
    "LicenseRef-llama3.3": ("LLAMA 3.3 COMMUNITY LICENSE AGREEMENT",),
    "LicenseRef-gemma": ("Gemma Terms of Use",),
}
_FILES = ("LICENSE*", "LICENCE*", "COPYING*", "license*")
_PERMISSIVE = ("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Unlicense", "CC0-1.0")


class Override(BaseModel):
    """A person's decision to build nevertheless, kept in the manifest.

    Attributes:
        licence: What the checkpoint is taken to be licensed under.
        reason: Why that is right.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    licence: str = Field(min_length=1)
    reason: str = Field(min_length=10)


class LicencePolicy(BaseModel):
    """Which licences a recipe accepts.

    Attributes:
        allow: Identifiers; ``*`` stands for anything.
        deny: Identifiers that are refused even where ``allow`` has them.
        override: Takes the place of the checkpoint's licence and of the policy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow: tuple[str, ...] = _PERMISSIVE
    deny: tuple[str, ...] = ()
    override: Override | None = None


class LicenceFinding(BaseModel):
    """What the audit found, for the manifest.

    Attributes:
        licence: The licence.
        sources: What each file says.
        decision: What let the build go on.
        reason: A person's reason, where it was an override.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    licence: str
    sources: dict[str, str]
    decision: Literal["policy", "override"]
    reason: str | None = None


def audit(checkpoint: Path, policy: LicencePolicy) -> LicenceFinding:
    """Read a checkpoint's licence and hold it against a policy.

    Raises:
        LicenceError: The licence is unknown, contradictory or not allowed, and not overridden.
    """
    sources = _sources(checkpoint)
    if policy.override is not None:
        return LicenceFinding(
            licence=policy.override.licence,
            sources=sources,
            decision="override",
            reason=policy.override.reason,
        )
    stated = {licence for licence in sources.values() if licence != UNKNOWN}
    if len(stated) > 1:
        said = ", ".join(f"{file} says {licence}" for file, licence in sources.items())
        raise LicenceError(f"the licence of {checkpoint} is contradictory: {said}; {_ADVICE}")
    if not stated:
        where = f" ({', '.join(sources)} was not recognised)" if sources else ""
        raise LicenceError(f"the licence of {checkpoint} is unknown{where}; {_ADVICE}")
    licence = stated.pop()
    if any(fnmatchcase(licence, pattern) for pattern in policy.deny):
        raise LicenceError(f"the licence of {checkpoint} is {licence}, which licence.deny names")
    if not any(fnmatchcase(licence, pattern) for pattern in policy.allow):
        raise LicenceError(
            f"the licence of {checkpoint} is {licence}, and licence.allow has only "
            f"{', '.join(policy.allow)}; {_ADVICE}"
        )
    return LicenceFinding(licence=licence, sources=sources, decision="policy")


_ADVICE = (
    "LICENCE='IDENTIFIER: REASON', or licence.override in the recipe, takes the licence and the "
    "reason to build nevertheless"
)


def _sources(checkpoint: Path) -> dict[str, str]:
    """What each file of a checkpoint says about its licence."""
    sources = {}
    card = checkpoint / "README.md"
    if card.is_file():
        stated = _front_matter(card).get("license")
        if stated is not None:
            sources[card.name] = _from_card(_front_matter(card))
    for path in sorted({path for pattern in _FILES for path in checkpoint.glob(pattern)}):
        if path.is_file():
            sources[path.name] = _from_text(path.read_text(encoding="utf-8", errors="replace"))
    return sources


def _front_matter(card: Path) -> dict[str, Any]:
    """The YAML between the two ``---`` at the top of a model card."""
    text = card.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---\n"):
        return {}
    try:
        content = yaml.safe_load(text[4:].partition("\n---")[0])
    except yaml.YAMLError as error:
        raise LicenceError(
            f"the front matter of {card} is not YAML: {' '.join(str(error).split())}"
        ) from None
    return content if isinstance(content, dict) else {}


def _from_card(card: dict[str, Any]) -> str:
    stated = card["license"]
    stated = stated[0] if isinstance(stated, list) and len(stated) == 1 else stated
    if stated == "other" and card.get("license_name"):
        stated = card["license_name"]
    if not isinstance(stated, str) or stated in ("other", "unknown", ""):
        return UNKNOWN
    return _SPDX.get(stated.lower(), f"LicenseRef-{stated.lower()}")


def _from_text(text: str) -> str:
    flat = " ".join(text.split())
    found = [name for name, words in _TEXTS.items() if all(word in flat for word in words)]
    return found[0] if len(found) == 1 else UNKNOWN
