"""Personal data: found by shape, and taken for what it is only where a library validates it.

The shapes are generous: digits of other scripts, and the spaces and dashes that people and models
put between digits, are part of them.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Literal, get_args

import phonenumbers
from email_validator import EmailNotValidError, validate_email
from stdnum import iban, luhn

from python_backend.safety import telling
from python_backend.safety.finder import Finder, PatternFinder
from python_backend.safety.pattern import Pattern

Kind = Literal["email", "phone", "card", "iban", "national_id", "ip_address"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_D = r"[0-9\uff10-\uff19\u0660-\u0669\u06f0-\u06f9\u0966-\u096f]"
_SPACE = r" \u00a0\u2007\u2009\u200b\u202f\u3000"
_DASH = r"\-\u2010-\u2015\u2212\uff0d"
_LETTER = r"A-Za-z\u00c0-\u024f\u0370-\u03ff\u0400-\u04ff"

_EMAIL = (
    rf"[{_LETTER}0-9._%+\-']{{1,64}}@"
    rf"(?:[{_LETTER}0-9\u0590-\ud7ff\-]{{1,63}}\.){{1,6}}[{_LETTER}\u0590-\ud7ff]{{2,24}}"
)
_DIGITS_APART = rf"(?:[{_SPACE}.{_DASH}]{{0,2}}{_D})"
_CARD = rf"{_D}{_DIGITS_APART}{{12,18}}"
_NATIONAL_PHONE = rf"\(?{_D}(?:[{_SPACE}.{_DASH}()/]{{0,3}}{_D}){{5,16}}"
_PHONE = rf"[+\uff0b] ?{_NATIONAL_PHONE}"
_IBAN = rf"[A-Za-z]{{2}}{_D}{{2}}(?:[{_SPACE}{_DASH}]?[A-Za-z0-9]){{11,30}}"
# More parts than an address has, so that a version number is seen as a whole and refused.
_IPV4 = r"[0-9]{1,3}(?:\.[0-9]{1,3}){3,7}"
_IPV6 = rf"(?:[0-9A-Fa-f]{{0,4}}:){{2,9}}(?:{_IPV4}|[0-9A-Fa-f]{{0,4}})"

_ISSUERS = (
    # First digits of payment cards and the lengths they come in, from the schemes' own documents.
    (("4",), (13, 16, 19)),
    ((*(str(n) for n in range(51, 56)), *(str(n) for n in range(2221, 2721))), (16,)),
    (("34", "37"), (15,)),
    (("6011", "65", *(str(n) for n in range(644, 650))), (16, 17, 18, 19)),
    ((*(str(n) for n in range(3528, 3590)),), (16, 17, 18, 19)),
    (("36", "38", "39", *(str(n) for n in range(300, 306))), (14, 15, 16, 17, 18, 19)),
    (("62", "81"), (16, 17, 18, 19)),
    (("50", "56", "57", "58", "63", "67", "68", "69"), tuple(range(13, 20))),
    ((*(str(n) for n in range(2200, 2205)),), (16, 17, 18, 19)),
    (("60", "64", "66", "508", "353", "356"), (16,)),
)

_NATIONAL_IDS: dict[str, tuple[tuple[str, str], ...]] = {
    # For each country the modules of python-stdnum and the shapes that they validate.
    "ar": (("ar.cuit", rf"{_D}{{2}}-?{_D}{{8}}-?{_D}"),),
    "at": (("at.vnr", rf"{_D}{{4}} ?{_D}{{6}}"),),
    "au": (("au.tfn", rf"{_D}{{3}} ?{_D}{{3}} ?{_D}{{3}}"),),
    "be": (("be.nn", rf"{_D}{{2}}\.?{_D}{{2}}\.?{_D}{{2}}-?{_D}{{3}}\.?{_D}{{2}}"),),
    "br": (("br.cpf", rf"{_D}{{3}}\.?{_D}{{3}}\.?{_D}{{3}}-?{_D}{{2}}"),),
    "ca": (("ca.sin", rf"{_D}{{3}}[ -]?{_D}{{3}}[ -]?{_D}{{3}}"),),
    "ch": (("ch.ssn", rf"756\.?{_D}{{4}}\.?{_D}{{4}}\.?{_D}{{2}}"),),
    "cl": (("cl.rut", rf"{_D}{{1,2}}\.?{_D}{{3}}\.?{_D}{{3}}-[0-9Kk]"),),
    "cn": (("cn.ric", rf"{_D}{{17}}[0-9Xx]"),),
    "de": (("de.idnr", rf"{_D}{{2}} ?{_D}{{3}} ?{_D}{{3}} ?{_D}{{3}}"),),
    "dk": (("dk.cpr", rf"{_D}{{6}}-{_D}{{4}}"),),
    "es": (
        ("es.dni", rf"{_D}{{8}}[ -]?[A-Za-z]"),
        ("es.nie", rf"[XYZxyz][ -]?{_D}{{7}}[ -]?[A-Za-z]"),
    ),
    "fi": (("fi.hetu", rf"{_D}{{6}}[-+A]{_D}{{3}}[0-9A-Ya-y]"),),
    "fr": (("fr.nir", r"[12](?: ?[0-9ABab]){14}"),),
    "gb": (("gb.nhs", rf"{_D}{{3}}[ -]{_D}{{3}}[ -]{_D}{{4}}"),),
    "ie": (("ie.pps", rf"{_D}{{7}}[A-Wa-w]{{1,2}}"),),
    "il": (("il.idnr", rf"{_D}{{8,9}}"),),
    "in": (
        ("in_.aadhaar", rf"{_D}{{4}} ?{_D}{{4}} ?{_D}{{4}}"),
        ("in_.pan", rf"[A-Z]{{5}}{_D}{{4}}[A-Z]"),
    ),
    "it": (
        (
            "it.codicefiscale",
            r"[A-Za-z]{6}[0-9L-Vl-v]{2}[A-Za-z][0-9L-Vl-v]{2}[A-Za-z][0-9L-Vl-v]{3}[A-Za-z]",
        ),
    ),
    "kr": (("kr.rrn", rf"{_D}{{6}}-{_D}{{7}}"),),
    "mx": (("mx.curp", rf"[A-Za-z]{{4}}{_D}{{6}}[HMhm][A-Za-z]{{5}}[A-Za-z0-9]{_D}"),),
    "nl": (("nl.bsn", rf"{_D}{{4}}\.?{_D}{{2}}\.?{_D}{{3}}"),),
    "no": (("no.fodselsnummer", rf"{_D}{{6}} ?{_D}{{5}}"),),
    "pl": (("pl.pesel", rf"{_D}{{11}}"),),
    "pt": (("pt.cc", rf"{_D}{{8}} ?{_D} ?[A-Za-z0-9]{{2}}{_D}"),),
    "ro": (("ro.cnp", rf"{_D}{{13}}"),),
    "se": (("se.personnummer", rf"(?:{_D}{{2}})?{_D}{{6}}[-+]{_D}{{4}}"),),
    "tr": (("tr.tckimlik", rf"{_D}{{11}}"),),
    "us": (
        ("us.ssn", rf"{_D}{{3}}[ -]{_D}{{2}}[ -]{_D}{{4}}"),
        ("us.itin", rf"9{_D}{{2}}[ -]{_D}{{2}}[ -]{_D}{{4}}"),
    ),
    "za": (("za.idnr", rf"{_D}{{6}} ?{_D}{{4}} ?{_D}{{3}}"),),
}
COUNTRIES = tuple(_NATIONAL_IDS)
"""Countries whose national identifiers are known."""

DEFAULT_COUNTRIES = ("br", "ch", "cn", "de", "es", "fi", "fr", "it", "kr", "mx", "pt", "se", "us")
"""Those whose numbers have a telling shape or a strong checksum; the others, such as nine digits of
which one in ten passes, would take many an invoice number for a person."""

REGIONS = frozenset(phonenumbers.SUPPORTED_REGIONS)
"""Where phone numbers without a country code may come from."""


def personal_finders(
    kinds: Sequence[Kind], regions: Sequence[str], countries: Sequence[str]
) -> list[Finder]:
    """The finders of some kinds of personal data.

    Args:
        kinds: What to look for.
        regions: Regions such as ``US`` whose phone numbers are found without a country code too.
        countries: Countries of ``COUNTRIES`` whose national identifiers are found.
    """
    finders: list[Finder] = []
    for kind in kinds:
        if kind == "national_id":
            for country in countries:
                finders += _national_ids(country)
        elif kind == "phone":
            finders.append(_Validated(kind, _PHONE, _is_phone, before=_is_part_of_number))
            if regions:
                in_regions = _phone_of(tuple(regions))
                before = _is_part_of_number
                finders.append(_Validated(kind, _NATIONAL_PHONE, in_regions, before=before))
        else:
            finders += _FINDERS[kind]
    return finders


class _Validated(PatternFinder):
    """Takes the longest beginning of a match that ends with its word and passes a check.

    Attributes:
        whole: Take no less than the whole match.
    """

    words_tell = False

    def __init__(
        self,
        kind: Kind,
        pattern: str,
        is_valid: Callable[[str], bool],
        before: Callable[[str], bool],
        whole: bool = False,
        tells: Callable[[str], bool] = telling.identifier,
    ) -> None:
        super().__init__(kind, _pattern(pattern))
        self.whole = whole
        self._is_valid = is_valid
        self._before = before
        self._tells = tells

    def may_begin(self, text: str, place: int) -> bool:
        return not (place and self._before(text[place - 1]))

    def tells(self, beginning: str) -> bool:
        return self._tells(to_ascii_digits(beginning))

    def check(self, text: str, start: int, end: int) -> int | None:
        if not self.may_begin(text, start):
            return None
        for last in _word_ends(text, start, end):
            if self.whole and last < end:
                return None
            if self._is_valid(to_ascii_digits(text[start:last])):
                return last
        return None


@cache
def _pattern(source: str) -> Pattern:
    """Patterns are compiled once; many policies share them."""
    return Pattern(source)


def _word_ends(text: str, start: int, end: int) -> Iterator[int]:
    """Places where a group of letters or digits ends, the last first."""
    for place in range(end, start, -1):
        if text[place - 1].isalnum() and (place == len(text) or not text[place].isalnum()):
            yield place


def to_ascii_digits(text: str) -> str:
    """Digits of every script as ASCII, dashes as hyphens, spaces as spaces."""
    return text if text.isascii() else "".join(map(_ascii, text))


def _ascii(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.digit(character))
    if category == "Pd" or character == "\u2212":
        return "-"
    if category == "Zs" or character == "\u200b":
        return " "
    return "+" if character == "\uff0b" else character


def _is_alphanumeric(character: str) -> bool:
    return character.isalnum()


def _is_digit(character: str) -> bool:
    return character.isdigit()


def _is_part_of_number(character: str) -> bool:
    return character.isalnum() or character in "+."


def _is_part_of_address(character: str) -> bool:
    return character.isalnum() or character in ".:"


def _is_email(text: str) -> bool:
    try:
        validate_email(
            text,
            check_deliverability=False,
            globally_deliverable=False,
            test_environment=True,  # reserved names such as `.test` are redacted as well
        )
    except EmailNotValidError:
        return False
    return True


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


def is_card(text: str) -> bool:
    """Whether a text is a payment card's number: an issuer's digits and length, and a checksum."""
    digits = _digits(text)
    groups = [len(group) for group in re.findall("[0-9]+", text)]
    if min(groups[:-1], default=4) < 3 and len(set(groups)) > 1:
        return False  # a row of numbers: cards are written in longer groups, or spelt out evenly
    return any(
        len(digits) in lengths and digits.startswith(prefixes) for prefixes, lengths in _ISSUERS
    ) and bool(luhn.is_valid(digits))


def _may_be_card(text: str) -> bool:
    """Whether the beginning of a text may be that of a card's number, and tells of it."""
    digits = _digits(text)
    *groups, last = [len(group) for group in re.findall("[0-9]+", text)] or [0]
    if min(groups, default=4) < 3 and not (len(set(groups)) == 1 and last <= groups[0]):
        return False
    return telling.number(text) and any(
        len(digits) <= max(lengths)
        and any(digits.startswith(prefix) or prefix.startswith(digits) for prefix in prefixes)
        for prefixes, lengths in _ISSUERS
    )


def _is_phone(text: str) -> bool:
    """Whether a number with a country code can be one; it need not be assigned."""
    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(text))
    except phonenumbers.NumberParseException:
        return False


def _phone_of(regions: tuple[str, ...]) -> Callable[[str], bool]:
    def is_phone(text: str) -> bool:
        for region in regions:
            try:
                if phonenumbers.is_valid_number(phonenumbers.parse(text, region)):
                    return True
            except phonenumbers.NumberParseException:
                continue
        return False

    return is_phone


def _is_ip_address(text: str) -> bool:
    if not any(character.isdigit() for character in text):
        return False  # `a::b` is an address, and a name in many a program
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _national_ids(country: str) -> Iterable[Finder]:
    for module, shape in _NATIONAL_IDS[country]:
        is_valid = import_module(f"stdnum.{module}").is_valid
        yield _Validated("national_id", shape, is_valid, before=_is_alphanumeric)


_FINDERS: dict[Kind, list[Finder]] = {
    "email": [_Validated("email", _EMAIL, _is_email, lambda _: False, tells=telling.email)],
    "card": [_Validated("card", _CARD, is_card, _is_digit, tells=_may_be_card)],
    "iban": [_Validated("iban", _IBAN, iban.is_valid, before=_is_alphanumeric)],
    "ip_address": [
        _Validated("ip_address", _IPV4, _is_ip_address, _is_part_of_address, True, telling.ipv4),
        _Validated("ip_address", _IPV6, _is_ip_address, _is_part_of_address, True, telling.ipv6),
    ],
}
