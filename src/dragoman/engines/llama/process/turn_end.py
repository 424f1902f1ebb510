"""Find the token that ends an answer by the chat template, for files that name another one."""

from dragoman.core import logs
from dragoman.core.errors import BadRequest
from dragoman.core.request import ChatPrompt, Message
from dragoman.engines.llama.native.model import Vocabulary
from dragoman.prompt.sandbox import TooManySteps
from dragoman.prompt.template import MAX_STEPS_IN_PLACE, ChatTemplate
from dragoman.prompt.tool_formats import FORMATS

_log = logs.get_logger(__name__)

_ANSWER, _NEXT = "Yes-9", "Well-9"


def turn_end_tokens(vocabulary: Vocabulary, chat_template: str | None) -> frozenset[int]:
    """Return the control token that the template writes behind an answer, if the model would not end there.

    Empty if the template may write an end token of the file, which is the usual case, or nothing that ends an answer
    for certain: where text is in an element or a channel, more of the answer may follow it.
    """
    ends = {vocabulary.piece(token).decode(errors="replace") for token in vocabulary.end_token_ids}
    if chat_template is None or "eos_token" in chat_template or any(end and end in chat_template for end in ends):
        return frozenset()
    template = ChatTemplate(
        chat_template,
        bos=vocabulary.bos_text,
        eos=vocabulary.eos_text,
        special_texts=vocabulary.control_tokens.texts,
        max_steps=MAX_STEPS_IN_PLACE,
    )
    question, answer = Message(role="user", content="Hi"), Message(role="assistant", content=_ANSWER)
    try:
        rendered = template.render(ChatPrompt(messages=(question, answer, Message(role="user", content=_NEXT))))
    except (BadRequest, TooManySteps):
        return frozenset()  # The template renders no conversation at all; each request is told so.
    spec = rendered.parser_spec
    element = spec.text_element
    if spec.in_channels or (element is not None and not element.prompt_end) or spec.text_markers is not None:
        return frozenset()
    behind = rendered.text.partition(_ANSWER)[2].partition(_NEXT)[0].lstrip()
    tokens = vocabulary.tokenize_fragment(behind)[:1]
    within = {vocabulary.special_token(text) for text in FORMATS[template.tool_format].markup.special_tokens}
    found = frozenset(token for token in tokens if vocabulary.is_special(token) and token not in within)
    if found:
        _log.info("turn_end_of_template", texts=sorted(vocabulary.piece(token).decode() for token in found))
    return found
