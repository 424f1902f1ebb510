"""The fields of the request classes that clients of this field know: vLLM's, LiteLLM's and OpenAI's.

Facts, copied by hand from vllm/entrypoints/openai (2026-10, and older fields that clients still send), from LiteLLM's
completion parameters (2025-06) and from the openai package (3.52). tests/conformance/test_request_classes.py sends
every one of them. tools.dialect_tables makes the table of docs/dialects.md.
"""

from typing import Literal, NamedTuple

from msgspec import inspect

from dragoman.dialects.http.validation import UnsupportedField
from dragoman.dialects.vendors.infermatic import wire
from dragoman.dialects.vendors.infermatic.unsupported import CHAT_FIELDS, TEXT_FIELDS


def _words(text: str) -> list[str]:
    return text.split()


OPENAI_CHAT = _words("""
messages model audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens
metadata modalities moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key
prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier
stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity web_search_options
""")

OPENAI_TEXT = _words("""
model prompt best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed stop stream
stream_options suffix temperature top_p user
""")

_VLLM_COMMON = _words("""
model frequency_penalty logit_bias logprobs max_tokens n presence_penalty response_format seed stop stream
stream_options temperature top_p user use_beam_search top_k min_p repetition_penalty watermarking length_penalty
stop_token_ids include_stop_str_in_output ignore_eos min_tokens skip_special_tokens spaces_between_special_tokens
truncate_prompt_tokens truncation_side prompt_logprobs logprob_token_ids allowed_token_ids bad_words echo
add_special_tokens structured_outputs priority request_id session_id return_tokens_as_token_ids return_token_ids
routed_experts_prompt_start return_token_offsets return_mm_kwargs cache_salt kv_transfer_params ec_transfer_params
vllm_xargs repetition_detection thinking_token_budget stream_interval best_of early_stopping logits_processors
guided_json guided_regex guided_choice guided_grammar guided_decoding_backend guided_whitespace_pattern
""")

VLLM_CHAT = (
    _words("""
messages top_logprobs max_completion_tokens tools tool_choice reasoning_effort include_reasoning parallel_tool_calls
add_generation_prompt continue_final_message documents chat_template chat_template_kwargs media_io_kwargs
mm_processor_kwargs return_prompt_text
""")
    + _VLLM_COMMON
)

VLLM_TEXT = ["prompt", "suffix", "prompt_embeds", *_VLLM_COMMON]

_LITELLM_COMMON = _words("""
model temperature top_p n stream stream_options stop max_tokens presence_penalty frequency_penalty logit_bias user
timeout request_timeout stream_timeout force_timeout api_base base_url api_version api_key deployment_id
organization model_list custom_llm_provider max_retries num_retries retry_policy retry_strategy fallbacks
context_window_fallback_dict max_fallbacks fallback_depth cooldown_time fastest_response extra_headers
default_headers headers provider_specific_header extra_body drop_params additional_drop_params allowed_openai_params
metadata litellm_metadata litellm_call_id litellm_trace_id litellm_session_id litellm_credential_name
use_litellm_proxy tags caching cache cache_key caching_groups preset_cache_key ttl no-log turn_off_message_logging
verbose mock_response mock_tool_calls mock_timeout prompt_id prompt_variables prompt_label prompt_version guardrails
roles initial_prompt_value final_prompt_value bos_token eos_token hf_model_name supports_system_message
ensure_alternating_roles user_continue_message assistant_continue_message merge_reasoning_content_in_choices
complete_response region_name allowed_model_region weight rpm tpm max_parallel_requests max_budget budget_duration
input_cost_per_token output_cost_per_token input_cost_per_second output_cost_per_second base_model model_info
model_config azure azure_ad_token_provider tenant_id client_id client_secret cache_control_injection_points
knowledge_bases vector_store_ids
""")

LITELLM_CHAT = (
    _words("""
messages functions function_call max_completion_tokens modalities prediction audio response_format seed tools
tool_choice logprobs top_logprobs parallel_tool_calls reasoning_effort verbosity thinking web_search_options
service_tier safety_identifier include_server_side_tool_invocations
""")
    + _LITELLM_COMMON
)

LITELLM_TEXT = ["prompt", "best_of", "echo", "logprobs", "suffix", *_LITELLM_COMMON]

_ROUTING = "the settings of this server say where requests go"
_CACHES = "answers are not cached"
_PRICES = "the server has its own limits and prices"
_TRACES = "not recorded"
_PREFIXES = "shared prefixes are found by their tokens; see `cache_salt`"
_TIMES = "the server has its own deadlines; see the header `x-request-timeout`"
_IMAGES = "images are read as their model's file says"

WITHOUT_EFFECT: dict[str, str] = {
    **dict.fromkeys(("metadata", "litellm_metadata", "tags", "session_id", "safety_identifier"), _TRACES),
    **dict.fromkeys(("litellm_call_id", "litellm_trace_id", "litellm_session_id", "verbose"), _TRACES),
    **dict.fromkeys(("no-log", "turn_off_message_logging"), "no prompt or answer is in a log"),
    **dict.fromkeys(("timeout", "request_timeout", "stream_timeout", "force_timeout"), _TIMES),
    **dict.fromkeys(("api_version", "api_key", "organization", "region_name", "azure", "tenant_id"), _ROUTING),
    **dict.fromkeys(("azure_ad_token_provider", "client_id", "client_secret", "use_litellm_proxy"), _ROUTING),
    **dict.fromkeys(("max_retries", "num_retries", "retry_policy", "retry_strategy", "max_fallbacks"), _ROUTING),
    **dict.fromkeys(("fallback_depth", "cooldown_time", "fastest_response", "weight"), _ROUTING),
    **dict.fromkeys(("extra_headers", "default_headers", "headers", "provider_specific_header"), _ROUTING),
    **dict.fromkeys(("litellm_credential_name", "hf_model_name", "base_model", "model_info"), _ROUTING),
    **dict.fromkeys(("model_config", "allowed_openai_params"), _ROUTING),
    **dict.fromkeys(("caching", "cache", "cache_key", "caching_groups", "preset_cache_key", "ttl"), _CACHES),
    **dict.fromkeys(("rpm", "tpm", "max_parallel_requests", "max_budget", "budget_duration"), _PRICES),
    **dict.fromkeys(("input_cost_per_token", "output_cost_per_token"), _PRICES),
    **dict.fromkeys(("input_cost_per_second", "output_cost_per_second"), _PRICES),
    **dict.fromkeys(("prompt_cache_options", "prompt_cache_retention"), _PREFIXES),
    "cache_control_injection_points": _PREFIXES,
    "store": "nothing is stored",
    "service_tier": "there is one tier; see `priority`",
    "request_id": "the answer's id is the server's own",
    "guided_decoding_backend": "there is one",
    "stream_interval": "every piece of text is sent at once",
    "routed_experts_prompt_start": "experts are not reported",
    "return_token_offsets": "as in vLLM on these routes",
    "return_mm_kwargs": "as in vLLM on these routes",
    "media_io_kwargs": _IMAGES,
    "mm_processor_kwargs": _IMAGES,
}
"""Fields that do not change an answer → why."""


class FieldStatus(NamedTuple):
    """What the route does with a field."""

    status: Literal["honoured", "refused", "without effect"]
    remark: str = ""
    accepted: tuple[object, ...] = ()
    """Of a refused field: values that are accepted, besides null."""


_IN_STRUCT_BUT_NOT_HONOURED = {
    ("text", "suffix"): FieldStatus("refused", "not planned"),
    ("chat", "add_special_tokens"): FieldStatus("without effect", "the prompt has its template's special tokens"),
    ("chat", "verbosity"): FieldStatus(
        "refused",
        "upstreams of the kind `openai` have such a control, and get it; ask others in a message",
        ("medium",),
    ),
}


class Route(NamedTuple):
    """One of infermatic's routes, and the fields that it may meet."""

    name: Literal["chat", "text"]
    struct: type[wire.CompletionRequest]
    unsupported: dict[str, UnsupportedField]
    sources: dict[str, list[str]]

    @property
    def fields(self) -> list[str]:
        """Every field of the classes once, in the order of the alphabet."""
        return sorted({field for fields in self.sources.values() for field in fields})

    def sources_of(self, field: str) -> list[str]:
        """Return the services that know the field."""
        return [source for source, fields in self.sources.items() if field in fields]

    def status(self, field: str) -> FieldStatus:
        """Return what the route does with a field. Raises KeyError for one that nobody thought of."""
        if (exception := _IN_STRUCT_BUT_NOT_HONOURED.get((self.name, field))) is not None:
            return exception
        if field in struct_fields(self.struct):
            return FieldStatus("honoured")
        if (unsupported := self.unsupported.get(field)) is not None:
            return FieldStatus("refused", unsupported.reason, unsupported.accepted)
        return FieldStatus("without effect", WITHOUT_EFFECT[field])


def struct_fields(struct: type) -> list[str]:
    """Return the names of a body's fields as they are sent."""
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    return [field.encode_name for field in info.fields]


CHAT = Route("chat", wire.ChatRequest, CHAT_FIELDS, {"OpenAI": OPENAI_CHAT, "vLLM": VLLM_CHAT, "LiteLLM": LITELLM_CHAT})
TEXT = Route("text", wire.TextRequest, TEXT_FIELDS, {"OpenAI": OPENAI_TEXT, "vLLM": VLLM_TEXT, "LiteLLM": LITELLM_TEXT})
