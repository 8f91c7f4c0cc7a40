"""From a wish to an order: the model is found, what was left open is decided, bounds are held."""

from __future__ import annotations

from contract.bounds import MAX_ANSWERS
from contract.parameters import GenerationParameters, ParameterKeywords
from gateway.configuration import AdmissionSettings, ModelSettings
from gateway.conversations import Conversations, Follows, Keeper
from gateway.gateway_errors import InvalidRequest
from gateway.generation import AnyPrompt, Generation
from gateway.interfaces import TENANT_CLASSES, Principal, TenantClass
from gateway.open_access import LOCAL
from gateway.order import Arrival, Order, Wish
from gateway.routing import Router

DEADLINE_HEADER = "x-trireme-timeout-s"


class Intake:
    """Makes orders."""

    def __init__(
        self, router: Router, settings: AdmissionSettings, conversations: Conversations
    ) -> None:
        self._router = router
        self._settings = settings
        self._conversations = conversations

    def order(self, principal: Principal, arrival: Arrival, wish: Wish) -> Order:
        """What is to be done for a request.

        Raises:
            ModelNotFound: There is no such model for this principal.
            InvalidRequest: It asks for more than is given.
        """
        model = self._router.resolve(wish.model, principal)
        parameters = _parameters(wish.parameters, model.settings, model.asked)
        timeout_s = self._timeout_s(arrival)
        prompt, keeper = self._conversation(principal, wish)
        generation = Generation(
            request_id=arrival.request_id,
            prompt=prompt,
            parameters=parameters,
            stream=wish.stream,
            tenant_class=_tenant_class(principal, wish),
            policy=principal.policy,
            # Where nobody is asked who they are, the engine shares out by requests.
            tenant="" if principal == LOCAL else principal.tenant,
        )
        _check_answers(generation)
        return Order(
            arrival=arrival,
            principal=principal,
            model=model,
            generation=generation,
            affinity_key=wish.affinity_key,
            deadline_s=arrival.received_s + timeout_s,
            deadline_is_asked=timeout_s < self._settings.default_deadline_s,
            keeper=keeper,
        )

    def _conversation(self, principal: Principal, wish: Wish) -> tuple[AnyPrompt, Keeper | None]:
        """The prompt with all that was said before it, and what keeps the answer."""
        if not isinstance(wish.prompt, Follows):
            return wish.prompt, None
        return self._conversations.begin(principal.tenant, wish.prompt, keeps=wish.keeps)

    def _timeout_s(self, arrival: Arrival) -> float:
        """Seconds that the whole may take."""
        text = arrival.headers.get(DEADLINE_HEADER)
        if text is None:
            return self._settings.default_deadline_s
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        most_s = self._settings.max_deadline_s
        if not 0 < value <= most_s:
            raise InvalidRequest(
                f"{DEADLINE_HEADER} is {text[:32]!r}; "
                f"it must be seconds above 0, at most {most_s:g}",
                param=DEADLINE_HEADER,
                code="invalid_value",
            )
        return value


def _parameters(
    asked: ParameterKeywords, settings: ModelSettings, model: str
) -> GenerationParameters:
    """What was asked, and the defaults of what wasn't, none of which may have it refused."""
    keywords: ParameterKeywords = {"temperature": settings.default_temperature}
    if "max_tokens" not in asked:
        at_least = max(settings.default_max_tokens, asked.get("min_tokens") or 0)
        keywords["max_tokens"] = min(at_least, settings.max_tokens)
        keywords["fit_max_tokens"] = True
    keywords.update(asked)
    parameters = GenerationParameters(**keywords)
    if parameters.max_tokens > settings.max_tokens:
        raise InvalidRequest(
            f"max_tokens is {parameters.max_tokens}; {model} gives at most {settings.max_tokens}",
            param="max_tokens",
            code="invalid_value",
        )
    return parameters


def _check_answers(generation: Generation) -> None:
    """A request is as large as its answers are many: each is a sequence of the engine.

    Raises:
        InvalidRequest: They are too many.
    """
    if generation.num_answers > MAX_ANSWERS:
        prompts = len(generation.prompt)
        of_prompts = f" to each of {prompts} prompts" if prompts > 1 else ""
        raise InvalidRequest(
            f"n is {generation.n}{of_prompts}: that is {generation.num_answers} answers, and a "
            f"request has at most {MAX_ANSWERS}",
            param="n",
            code="invalid_value",
        )


def _tenant_class(principal: Principal, wish: Wish) -> TenantClass:
    """What a request asks for, and never above what the tenant has."""
    asked = wish.tenant_class or principal.tenant_class
    return max(asked, principal.tenant_class, key=TENANT_CLASSES.index)
