"""What a request may need of an engine beyond plain text, each under the name that errors give it.

An engine lists what it can do (engines.base.Engine.capabilities). A request that needs anything else is refused by name
before it is admitted, instead of being answered as if it had not asked.
"""

import functools
from collections.abc import Callable
from operator import attrgetter
from typing import Literal, NamedTuple, get_args

from dragoman.core.request import (
    ChatPrompt,
    GenerationRequest,
    GrammarFormat,
    JsonObjectFormat,
    JsonSchemaFormat,
    RegexFormat,
    SamplingParams,
    TextPrompt,
    TokenPrompt,
)

Capability = Literal[
    "exact_token_counts",
    "tokenize",
    "prefix_isolation",
    "hedging",
    "resume",
    "text_prompt",
    "token_prompt",
    "prompt_truncation",
    "images",
    "tools",
    "tool_choice",
    "allowed_tools",
    "single_tool_call",
    "reasoning_effort",
    "verbosity",
    "chat_template",
    "template_arguments",
    "documents",
    "open_prompt",
    "continued_message",
    "json_object",
    "json_schema",
    "regex",
    "grammar",
    "min_tokens",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "allowed_token_ids",
    "bad_words",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "stop_text",
    "special_tokens",
    "several_choices",
    "echo",
    "logprobs",
    "prompt_logprobs",
    "prompt_tokens",
]
"""Something that not every engine can do."""

ALL_CAPABILITIES: frozenset[Capability] = frozenset(get_args(Capability))


class Need(NamedTuple):
    """A capability that some requests need."""

    capability: Capability
    parameter: str
    """The request's parameter that needs it, in the engine's vocabulary."""
    description: str
    """What the parameter asks for, to be read after "does not support"."""


NeedTest = Callable[[GenerationRequest], bool]

_OFF = SamplingParams()

_SAMPLING_FIELDS: tuple[Capability, ...] = (
    "min_tokens",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "allowed_token_ids",
    "bad_words",
    "stop",
    "stop_token_ids",
    "ignore_eos",
)
"""Capabilities that are called like the parameter that needs them."""


def _differs(field: str) -> NeedTest:
    return lambda request: (
        getattr(request.sampling, field) != getattr(_OFF, field) and field not in request.sampling.defaults
    )


def _of_chat(test: Callable[[ChatPrompt], bool]) -> NeedTest:
    return lambda request: isinstance(request.prompt, ChatPrompt) and test(request.prompt)


def _has_format(*formats: type) -> NeedTest:
    return lambda request: isinstance(request.response_format, formats)


_NEEDS: tuple[tuple[Need, NeedTest], ...] = (
    (Need("text_prompt", "prompt", "text completions"), lambda request: isinstance(request.prompt, TextPrompt)),
    (Need("token_prompt", "prompt", "prompts of token ids"), lambda request: isinstance(request.prompt, TokenPrompt)),
    (
        Need("prompt_truncation", "truncate_prompt_tokens", "the truncation of prompts"),
        lambda request: request.prompt.truncation is not None,
    ),
    (
        Need("images", "messages", "images"),
        _of_chat(lambda prompt: any(not isinstance(each.content, str) and each.images for each in prompt.messages)),
    ),
    (Need("tools", "tools", "tools"), _of_chat(lambda prompt: prompt.tools is not None)),
    (
        Need("tool_choice", "tool_choice", "calls that are required"),
        _of_chat(lambda prompt: prompt.tools is not None and prompt.tools.choice != "auto"),
    ),
    (
        Need("allowed_tools", "tool_choice", "a choice among some of the tools"),
        _of_chat(lambda prompt: prompt.tools is not None and prompt.tools.allowed is not None),
    ),
    (
        Need("single_tool_call", "parallel_tool_calls", "a limit of one tool call"),
        _of_chat(lambda prompt: prompt.tools is not None and not prompt.tools.parallel),
    ),
    (
        Need("grammar", "tools", "tools whose input follows a grammar"),
        _of_chat(lambda prompt: prompt.tools is not None and any(tool.text_format for tool in prompt.tools.tools)),
    ),
    (
        Need("reasoning_effort", "reasoning_effort", "an effort of reasoning"),
        _of_chat(lambda prompt: prompt.reasoning_effort is not None),
    ),
    (
        Need("verbosity", "verbosity", "a verbosity; ask for it in a message"),
        _of_chat(lambda prompt: prompt.verbosity is not None),
    ),
    (
        Need("chat_template", "chat_template", "another chat template"),
        _of_chat(lambda prompt: prompt.template is not None),
    ),
    (
        Need("template_arguments", "chat_template_kwargs", "variables for its chat template"),
        _of_chat(lambda prompt: bool(prompt.template_arguments)),
    ),
    (Need("documents", "documents", "documents"), _of_chat(lambda prompt: bool(prompt.documents))),
    (
        Need("open_prompt", "add_generation_prompt", "prompts without the beginning of an answer"),
        _of_chat(lambda prompt: not prompt.add_generation_prompt and not prompt.continue_final_message),
    ),
    (
        Need("continued_message", "continue_final_message", "answers that continue the last message"),
        _of_chat(lambda prompt: prompt.continue_final_message),
    ),
    (Need("json_object", "response_format", "answers in JSON"), _has_format(JsonObjectFormat)),
    (Need("json_schema", "response_format", "answers that follow a JSON schema"), _has_format(JsonSchemaFormat)),
    (Need("regex", "response_format", "answers that match a regular expression"), _has_format(RegexFormat)),
    (Need("grammar", "response_format", "answers that follow a grammar"), _has_format(GrammarFormat)),
    *((Need(field, field, field), _differs(field)) for field in _SAMPLING_FIELDS),
    (Need("stop_text", "include_stop_text", "stop strings in the text"), _differs("include_stop_text")),
    (Need("special_tokens", "skip_special_tokens", "special tokens in the text"), _differs("skip_special_tokens")),
    (
        Need("special_tokens", "spaces_between_special_tokens", "special tokens in the text"),
        _differs("spaces_between_special_tokens"),
    ),
    (
        Need("several_choices", "n", "several choices"),
        lambda request: max(request.n, request.best_of or 1) > 1,
    ),
    (Need("echo", "echo", "the repetition of the prompt"), lambda request: request.echo),
    (
        Need("logprobs", "logprobs", "log-probabilities"),
        lambda request: request.logprobs is not None or request.best_of not in (None, request.n),
    ),
    (
        Need("prompt_logprobs", "prompt_logprobs", "log-probabilities of the prompt"),
        lambda request: request.prompt_logprobs is not None,
    ),
    (
        Need("prompt_tokens", "return_token_ids", "reports of token ids"),
        lambda request: request.reports_prompt,
    ),
    (
        Need("prefix_isolation", "cache_salt", "prefixes that are shared by a salt"),
        lambda request: bool(request.cache_salt),
    ),
    (Need("resume", "resume_token_ids", "resuming an answer"), lambda request: bool(request.resume_token_ids)),
)


@functools.cache
def needs_beyond(capabilities: frozenset[Capability]) -> tuple[tuple[Need, NeedTest], ...]:
    """Return the needs that an engine with these capabilities cannot meet, each with the test for a request of it."""
    return tuple((need, test) for need, test in _NEEDS if need.capability not in capabilities)


_PLAIN_REQUEST_FIELDS = (
    *("response_format", "n", "best_of", "echo", "logprobs", "prompt_logprobs", "reports_prompt", "resume_token_ids"),
    "cache_salt",
)
_plain_of_chat = attrgetter(
    *("tools", "reasoning_effort", "verbosity", "template", "template_arguments", "truncation", "documents"),
    *("add_generation_prompt", "continue_final_message"),
)
_PLAIN_CHAT = ChatPrompt(messages=())
_PLAIN_REQUEST = GenerationRequest(model="", prompt=_PLAIN_CHAT)
"""Needs nothing, as every request with the same values of these fields, unset sampling parameters and no images."""


@functools.cache
def needs_more_than(capabilities: frozenset[Capability]) -> NeedTest | None:
    """Return the test whether a request needs what such an engine cannot do. None: no request does.

    It runs with every request, so it compares what nearly all of them leave out at once, before it tries each need.
    """
    needs = needs_beyond(capabilities)
    if len(needs) <= 1:
        return needs[0][1] if needs else None
    if len(needs) == 2:  # So many a model of this machine lacks.
        (_, first), (_, second) = needs
        return lambda request: first(request) or second(request)
    sampling = [f"sampling.{need.parameter}" for need, _ in needs if need.parameter in SamplingParams.__struct_fields__]
    values = attrgetter(*_PLAIN_REQUEST_FIELDS, *sampling)
    takes_images = "images" in capabilities
    plain_values, plain_chat = values(_PLAIN_REQUEST), _plain_of_chat(_PLAIN_CHAT)

    def needs_more(request: GenerationRequest) -> bool:
        prompt = request.prompt
        if isinstance(prompt, ChatPrompt) and values(request) == plain_values and _plain_of_chat(prompt) == plain_chat:
            if takes_images:
                return False
            for message in prompt.messages:
                if not isinstance(message.content, str):
                    break
            else:
                return False
        return any(test(request) for _, test in needs)

    return needs_more


def missing_need(request: GenerationRequest, capabilities: frozenset[Capability]) -> Need | None:
    """Return the first need of the request that an engine with these capabilities cannot meet."""
    return next((need for need, test in needs_beyond(capabilities) if test(request)), None)
