r"""A call's arguments as the policy has to see them: without the escapes that JSON allows.

``\u0040`` is ``@`` to whoever parses the arguments, so what a rule finds must be found however it
is spelt. The arguments are written anew, each character as itself where it may stand so in JSON,
and that is what is checked and sent.
"""

from __future__ import annotations

import re

from python_backend.safety.scanner import RuleSet, Scanned, Scanner, Verdict

_ESCAPE = re.compile(r'\\(?:u[0-9a-fA-F]{4}|[^u])|"')
_CONTROLS = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_SHORT = {written[1]: character for character, written in _CONTROLS.items()}
_CONTROL = re.compile(r"[\x00-\x1f]")
_LONGEST_ESCAPE = 6
_OUTSIDE_SPACE = str.maketrans("\n\r\t", "   ")


class Unescaper:
    """Arguments without needless escapes, piece by piece.

    Line breaks in texts are themselves, for the rules to see; those between them become spaces.
    """

    def __init__(self) -> None:
        self.changed = False
        self._held = ""
        self._in_text = False
        self._high = ""

    def add(self, text: str, final: bool = False) -> str:
        """What is certain after some more."""
        text, self._held = self._held + text, ""
        pieces: list[str] = []
        start = 0
        for found in _ESCAPE.finditer(text):
            pieces.append(self._plain(text[start : found.start()]))
            start = found.end()
            if found[0] == '"':
                pieces.append(self._unpaired())
                self._in_text = not self._in_text
                pieces.append('"')
            else:
                pieces.append(self._unescape(found[0]))
        rest = text[start:]
        cut = rest.rfind("\\", max(0, len(rest) - _LONGEST_ESCAPE))
        if cut >= 0 and not final:
            rest, self._held = rest[:cut], rest[cut:]
        pieces.append(self._plain(rest))
        if final:
            pieces.append(self._unpaired())
        return "".join(pieces)

    def _plain(self, text: str) -> str:
        if not text:
            return ""
        before = self._unpaired()
        return before + (text if self._in_text else text.translate(_OUTSIDE_SPACE))

    def _unpaired(self) -> str:
        """Half a character that the other half didn't follow, as it was."""
        high, self._high = self._high, ""
        return high

    def _unescape(self, escape: str) -> str:
        if escape[1] != "u":
            before = self._unpaired()
            self.changed = self.changed or escape[1] == "/" or escape[1] in _SHORT
            return before + (_SHORT.get(escape[1]) or ("/" if escape[1] == "/" else escape))
        code = int(escape[2:], 16)
        if 0xDC00 <= code < 0xE000 and self._high:
            high = int(self._high[2:], 16)
            self._high = ""
            self.changed = True
            return chr(0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00))
        before = self._unpaired()
        if 0xD800 <= code < 0xDC00:
            self._high = escape
            return before
        if 0xDC00 <= code < 0xE000 or code == 0:
            return before + escape
        self.changed = True
        character = chr(code)
        return before + (f"\\{character}" if character in '"\\' else character)


def escaped(text: str) -> str:
    """The text with the escapes that JSON needs."""
    return _CONTROL.sub(lambda found: _CONTROLS.get(found[0]) or f"\\u{ord(found[0]):04x}", text)


class DecodedArguments:
    """One call's arguments under a policy's rules.

    Attributes:
        blocked: Whether a rule ended the answer here.
    """

    def __init__(self, rules: RuleSet) -> None:
        self.blocked = False
        self._unescaper = Unescaper()
        self._scanner = Scanner(rules)
        self._verdicts: list[Verdict] = []

    def add(self, text: str) -> str:
        """What may leave after some more."""
        return self._take(self._scanner.add(self._unescaper.add(text)))

    def end(self) -> str:
        """What is left of arguments that are whole."""
        return self._take(self._scanner.add(self._unescaper.add("", final=True), final=True))

    def cut(self) -> str:
        """What may leave at the end of arguments that were cut, without half an escape."""
        return self._take(self._scanner.cut(""))

    def take_verdicts(self) -> list[Verdict]:
        """What was found that was not found in the arguments as they were written."""
        verdicts, self._verdicts = self._verdicts, []
        return verdicts

    def _take(self, scanned: Scanned) -> str:
        self.blocked = self.blocked or scanned.blocked
        self._verdicts += [
            verdict
            for verdict in scanned.verdicts
            if verdict.action != "flag" or self._unescaper.changed
        ]
        return escaped(scanned.text)


def decoded(text: str) -> str:
    """Some JSON as a whole without needless escapes."""
    return Unescaper().add(text, final=True)
