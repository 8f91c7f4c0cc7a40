"""Safety policies as a typed YAML file: what to look for in prompts and answers, and what to do.

One file holds several policies, served side by side; a request names the one that holds for it. A
file is taken as a whole or not at all: a misspelt key, a pattern that can't be compiled or a
classifier that is not there is an error that names it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from typing_extensions import Self

from contract.errors import InvalidRequestError, TriremeError
from contract.names import SAFETY_POLICY
from contract.settings_base import explain, nearest
from python_backend.safety.classifier import Classifier, ClassifierFinder
from python_backend.safety.finder import Finder, PatternFinder
from python_backend.safety.pattern import Pattern, PatternError
from python_backend.safety.personal import (
    COUNTRIES,
    DEFAULT_COUNTRIES,
    KINDS,
    REGIONS,
    Kind,
    personal_finders,
)
from python_backend.safety.scanner import Action, Rule, RuleSet, Side
from python_backend.safety.secrets import secret_finders
from python_backend.safety.terms import TermFinder

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class PolicyError(TriremeError, ValueError):
    """A policy file is wrong. The message names the file and the place."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Rule(_Settings):
    """What all rules have.

    Attributes:
        name: Names the rule in verdicts and metrics.
        input: What to do about what is found in a prompt; nothing is looked for where it is left
            out.
        output: The same for an answer.
        replacement: What stands in its place; ``{kind}`` is what was found, in capitals. Needed by
            the action ``replace``; ``redact`` puts ``[{kind}]``.
    """

    name: Name
    input: Action | None = None
    output: Action | None = None
    replacement: str | None = Field(default=None, max_length=200)

    @model_validator(mode="after")
    def _check_replacement(self) -> Self:
        replaces = "replace" in (self.input, self.output)
        if replaces != (self.replacement is not None):
            raise ValueError("replacement and the action replace come together")
        if self.replacement is not None:
            try:
                self.replacement.format(kind="KIND")
            except (KeyError, IndexError, ValueError):
                raise ValueError("replacement may have {kind} and no other field") from None
        return self

    def finders(self, folder: Path) -> tuple[Finder, ...]:
        """What finds it; files are named relative to a folder."""
        raise NotImplementedError


class PersonalDataRule(_Rule):
    """Personal data that a library validates.

    Attributes:
        kinds: What to look for.
        regions: Regions such as ``US`` whose phone numbers are found without a country code too.
        countries: Countries such as ``fr`` whose national identifiers are found.
    """

    find: Literal["personal_data"]
    kinds: Annotated[list[Kind], Field(min_length=1)] = list(KINDS)
    regions: list[str] = []
    countries: list[str] = list(DEFAULT_COUNTRIES)

    @field_validator("regions")
    @classmethod
    def _known_regions(cls, regions: list[str]) -> list[str]:
        return _known(regions, REGIONS)

    @field_validator("countries")
    @classmethod
    def _known_countries(cls, countries: list[str]) -> list[str]:
        return _known(countries, COUNTRIES)

    def finders(self, folder: Path) -> tuple[Finder, ...]:
        return tuple(personal_finders(self.kinds, self.regions, self.countries))


class SecretsRule(_Rule):
    """Keys, tokens and private keys."""

    find: Literal["secrets"]

    def finders(self, folder: Path) -> tuple[Finder, ...]:
        return secret_finders()


class TermsRule(_Rule):
    """Terms, however they are written.

    Attributes:
        terms: The terms.
        terms_file: A file with more of them, one a line, ``#`` begins a comment.
        whole_words: A term within a longer word is none.
    """

    find: Literal["terms"]
    terms: list[Annotated[str, Field(min_length=1, max_length=200)]] = []
    terms_file: str | None = None
    whole_words: bool = True

    def finders(self, folder: Path) -> tuple[Finder, ...]:
        terms = list(self.terms)
        if self.terms_file is not None:
            lines = (folder / self.terms_file).read_text(encoding="utf-8").splitlines()
            terms += filter(None, (line.partition("#")[0].strip() for line in lines))
        if not terms:
            raise ValueError("there are no terms")
        return (TermFinder(self.name, terms, self.whole_words),)


class PatternRule(_Rule):
    """A regular expression.

    Attributes:
        pattern: In Python's syntax, with a bounded width; see ``python_backend.safety.pattern``.
    """

    find: Literal["pattern"]
    pattern: Annotated[str, Field(min_length=1, max_length=2000)]

    def finders(self, folder: Path) -> tuple[Finder, ...]:
        return (PatternFinder(self.name, Pattern(self.pattern)),)


class ClassifierRule(_Rule):
    """A text classifier on ONNX Runtime.

    Attributes:
        model: Its folder, as Hugging Face's exporters write it: ``model.onnx``, ``tokenizer.json``
            and ``config.json``.
        thresholds: For each label to act on, the probability from which on it counts.
        window: How many characters it reads at once.
        stride: How often it reads, in characters; so many are held back where it may block.
    """

    find: Literal["classifier"]
    model: str
    thresholds: Annotated[
        dict[str, Annotated[float, Field(gt=0, le=1)]], Field(min_length=1, max_length=64)
    ]
    window: int = Field(default=256, ge=16, le=8192)
    stride: int = Field(default=64, ge=8, le=8192)

    @model_validator(mode="after")
    def _check_stride(self) -> Self:
        if self.stride > self.window:
            raise ValueError(f"stride is {self.stride}; it must be at most window, {self.window}")
        return self

    def finders(self, folder: Path) -> tuple[Finder, ...]:
        classifier = Classifier.load((folder / self.model).resolve())
        finder = ClassifierFinder(classifier, self.thresholds, self.window, self.stride)
        return (finder,)


AnyRule = Annotated[
    PersonalDataRule | SecretsRule | TermsRule | PatternRule | ClassifierRule,
    Field(discriminator="find"),
]


class PolicySettings(_Settings):
    """One policy.

    Attributes:
        rules: What to look for. Of matches that overlap, the one that begins first counts.
        refusals: Patterns that an answer begins with where the model refuses; for the metrics.
    """

    rules: list[AnyRule] = []
    refusals: list[str] = []

    @field_validator("rules")
    @classmethod
    def _distinct(cls, rules: list[Any]) -> list[Any]:
        names = [rule.name for rule in rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"several rules have the name {twice[0]}")
        return rules


class PolicyFile(_Settings):
    """A policy file.

    Attributes:
        default: The policy of a request that names none.
        policies: All policies by name.
    """

    default: Name
    policies: Annotated[dict[Name, PolicySettings], Field(min_length=1)]

    @model_validator(mode="after")
    def _default_exists(self) -> Self:
        if self.default not in self.policies:
            raise ValueError(f"default is {self.default}; there is no policy of that name")
        return self


@dataclass(frozen=True)
class Policy:
    """A policy ready to scan with.

    Attributes:
        name: Its name.
        input: The rules for prompts.
        output: The rules for answers.
        refusals: What a refusal looks like.
    """

    name: str
    input: RuleSet
    output: RuleSet
    refusals: tuple[Pattern, ...] = ()


@dataclass(frozen=True)
class Policies:
    """All policies of a file.

    Attributes:
        default: The policy of a request that names none.
        by_name: Every policy.
        files: The file itself and those that it names.
    """

    default: str
    by_name: dict[str, Policy]
    files: tuple[Path, ...] = ()

    def get(self, name: Any) -> Policy:
        """The policy of a request.

        Args:
            name: What the request says, whatever it is; None where it says nothing.

        Raises:
            InvalidRequestError: There is none of that name: a request is never served under a
                weaker policy than it asked for.
        """
        name = self.default if name is None else name
        policy = self.by_name.get(name) if isinstance(name, str) else None
        if policy is None:
            known = ", ".join(sorted(self.by_name))
            message = f"{SAFETY_POLICY} is {name!r}; there are {known}"
            raise InvalidRequestError(message, SAFETY_POLICY)
        return policy


def load_policies(path: Path) -> Policies:
    """Read and compile a policy file.

    Raises:
        PolicyError: Something in it is wrong.
    """
    try:
        with path.open(encoding="utf-8") as file:
            value = yaml.load(file, _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise PolicyError(f"{path} can't be read: {' '.join(str(error).split())}") from None
    try:
        settings = PolicyFile.model_validate(value)
    except ValidationError as error:
        raise PolicyError(f"{path}: {explain(PolicyFile, error)}") from None
    return Policies(
        settings.default,
        {
            name: Policy(
                name,
                _rule_set(path, name, policy, "input"),
                _rule_set(path, name, policy, "output"),
                tuple(_refusal(path, name, source) for source in policy.refusals),
            )
            for name, policy in settings.policies.items()
        },
        (path, *_files(path.parent, settings)),
    )


def _files(folder: Path, settings: PolicyFile) -> Iterator[Path]:
    for policy in settings.policies.values():
        for rule in policy.rules:
            if isinstance(rule, TermsRule) and rule.terms_file is not None:
                yield folder / rule.terms_file
            if isinstance(rule, ClassifierRule):
                yield folder / rule.model / "model.onnx"


def _rule_set(path: Path, policy: str, settings: PolicySettings, side: Side) -> RuleSet:
    rules = []
    for rule in settings.rules:
        action = rule.input if side == "input" else rule.output
        if action is None:
            continue
        try:
            finders = rule.finders(path.parent)
        except (TriremeError, ValueError, OSError) as error:
            raise PolicyError(f"{path}: policies.{policy}.rules.{rule.name}: {error}") from None
        replacement = "[{kind}]" if rule.replacement is None else rule.replacement
        rules.append(Rule(rule.name, action, replacement, finders))
    return RuleSet(rules, side)


def _refusal(path: Path, policy: str, source: str) -> Pattern:
    try:
        return Pattern(source)
    except PatternError as error:
        raise PolicyError(f"{path}: policies.{policy}.refusals: {source!r}: {error}") from None


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which a key that comes twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} comes twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _known(names: list[str], known: Any) -> list[str]:
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is not known; the nearest is {nearest(name, known)}")
    return names
