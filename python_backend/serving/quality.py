"""Signals of an answer's quality, told to Prometheus by policy.

How answers end, how long they are, how many are redacted or look like a refusal, how much they
repeat themselves, and what the rules found. Every update is a message to tritonserver, so counts
are gathered and published a few times a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from threading import Event, Lock, Thread

import triton_python_backend_utils as pb_utils

from contract.codes import FinishReason
from python_backend.safety.policy import Policy
from python_backend.safety.scanner import Verdict

_PUBLISH_EVERY_S = 0.5
_NGRAM = 4
_HEAD_CHARACTERS = 200
_LENGTHS = [8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0]

_DESCRIPTIONS = {
    "answers_total": "Answers by how they ended",
    "answers_touched_total": "Answers that a rule redacted, replaced, blocked or flagged",
    "refusals_total": "Answers that begin like a refusal",
    "answer_ngrams_total": f"Runs of {_NGRAM} tokens in answers",
    "answer_repeated_ngrams_total": f"Runs of {_NGRAM} tokens that the answer had before",
    "safety_matches_total": "What rules found",
}

_Key = tuple[str, tuple[tuple[str, str], ...]]


class AnswerSignals:
    """What is counted while one answer is made.

    Attributes:
        num_tokens: Tokens so far.
        num_ngrams: Runs of tokens so far.
        num_repeated: Those of them that were there before.
        head: The beginning of the text that left.
    """

    def __init__(self) -> None:
        self.num_tokens = 0
        self.num_ngrams = 0
        self.num_repeated = 0
        self.head = ""
        self._last: tuple[int, ...] = ()
        self._seen: set[tuple[int, ...]] = set()

    def add(self, token_ids: Iterable[int], text: str) -> None:
        """Take note of a piece."""
        for token_id in token_ids:
            self.num_tokens += 1
            self._last = (*self._last[1 - _NGRAM :], token_id)
            if len(self._last) == _NGRAM:
                self.num_ngrams += 1
                self.num_repeated += self._last in self._seen
                self._seen.add(self._last)
        if len(self.head) < _HEAD_CHARACTERS:
            self.head += text


class TextMetrics:
    """Counters of one model, and the thread that publishes them.

    Attributes:
        open_answers: Answers that have begun and not ended, set by whoever knows.
    """

    def __init__(self, model: str, version: str) -> None:
        self._labels = {"model": model, "version": version}
        self._families: dict[str, pb_utils.MetricFamily] = {}
        self._metrics: dict[_Key, pb_utils.Metric] = {}
        self._counts: Counter[_Key] = Counter()
        self._lengths: list[tuple[str, int]] = []
        self.open_answers = 0
        self._published_open = 0
        self._lock = Lock()
        self._closed = Event()
        self._thread = Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Publish what is left and end the thread."""
        self._closed.set()
        self._thread.join()

    def count_answer(
        self,
        policy: Policy,
        reason: FinishReason,
        signals: AnswerSignals,
        verdicts: Iterable[Verdict],
    ) -> None:
        """Take note of an answer that ended."""
        with self._lock:
            self._count("answers_total", policy=policy.name, finish_reason=reason)
            actions = {verdict.action for verdict in verdicts}
            for action in actions:
                self._count("answers_touched_total", policy=policy.name, action=action)
            if any(pattern.search(signals.head) for pattern in policy.refusals):
                self._count("refusals_total", policy=policy.name)
            self._count("answer_ngrams_total", signals.num_ngrams, policy=policy.name)
            self._count("answer_repeated_ngrams_total", signals.num_repeated, policy=policy.name)
            self._lengths.append((policy.name, signals.num_tokens))

    def count_verdicts(self, policy: Policy, verdicts: Iterable[Verdict]) -> None:
        """Take note of what rules found."""
        with self._lock:
            for verdict in verdicts:
                self._count(
                    "safety_matches_total",
                    policy=policy.name,
                    rule=verdict.rule,
                    kind=verdict.kind,
                    action=verdict.action,
                    side=verdict.side,
                )

    def _count(self, name: str, amount: int = 1, **labels: str) -> None:
        self._counts[name, tuple(labels.items())] += amount

    def _run(self) -> None:
        while not self._closed.wait(_PUBLISH_EVERY_S):
            self._publish()
        self._publish()

    def _publish(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, Counter()
            lengths, self._lengths = self._lengths, []
        for (name, labels), amount in counts.items():
            kind = pb_utils.MetricFamily.COUNTER
            self._metric(name, _DESCRIPTIONS[name], kind, dict(labels)).increment(amount)
        for policy, length in lengths:
            kind = pb_utils.MetricFamily.HISTOGRAM
            metric = self._metric("answer_tokens", "Length of answers", kind, {"policy": policy})
            metric.observe(length)
        if (count := self.open_answers) != self._published_open:
            kind = pb_utils.MetricFamily.GAUGE
            self._metric("open_answers", "Answers in the making", kind, {}).set(count)
            self._published_open = count

    def _metric(
        self, name: str, description: str, kind: int, labels: dict[str, str]
    ) -> pb_utils.Metric:
        """A metric, made when there is first something to say."""
        key = name, tuple(labels.items())
        if key not in self._metrics:
            if name not in self._families:
                self._families[name] = pb_utils.MetricFamily(
                    name=f"trireme_{name}", description=description, kind=kind
                )
            more = {"buckets": _LENGTHS} if kind == pb_utils.MetricFamily.HISTOGRAM else {}
            labels = {**self._labels, **labels}
            self._metrics[key] = self._families[name].Metric(labels=labels, **more)
        return self._metrics[key]
