"""What requests need of an engine."""

import msgspec
import pytest

from dragoman.core.capabilities import ALL_CAPABILITIES, Capability, missing_need, needs_beyond, needs_more_than
from dragoman.core.request import (
    ChatPrompt,
    GenerationRequest,
    GrammarFormat,
    ImagePart,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    PromptTruncation,
    RegexFormat,
    SamplingParams,
    TextPrompt,
    TokenPrompt,
    Tool,
    ToolOptions,
)

HELLO = Message(role="user", content="Hello")
CHAT = ChatPrompt(messages=(HELLO,))
TOOLS = (Tool("now"),)
NO_CAPABILITIES: frozenset[Capability] = frozenset()


def chat(**fields: object) -> GenerationRequest:
    return GenerationRequest(model="m", prompt=msgspec.structs.replace(CHAT, **fields))


def request(**fields: object) -> GenerationRequest:
    return msgspec.structs.replace(chat(), **fields)


def sampling(**fields: object) -> GenerationRequest:
    return request(sampling=msgspec.structs.replace(SamplingParams(), **fields))


NEEDS: list[tuple[GenerationRequest, Capability]] = [
    (request(prompt=TextPrompt("a")), "text_prompt"),
    (request(prompt=TokenPrompt((1,))), "token_prompt"),
    (chat(truncation=PromptTruncation()), "prompt_truncation"),
    (chat(messages=(Message(role="user", content=(ImagePart("data:,"),)),)), "images"),
    (chat(tools=ToolOptions(TOOLS)), "tools"),
    (chat(tools=ToolOptions(TOOLS, "required")), "tool_choice"),
    (chat(tools=ToolOptions(TOOLS, allowed=("now",))), "allowed_tools"),
    (chat(tools=ToolOptions(TOOLS, parallel=False)), "single_tool_call"),
    (chat(reasoning_effort="low"), "reasoning_effort"),
    (chat(verbosity="low"), "verbosity"),
    (chat(template="{{ messages }}"), "chat_template"),
    (chat(template_arguments={"x": 1}), "template_arguments"),
    (chat(documents=({"text": "a"},)), "documents"),
    (chat(add_generation_prompt=False), "open_prompt"),
    (chat(continue_final_message=True), "continued_message"),
    (request(response_format=JsonObjectFormat()), "json_object"),
    (request(response_format=JsonSchemaFormat()), "json_schema"),
    (request(response_format=RegexFormat("a")), "regex"),
    (request(response_format=GrammarFormat("start: /a/")), "grammar"),
    (sampling(min_tokens=1), "min_tokens"),
    (sampling(top_k=3), "top_k"),
    (sampling(min_p=0.1), "min_p"),
    (sampling(repetition_penalty=1.1), "repetition_penalty"),
    (sampling(presence_penalty=0.1), "presence_penalty"),
    (sampling(frequency_penalty=0.1), "frequency_penalty"),
    (sampling(logit_bias={1: 1.0}), "logit_bias"),
    (sampling(seed=1), "seed"),
    (sampling(allowed_token_ids=(1,)), "allowed_token_ids"),
    (sampling(bad_words=("a",)), "bad_words"),
    (sampling(stop=("a",)), "stop"),
    (sampling(stop_token_ids=(1,)), "stop_token_ids"),
    (sampling(ignore_eos=True), "ignore_eos"),
    (sampling(include_stop_text=True), "stop_text"),
    (sampling(skip_special_tokens=False), "special_tokens"),
    (sampling(spaces_between_special_tokens=False), "special_tokens"),
    (request(n=2), "several_choices"),
    (request(best_of=2), "several_choices"),
    (request(best_of=2), "logprobs"),
    (request(echo=True), "echo"),
    (request(cache_salt="a"), "prefix_isolation"),
    (request(logprobs=0), "logprobs"),
    (request(prompt_logprobs=0), "prompt_logprobs"),
    (request(reports_prompt=True), "prompt_tokens"),
    (request(resume_token_ids=((1,),)), "resume"),
]

NEEDED_BY_NO_REQUEST: set[Capability] = {"exact_token_counts", "tokenize", "hedging"}


@pytest.mark.parametrize(("needing", "capability"), NEEDS)
def test_a_request_needs_what_it_asks_for(needing: GenerationRequest, capability: Capability) -> None:
    missing = missing_need(needing, ALL_CAPABILITIES - {capability})
    assert missing is not None
    assert missing.capability == capability
    assert missing_need(needing, ALL_CAPABILITIES) is None
    for lacked in ({capability}, {capability, "images"}, {capability, "images", "verbosity"}):
        needs_more = needs_more_than(ALL_CAPABILITIES - lacked)
        assert needs_more is not None
        assert needs_more(needing)
    assert needs_more_than(ALL_CAPABILITIES) is None


def test_every_capability_is_needed_by_some_request() -> None:
    assert {capability for _, capability in NEEDS} == ALL_CAPABILITIES - NEEDED_BY_NO_REQUEST


def test_every_sampling_parameter_is_taken_by_all_engines_or_needs_a_capability() -> None:
    needing = {need.parameter for need, _ in needs_beyond(NO_CAPABILITIES)}
    assert set(SamplingParams.__struct_fields__) - needing == {"max_tokens", "temperature", "top_p", "defaults"}


def test_plain_text_of_a_conversation_needs_nothing() -> None:
    needs_more, needs_few_more = (
        needs_more_than(NO_CAPABILITIES),
        needs_more_than(ALL_CAPABILITIES - {"images", "tools"}),
    )
    assert needs_more is not None
    assert needs_few_more is not None
    for plain in (
        chat(),
        sampling(top_k=40, defaults=("top_k",)),
        sampling(temperature=0.5, top_p=0.9, max_tokens=3),
    ):
        assert missing_need(plain, NO_CAPABILITIES) is None
        assert not needs_more(plain)
        assert not needs_few_more(plain)
