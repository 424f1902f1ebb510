"""The canonical request: every dialect translates to it and every engine understands it.

Only a dialect's wire.py distinguishes absent from null; here every value is decided. Queued requests are stored with
the fields that differ from their defaults, under the names of `rename` where it gives one.
"""

from typing import Any, Literal

import msgspec

Role = Literal["system", "user", "assistant", "tool"]


class RequestPart(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What requests are made of. A version that does not know a field does not read what uses it, but all else.

    A default is not stored, so it never changes.
    """


class ToolCall(RequestPart, frozen=True):
    """A tool call of an earlier answer."""

    id: str
    name: str
    arguments: str
    """JSON text, as the model wrote it."""


class TextPart(RequestPart, frozen=True, tag="text"):
    """A piece of a message's text."""

    text: str


REMOTE_SCHEMES = ("https://", "http://")
"""How addresses begin that must be fetched."""


class ImagePart(RequestPart, frozen=True, tag="image", weakref=True):
    """An image in a message."""

    url: str
    """Its address: of the scheme data, which holds the image itself, or of http or https."""
    detail: Literal["low", "high", "auto"] | None = None
    """How closely the model should look at it; None: the engine's default."""

    @property
    def is_remote(self) -> bool:
        """Whether it must be fetched."""
        return self.url.startswith(REMOTE_SCHEMES)


Part = TextPart | ImagePart


class Message(RequestPart, frozen=True, kw_only=True):
    """One turn of a conversation."""

    role: Role
    content: str | tuple[Part, ...]
    """Text, or several parts of which at least one is no text."""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an assistant's message."""
    tool_call_id: str | None = None
    """Of a tool's message: the call it answers."""
    reasoning: str | None = None
    """The assistant's reasoning before the message."""

    @property
    def text(self) -> str:
        """The text of all parts."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The images among the parts."""
        return (
            () if isinstance(self.content, str) else tuple(part for part in self.content if isinstance(part, ImagePart))
        )


class RegexFormat(RequestPart, frozen=True, tag="regex"):
    """The whole text matches a regular expression, in the syntax of Rust's regex crate."""

    pattern: str


class GrammarFormat(RequestPart, frozen=True, tag="grammar"):
    """The whole text is derived from a context-free grammar, in Lark's syntax or llama.cpp's GBNF."""

    grammar: str


class Tool(RequestPart, frozen=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON Schema of the arguments, which are an object; None: the function takes none."""
    strict: bool = False
    """Refuse a schema that cannot be enforced to the letter, instead of enforcing what can be."""
    text_format: RegexFormat | GrammarFormat | None = None
    """Constrains the only parameter of a tool that takes a text; None: any text."""


class ToolOptions(RequestPart, frozen=True):
    """The tools of a request and how they may be used. A request that may use none has no ToolOptions."""

    tools: tuple[Tool, ...]
    choice: Literal["auto", "required", "named"] = "auto"
    """auto: the model decides; required: at least one call; named: exactly one call of `name`."""
    name: str | None = None
    parallel: bool = True
    """Whether one answer may hold several calls."""
    allowed: tuple[str, ...] | None = None
    """The names of the tools that may be called, all of which the model sees; None: all."""

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        """The tools that the answer may call."""
        names = (self.name,) if self.choice == "named" else self.allowed
        return self.tools if names is None else tuple(tool for tool in self.tools if tool.name in names)

    @property
    def allows_multiple_calls(self) -> bool:
        """Whether the answer may hold more than one call."""
        return self.parallel and self.choice != "named"


ReasoningEffort = Literal["none", "minimal", "low", "medium", "high"]


Verbosity = Literal["low", "high"]


class PromptTruncation(RequestPart, frozen=True):
    """Shorten a prompt that has more tokens than this."""

    tokens: int | None = None
    """The most tokens of the prompt; None: as many as the context holds beside the answer."""
    answer_tokens: int = 1
    """The tokens of the context that are kept for the answer if `tokens` is None."""
    side: Literal["left", "right"] = "left"
    """Where tokens are dropped: left keeps the last ones of the prompt, right the first ones."""


class ChatPrompt(RequestPart, frozen=True, kw_only=True, tag="chat", rename={"reasoning_effort": "effort"}):
    """A conversation, to be rendered with a chat template."""

    messages: tuple[Message, ...]
    tools: ToolOptions | None = None
    reasoning_effort: ReasoningEffort | None = None
    """How much a reasoning model may reason; None: the default of its template."""
    verbosity: Verbosity | None = None
    """How much a model with such a control should write; None: its default."""
    template: str | None = None
    """Jinja source to use instead of the model's own."""
    template_arguments: dict[str, Any] = {}
    """Further variables for the template."""
    truncation: PromptTruncation | None = None
    """Of the rendered prompt."""
    documents: tuple[dict[str, Any], ...] = ()
    """For templates of models that answer from documents."""
    add_generation_prompt: bool = True
    """Whether the prompt ends with the beginning of the assistant's turn."""
    continue_final_message: bool = False
    """The prompt ends with the last message's content, which the answer continues, and nothing is added."""


class TextPrompt(RequestPart, frozen=True, tag="text"):
    """Text that the model continues as it stands. Special-token text in it becomes special tokens."""

    text: str
    truncation: PromptTruncation | None = None
    add_special_tokens: bool = True
    """Whether the tokens that the model expects at the beginning and at the end of a text are added, such as BOS."""


class TokenPrompt(RequestPart, frozen=True, tag="tokens"):
    """Token ids that the model continues as they stand; no special tokens are added."""

    token_ids: tuple[int, ...]
    truncation: PromptTruncation | None = None


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class JsonObjectFormat(RequestPart, frozen=True, tag="json_object"):
    """The answer is one JSON object."""


class JsonSchemaFormat(RequestPart, frozen=True, tag="json_schema"):
    """The answer is JSON that fits the schema."""

    schema: dict[str, Any] | bool = True
    strict: bool = False
    """Refuse a schema that cannot be enforced to the letter, instead of enforcing what can be."""


AnswerFormat = JsonObjectFormat | JsonSchemaFormat | RegexFormat | GrammarFormat


class SamplingParams(RequestPart, frozen=True, kw_only=True):
    """How tokens are sampled and when a choice ends; docs/sampling.md defines every field exactly.

    The defaults are the off values. Ranges are those of core.limits.
    """

    max_tokens: int | None = None
    """The most tokens of a choice; None: the rest of the context. Always capped by the context.

    0, which needs `GenerationRequest.echo`: only the prompt is reported.
    """
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    """Unsigned 64 bits; None: drawn from the operating system."""
    allowed_token_ids: tuple[int, ...] | None = None
    """The only tokens that may be sampled; None: all."""
    bad_words: tuple[str, ...] = ()
    """Words whose tokens must not be sampled one after another (output.bad_words)."""
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_text: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    defaults: tuple[str, ...] = ()
    """Fields that have their dialect's own default, since the client did not say more. An engine without them is not
    refused for them."""


QUEUED_PRIORITY_OFFSET = 256
"""Added to the priority of queued requests: engines run all others before them, and preempt them first."""


class GenerationRequest(
    RequestPart,
    frozen=True,
    kw_only=True,
    rename={"response_format": "answer_format", "resume_token_ids": "begun"},
):
    """One prompt, from which `n` independent choices are generated."""

    model: str
    """The name that the client sent: of a deployment or an adapter, or an alias."""
    prompt: Prompt
    sampling: SamplingParams = SamplingParams()
    n: int = 1
    echo: bool = False
    """Every choice begins with the text of the prompt, and with its log-probabilities if requested."""
    priority: int = 0
    """Waiting requests run lowest number first, and in the order of arrival among equals."""
    response_format: AnswerFormat | None = None
    """Constrains the answer's text, not its tool calls or its reasoning. None: any text."""
    logprobs: int | None = None
    """Report the log-probability of every token of the answer's text, and of this many likeliest alternatives."""
    prompt_logprobs: int | None = None
    """Report the log-probability of every token of the prompt, and of this many likeliest alternatives."""
    reports_prompt: bool = False
    """Begin every choice with the tokens of the prompt (events.PromptTokens)."""
    best_of: int | None = None
    """Generate this many candidates, and answer with the `n` of the highest mean log-probability, best first."""
    resume_token_ids: tuple[tuple[int, ...], ...] = ()
    """For each choice, the tokens that an earlier attempt generated, END tokens included: generation resumes there.

    The whole answer is sent again from its beginning, as if it had been generated in one attempt; only the ids of its
    tool calls are new. Empty: start from the beginning. Log-probabilities cannot be restored: a request with them, or
    with `best_of`, is refused and has to start from the beginning.
    """
    adapter: str | None = None
    """The canonical name of the adapter that `model` resolves to; None: no adapter. The gateway sets it."""
    owner: str = ""
    """Whom the request is computed for: an account or a key, never the key itself. The gateway sets it.

    Owners take turns, and share no prefixes with each other. Requests without keys have one owner, the empty one.
    """
    cache_salt: str = ""
    """Requests of one owner share prefixes only if they have the same salt."""
    affinity: str = ""
    """Requests of one owner with an equal one go to the same replica where nothing else decides; empty: to any."""
    is_buffered: bool = False
    """Whether its client gets the answer as a whole, so that an engine may send many tokens together. The gateway sets
    it."""
    request_id: str = ""
    """That of core.context.Caller, for the logs of other servers. The gateway sets it; empty: it is a job's."""
    trace: str = ""
    """As in core.context.Caller. The gateway sets it."""
