"""Fields that the services behind this dialect know and this server refuses by name, since they change the answer.

docs/dialects.md lists them together with those that are honoured and those without effect here.
"""

from dragoman.dialects.http.validation import UnsupportedField

_NO_BEAM_SEARCH = "there is no beam search here"
_NO_TRANSFER = "prompts are computed where they are answered"
_NO_UPSTREAM = "the settings of this server say where requests go"
_NO_PROMPTS_STORED = "prompts are not stored here"
_NO_PROVIDER_TEMPLATE = "prompts are rendered with the model's template; see chat_template"
_NO_REWRITING = "messages are rendered as they were sent"
_TEXT_ONLY = "the models give text only"

COMMON_FIELDS: dict[str, UnsupportedField] = {
    # vLLM
    "use_beam_search": UnsupportedField(_NO_BEAM_SEARCH, (False,)),
    "length_penalty": UnsupportedField(_NO_BEAM_SEARCH, (1.0,)),
    "early_stopping": UnsupportedField(_NO_BEAM_SEARCH, (False,)),
    "logits_processors": UnsupportedField("no code of clients runs here", ([],)),
    "logprob_token_ids": UnsupportedField("ask for top_logprobs or logprobs"),
    "watermarking": UnsupportedField("answers are not watermarked", (False,)),
    "repetition_detection": UnsupportedField("answers are not searched for repetitions"),
    "thinking_token_budget": UnsupportedField("reasoning is limited with reasoning_effort", (-1,)),
    "kv_transfer_params": UnsupportedField(_NO_TRANSFER, ({},)),
    "ec_transfer_params": UnsupportedField(_NO_TRANSFER, ({},)),
    "vllm_xargs": UnsupportedField("there are no extensions to pass them to", ({},)),
    "guided_whitespace_pattern": UnsupportedField("a grammar or a regular expression can fix the white space"),
    # LiteLLM
    "mock_response": UnsupportedField("answers are the model's"),
    "mock_tool_calls": UnsupportedField("answers are the model's"),
    "mock_timeout": UnsupportedField("timeouts are not simulated", (False,)),
    "fallbacks": UnsupportedField("only the requested model answers", ([],)),
    "context_window_fallback_dict": UnsupportedField("only the requested model answers", ({},)),
    "model_list": UnsupportedField(_NO_UPSTREAM, ([],)),
    "api_base": UnsupportedField(_NO_UPSTREAM),
    "base_url": UnsupportedField(_NO_UPSTREAM),
    "custom_llm_provider": UnsupportedField(_NO_UPSTREAM, ("",)),
    "deployment_id": UnsupportedField(_NO_UPSTREAM),
    "extra_body": UnsupportedField("send its members as fields of the request", ({},)),
    "additional_drop_params": UnsupportedField("leave those fields out", ([],)),
    "prompt_id": UnsupportedField(_NO_PROMPTS_STORED),
    "prompt_variables": UnsupportedField(_NO_PROMPTS_STORED, ({},)),
    "prompt_label": UnsupportedField(_NO_PROMPTS_STORED),
    "prompt_version": UnsupportedField(_NO_PROMPTS_STORED),
    "guardrails": UnsupportedField("there are no guardrails here", ([],)),
    "knowledge_bases": UnsupportedField("nothing is retrieved for a prompt", ([],)),
    "vector_store_ids": UnsupportedField("nothing is retrieved for a prompt", ([],)),
    "roles": UnsupportedField(_NO_PROVIDER_TEMPLATE, ({},)),
    "initial_prompt_value": UnsupportedField(_NO_PROVIDER_TEMPLATE, ("",)),
    "final_prompt_value": UnsupportedField(_NO_PROVIDER_TEMPLATE, ("",)),
    "bos_token": UnsupportedField(_NO_PROVIDER_TEMPLATE, ("",)),
    "eos_token": UnsupportedField(_NO_PROVIDER_TEMPLATE, ("",)),
    "supports_system_message": UnsupportedField(_NO_REWRITING, (True,)),
    "ensure_alternating_roles": UnsupportedField(_NO_REWRITING, (False,)),
    "user_continue_message": UnsupportedField(_NO_REWRITING),
    "assistant_continue_message": UnsupportedField(_NO_REWRITING),
    "merge_reasoning_content_in_choices": UnsupportedField("reasoning has a member of its own", (False,)),
    "complete_response": UnsupportedField("stream decides whether an answer is streamed", (False,)),
    "allowed_model_region": UnsupportedField("this server has one region"),
}
"""Of both routes."""

CHAT_FIELDS: dict[str, UnsupportedField] = {
    **COMMON_FIELDS,
    # OpenAI
    "audio": UnsupportedField(_TEXT_ONLY),
    "modalities": UnsupportedField(_TEXT_ONLY, (["text"], [])),
    "prediction": UnsupportedField("answers are not predicted"),
    "web_search_options": UnsupportedField("nothing is searched for"),
    "moderation": UnsupportedField("nothing is moderated"),
    # vLLM
    "return_prompt_text": UnsupportedField("return_token_ids returns the prompt's tokens", (False,)),
    # LiteLLM
    "thinking": UnsupportedField("reasoning is controlled with reasoning_effort", ({"type": "disabled"},)),
    "include_server_side_tool_invocations": UnsupportedField("tools are called by clients", (False,)),
}
"""Of the chat route."""

TEXT_FIELDS: dict[str, UnsupportedField] = {
    **COMMON_FIELDS,
    "prompt_embeds": UnsupportedField("prompts are text or token ids", ([],)),
}
"""Of the text route."""
