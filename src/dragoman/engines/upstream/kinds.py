"""The kinds of servers that can be upstreams: what each can do, and what it calls it.

Sources: the request classes of vLLM, the documentation of llama.cpp's server, Ollama's OpenAI routes, OpenAI's API
reference. What a kind has no equivalent for is no capability of it, so that requests that need it are refused by name.
"""

import functools
from collections.abc import Mapping
from typing import Literal

import msgspec

from dragoman.core.capabilities import Capability
from dragoman.engines.upstream.load_metrics import LoadMetrics

KindName = Literal["vllm", "sglang", "llama-server", "ollama", "dragoman", "openai"]


class UpstreamKind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of server."""

    name: KindName
    capabilities: frozenset[Capability]
    fields: Mapping[str, str]
    """core.request's names of sampling parameters → the names in the body. What is not here, is not sent."""
    health_path: str
    """Answers without computing anything."""
    max_tokens_field: str = "max_tokens"
    """Of conversations."""
    tokenize: Literal["vllm", "llama-server"] | None = None
    """The form of its routes that convert text to tokens. None: there are none."""
    json_schema: Literal["response_format", "llama-server"] = "response_format"
    pattern_field: Literal["structured_outputs", "regex", "grammar"] | None = None
    """How it takes regular expressions and grammars."""
    counts_continuously: bool = False
    """Whether it reports the usage so far with every chunk."""
    reports_token_ids: bool = False
    """Whether it returns the ids of tokens on request."""
    reasoning_field: str = "reasoning_content"
    """The field of an assistant's message with its reasoning."""
    names_adapters_behind_model: bool = False
    """Whether an adapter is requested as `MODEL:ADAPTER`, and not by its name alone."""
    load: LoadMetrics | None = None
    """What it calls its load in its metrics. None: it does not report it."""
    continues_by_itself: bool = False
    """Whether an assistant's message at the end is continued without a field that says so."""
    salt_field: str | None = None
    """Keeps the prefixes of different owners apart."""
    only_strict_calls_follow_schemas: bool = False
    """Whether the arguments of calls that are required are any JSON unless their tool is strict."""


_OPENAI_FIELDS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "logit_bias": "logit_bias",
    "seed": "seed",
    "stop": "stop",
}


def _of(*capabilities: Capability) -> frozenset[Capability]:
    return frozenset(capabilities)


_OPENAI_CAPABILITIES = _of(
    *("tools", "tool_choice", "single_tool_call", "json_object", "json_schema", "several_choices", "logprobs"),
    *("presence_penalty", "frequency_penalty", "logit_bias", "seed", "stop", "images", "reasoning_effort"),
)

_VLLM_FIELDS = {
    **_OPENAI_FIELDS,
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "min_tokens": "min_tokens",
    "ignore_eos": "ignore_eos",
    "stop_token_ids": "stop_token_ids",
    "bad_words": "bad_words",
    "allowed_token_ids": "allowed_token_ids",
    "include_stop_text": "include_stop_str_in_output",
    "skip_special_tokens": "skip_special_tokens",
    "spaces_between_special_tokens": "spaces_between_special_tokens",
}

_VLLM_CAPABILITIES = _OPENAI_CAPABILITIES | _of(
    *("exact_token_counts", "tokenize", "prefix_isolation", "hedging", "text_prompt", "token_prompt", "regex"),
    *("grammar", "top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids"),
    *("bad_words", "allowed_token_ids", "stop_text", "special_tokens", "documents", "template_arguments"),
    *("chat_template", "open_prompt", "continued_message"),
)

_KINDS = (
    UpstreamKind(
        name="vllm",
        capabilities=_VLLM_CAPABILITIES,
        fields=_VLLM_FIELDS,
        health_path="/health",
        tokenize="vllm",
        pattern_field="structured_outputs",
        counts_continuously=True,
        reports_token_ids=True,
        reasoning_field="reasoning",
        load=LoadMetrics(
            running="vllm:num_requests_running",
            waiting="vllm:num_requests_waiting",
            kv_usage=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
            cache_info=("vllm:cache_config_info", "block_size", "num_gpu_blocks"),
            adapters="vllm:lora_requests_info",
        ),
        salt_field="cache_salt",
        only_strict_calls_follow_schemas=True,
    ),
    UpstreamKind(
        name="dragoman",
        capabilities=_VLLM_CAPABILITIES - {"images"},
        fields=_VLLM_FIELDS,
        health_path="/health",
        tokenize="vllm",
        pattern_field="structured_outputs",
        counts_continuously=True,
        reports_token_ids=True,
        load=LoadMetrics(
            running="dragoman_running_sequences",
            waiting="dragoman_waiting_sequences",
            kv_cells=("dragoman_kv_cache_used_cells", "dragoman_kv_cache_capacity_cells"),
            model_label="model",
        ),
        salt_field="cache_salt",
    ),
    UpstreamKind(
        name="sglang",
        capabilities=_OPENAI_CAPABILITIES
        | _of(
            *("prefix_isolation", "hedging", "text_prompt", "token_prompt", "regex", "grammar", "top_k", "min_p"),
            *("repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids", "template_arguments"),
        ),
        fields={
            **_OPENAI_FIELDS,
            "top_k": "top_k",
            "min_p": "min_p",
            "repetition_penalty": "repetition_penalty",
            "min_tokens": "min_tokens",
            "ignore_eos": "ignore_eos",
            "stop_token_ids": "stop_token_ids",
        },
        health_path="/health",
        names_adapters_behind_model=True,
        pattern_field="regex",
        counts_continuously=True,
        load=LoadMetrics(
            running="sglang:num_running_reqs",
            waiting="sglang:num_queue_reqs",
            kv_usage=("sglang:token_usage",),
            cache_info=("sglang:cache_config_info", "page_size", "num_pages"),
        ),
        salt_field="cache_salt",
    ),
    UpstreamKind(
        name="llama-server",
        capabilities=(_OPENAI_CAPABILITIES - {"images", "reasoning_effort", "several_choices"})
        | _of(
            *("exact_token_counts", "hedging", "text_prompt", "grammar", "top_k", "min_p", "repetition_penalty"),
            *("ignore_eos", "template_arguments", "continued_message"),
        ),
        continues_by_itself=True,
        fields={
            **_OPENAI_FIELDS,
            "top_k": "top_k",
            "min_p": "min_p",
            "repetition_penalty": "repeat_penalty",
            "ignore_eos": "ignore_eos",
        },
        health_path="/health",
        tokenize="llama-server",
        json_schema="llama-server",
        pattern_field="grammar",
        load=LoadMetrics(running="llamacpp:requests_processing", waiting="llamacpp:requests_deferred"),
    ),
    UpstreamKind(
        name="ollama",
        capabilities=_of(
            *("tools", "json_object", "json_schema", "presence_penalty", "frequency_penalty", "seed", "stop"),
            *("hedging", "images", "text_prompt", "reasoning_effort"),
        ),
        fields={key: name for key, name in _OPENAI_FIELDS.items() if key != "logit_bias"},
        health_path="/api/version",
        reasoning_field="reasoning",
    ),
    UpstreamKind(
        name="openai",
        capabilities=_OPENAI_CAPABILITIES | {"text_prompt", "verbosity"},
        fields=_OPENAI_FIELDS,
        health_path="/v1/models",
    ),
)

KINDS: Mapping[KindName, UpstreamKind] = {kind.name: kind for kind in _KINDS}

ANY_CAPABILITY = _OPENAI_CAPABILITIES.union(*(kind.capabilities for kind in _KINDS)) - {"exact_token_counts", "hedging"}
"""What a server of unknown kind may be able to do."""


@functools.cache
def with_tokenizer(capabilities: frozenset[Capability], *, is_exact: bool) -> frozenset[Capability]:
    """Return what an upstream can do with a tokenizer of this machine. Equal arguments have the same result."""
    counts: set[Capability] = {"tokenize", "exact_token_counts"} if is_exact else {"tokenize"}
    return capabilities | counts


def without_tokenizer(kind: UpstreamKind) -> UpstreamKind:
    """Return the kind of a server whose routes that convert text cannot be reached."""
    capabilities = kind.capabilities - {"exact_token_counts", "tokenize"}
    return msgspec.structs.replace(kind, tokenize=None, capabilities=capabilities)
