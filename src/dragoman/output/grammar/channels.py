"""The grammar of an answer in gpt-oss's harmony format: messages in channels, of which the last answers or calls."""

from collections.abc import Mapping

from dragoman.output.grammar.lark import ANY_TEXT, quoted, token_or_text
from dragoman.output.grammar.tool_calls import SpecialTokenLookup


class ChannelGrammar:
    """Builds complete grammars. `arguments` has the Lark rule of each tool's arguments by the tool's name.

    The reasoning's header may stand first; the grammar goes on after the reasoning.
    """

    def __init__(self, arguments: Mapping[str, str], special_token: SpecialTokenLookup) -> None:
        self._arguments = arguments
        self._special_token = special_token

    def answer(self, answer: str = ANY_TEXT) -> str:
        """Allow an answer in the final channel, where the rule `answer` holds."""
        return self._assemble("final", answer)

    def answer_or_call(self, answer: str = ANY_TEXT) -> str:
        """Allow such an answer, or one call."""
        return self._assemble("(final | call)", answer)

    def call(self) -> str:
        """Allow one call. The model ends its turn with it."""
        return self._assemble("call", ANY_TEXT)

    def _assemble(self, last: str, answer: str) -> str:
        start, channel, message, end = (
            self._literal(text) for text in ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")
        )
        calls = " | ".join(
            f"{channel} {quoted(f'commentary to=functions.{name} ')} {self._literal('<|constrain|>')} "
            f'"json" {message} {rule}'
            for name, rule in self._arguments.items()
        )
        rules = [
            f"start: (reasoning turn | turn?) (preamble turn)? {last}",
            f'reasoning: {channel} "analysis" {message}',
            f'turn: {start} "assistant"',
            f'preamble: {channel} "commentary" {message} text_to_end',
            f"text_to_end: TEXT {end}" if self._special_token("<|end|>") else f"text_to_end[lazy]: {ANY_TEXT} {end}",
            f'final: {channel} "final" {message} answer',
            f"answer: {answer}",
            f"TEXT: {ANY_TEXT}",
        ]
        return "\n".join([*rules, f"call: {calls}"] if calls else rules)

    def _literal(self, text: str) -> str:
        return token_or_text(self._special_token(text), text)
