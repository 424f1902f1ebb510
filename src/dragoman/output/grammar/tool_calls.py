"""Grammars of answers that are, or may become, tool calls."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from dragoman.output.grammar.lark import ANY_TEXT, SOME_TEXT, quoted, regex, token_or_text
from dragoman.output.grammar.parameters import Parameter, Parameters
from dragoman.output.grammar.values import ArgumentRules
from dragoman.output.markup import ID, JSON_TYPES, PLACEHOLDERS, TYPE, ToolCallMarkup, split_at_placeholders
from dragoman.output.text_element import TextElement

SpecialTokenLookup = Callable[[str], int | None]
"""Returns the id of a text that is one token of the model's vocabulary, else None."""


class ToolCallGrammar:
    """Builds complete grammars of answers with calls in one family's markup.

    `arguments` has the Lark rule of each tool's arguments, or the tagged parameters or rules that it has in this
    family, by the tool's name, and is not empty. `several` allows more than one call. `control_tokens` are the model's
    special tokens, except those that end an answer: all but the markup's may stand in free text, since models use them
    there.
    """

    def __init__(
        self,
        markup: ToolCallMarkup,
        arguments: Mapping[str, str | Parameters | ArgumentRules],
        *,
        several: bool,
        special_token: SpecialTokenLookup,
        control_tokens: Sequence[int],
    ) -> None:
        self._markup = markup
        self._several = several
        self._special_token = special_token
        reserved = {special_token(text) for text in markup.special_tokens}
        self._free_tokens = [token for token in control_tokens if token not in reserved]
        self._terminals: dict[str, int] = {}
        """Terminals of strings → their number."""
        self._parameter_rules: list[str] = []
        self._arguments = {name: self._rule_of_arguments(rule) for name, rule in arguments.items()}

    def only_calls(self) -> str:
        """Allow only calls."""
        return f"start: calls\n{self._calls()}"

    def calls_or_answer(self, answer: str) -> str:
        """Allow either only calls, or what `answer`, the body of a rule, allows."""
        return f"start: answer | calls\nanswer: {answer}\n{self._calls()}"

    def calls_with_element(self, element: TextElement, answer: str, reasoning: str) -> str:
        """Allow text in its element, calls after it, or only calls. `answer` has the rule of the text; empty: any.

        If no calls follow a text, it has one character or more, since the opening announced it.

        `reasoning` begins the reasoning, which may stand first. The grammar goes on after it.
        """
        if element.prompt_end:
            return self._calls_behind_prompt(element, answer)
        opening = "" if element.opened_by_prompt else self._literals(element.opening)
        calls = self._calls_alone(element)
        before = f"({self._literals(reasoning)})? " if reasoning else ""
        if answer:
            end = f"({self._literals(element.end)})?" if element.end else ""
            return "\n".join([f"start: {before}({opening} answer {end} | {calls})", f"answer: {answer}", self._calls()])
        if not element.closing:
            free = "(free TEXT)*" if self._free_tokens else ""
            start = f"start: {before}({opening} BEGUN {free} | {calls})"
            return "\n".join([start, f"BEGUN: {SOME_TEXT}", self._calls(), *self._text_rules()])
        first = self._beginning(element.closing)
        consumed = "".join(first)
        after = f"{self._literals(element.closing.removeprefix(consumed))} calls"
        if element.end == consumed:
            after = f"({after})?"
        elif element.end.startswith(consumed):
            after = f"({after} | {self._literals(element.end.removeprefix(consumed))})"
        start = f"start: {before}({opening} text | {opening} lead {after} | {calls})"
        return "\n".join([start, *self._lead(first), self._calls(), *self._text_rules()])

    def only_calls_with_element(self, element: TextElement) -> str:
        """Allow only calls, after an empty element if there must be one."""
        if element.prompt_end:
            return "\n".join([f"start: {self._first_call(element)}", *self._call_rules()])
        return f"start: {self._calls_alone(element)}\n{self._calls()}"

    def _calls_behind_prompt(self, element: TextElement, answer: str) -> str:
        """Allow text behind the element's opening, with or without calls at its end, or calls only."""
        start = (
            f"start: {self._literals(element.opening)} {'answer' if answer else 'body'} | {self._first_call(element)}"
        )
        rules = [f"answer: {answer}"] if answer else [f"body: {self._text_and_calls()}", *self._text_rules()]
        return "\n".join([start, *rules, *self._call_rules()])

    def _first_call(self, element: TextElement) -> str:
        """Match calls behind the end of the prompt."""
        first = self._alternatives(consumed_prefix=element.prompt_end)
        return f"({first}) {self._further_calls()}"

    def _text_and_calls(self) -> str:
        """Match text, and calls from the first name of a function behind the trigger on."""
        more = "(TEXT free)* " if self._free_tokens else ""
        return f"text | {more}named_call {self._further_calls()}"

    def _named_calls(self) -> Iterator[str]:
        """Yield the rules of a first call with the text before it: the text ends at a name behind the trigger."""
        end = self._literals(self._markup.tail + self._markup.call_close)
        heads = [self._markup.call_open + self._markup.head(name) for name in self._arguments]
        calls = (f"head_{number} {rule} {end}" for number, rule in enumerate(self._arguments.values()))
        yield f"named_call: {' | '.join(calls)}"
        yield from (f"head_{number}[lazy]: {ANY_TEXT} {quoted(head)}" for number, head in enumerate(heads))

    def _call_rules(self) -> list[str]:
        return [f"call: {self._alternatives()}", *self._argument_rules(), *self._named_calls()]

    def _calls_alone(self, element: TextElement) -> str:
        """Match calls without text, behind an empty element if there must be one or if the prompt has opened it."""
        if element.opened_by_prompt:
            return f"{self._literals(element.closing)} calls"
        return f"{self._literals(element.opening + element.closing)} calls" if element.before_calls else "calls"

    def calls_in_text(self) -> str:
        """Allow any text, in which the trigger begins a call."""
        if self._markup.only_at_start:
            beginning = self._markup.text_cannot_begin_with
            text = f"{ANY_TEXT} & ~/{beginning}(?s:.*)/" if beginning else _text_without_prefix(self._markup.trigger)
            answer = "FIRST (free TEXT)* | free TEXT (free TEXT)*" if self._free_tokens else "FIRST"
            return "\n".join([self.calls_or_answer(answer), f"FIRST: {text}", *self._text_rules()])
        if self._markup.trigger_has_name:
            return "\n".join([f"start: {self._text_and_calls()}", *self._text_rules(), *self._call_rules()])
        first = self._beginning(self._markup.trigger)
        call_rest = self._alternatives(self._markup.section_open, consumed_prefix="".join(first))
        if self._several and not self._markup.section_open:
            start = "(lead call_rest)* text"  # any text may stand between two calls
        else:
            start = f"text | lead call_rest {self._further_calls()}"
        return "\n".join(
            [
                f"start: {start}",
                f"call_rest: {call_rest}",
                f"call: {self._alternatives()}",
                *self._lead(first),
                *self._argument_rules(),
                *self._text_rules(),
            ]
        )

    def _calls(self) -> str:
        opening = self._alternatives(self._markup.section_open)
        prefix = self._special_token_id(self._markup.optional_prefix)
        before = "" if prefix is None else f"(<[{prefix}]>)? "
        calls = f"calls: {before}opening {self._further_calls()}\nopening: {opening}\ncall: {self._alternatives()}"
        return "\n".join([calls, *self._argument_rules()])

    def _further_calls(self) -> str:
        """Match what follows the first call of a section."""
        more = f"({self._literals(self._markup.separator)} call)*" if self._several else ""
        return f"{more} {self._literals(self._markup.section_close)}".strip()

    def _alternatives(self, section_open: str = "", consumed_prefix: str = "") -> str:
        """Match one call of any tool, without `consumed_prefix`, which is already matched."""
        markup = self._markup
        beginning = section_open + markup.call_open
        end = self._literals(markup.tail + markup.call_close)
        return " | ".join(
            f"{self._literals((beginning + markup.head(name)).removeprefix(consumed_prefix))} {arguments} {end}"
            for name, arguments in self._arguments.items()
        )

    def _rule_of_arguments(self, arguments: str | Parameters | ArgumentRules) -> str:
        """Return what matches the arguments of a tool."""
        if isinstance(arguments, str):
            if not self._markup.trigger_has_name:
                return arguments
            # They stand in three places.
            name = f"json_{len(self._parameter_rules)}"
            self._parameter_rules.append(f"{name}: {arguments}")
            return name
        if isinstance(arguments, Parameters):
            return self._parameters(arguments)
        self._parameter_rules += arguments.rules
        if arguments.tag and self._markup.elements is not None:
            self._parameter_rules.append(f"{arguments.tag}: {self._literals(self._markup.elements.prefix)}")
        for name, terminal in arguments.strings.items():
            number = self._terminals.setdefault(terminal, len(self._terminals))
            self._parameter_rules.append(f"{name}: {self._literals(arguments.quote)} string_{number}")
        return arguments.name

    def _parameters(self, parameters: Parameters) -> str:
        """Return a rule for the tagged parameters of a tool."""
        alternatives = [" ".join(map(self._parameter, members)) or '""' for members in parameters.alternatives]
        name = f"parameters_{len(self._parameter_rules)}"
        self._parameter_rules.append(f"{name}: {' | '.join(alternatives)}")
        return name

    def _parameter(self, parameter: Parameter) -> str:
        markup = self._markup.parameters
        assert markup is not None
        string, value = parameter.text, parameter.json
        after = markup.padding + markup.close + markup.after_close
        if parameter.nullable and markup.after_name_of_json is None:
            # As one terminal, since the lexer takes the longest one: a string would win over null.
            string, value = '"null"' if string is None else f'({string}) | "null"', ""
        options: list[str] = []
        if string is not None:
            number = self._terminals.setdefault(string, len(self._terminals))
            head = self._literals(markup.head(parameter.name, is_string=True))
            options.append(f"{head} string_{number} {self._literals(markup.after_close)}")
        if value:
            head = markup.head(parameter.name, is_string=False)
            if len(parameter.kinds) == 1:
                [kind] = parameter.kinds
                head = head.replace(TYPE, kind)
            head = self._literals(head)
            options.append(f"{head} {value} {self._literals(after)}")
        text = options[0] if len(options) == 1 else f"({' | '.join(options)})"
        return text if parameter.required else f"({text})?"

    def _argument_rules(self) -> Iterator[str]:
        """Yield the rules of parameters. Strings end with a closing tag as a special token or spelled in others."""
        yield from self._parameter_rules
        if not self._terminals:
            return
        padding, close = self._end_of_strings()
        *before, last = self._beginning(close)
        token = self._special_token_id(last)
        rest = self._literals(close.removeprefix("".join([*before, last])))
        for terminal, number in self._terminals.items():
            closed = "" if token is None else f"PADDED_{number} <[{token}]> {rest} | "
            yield f"string_{number}: {closed}spelled_{number}"
            yield f"spelled_{number}[lazy]: STRING_{number} {quoted(padding + close)}"
            if closed:
                yield f"PADDED_{number}: STRING_{number} {quoted(padding + ''.join(before))}"
            yield f"STRING_{number}: {terminal}"

    def _end_of_strings(self) -> tuple[str, str]:
        """Return the padding and the text at the end of strings without escapes."""
        if self._markup.parameters is not None:
            return self._markup.parameters.padding, self._markup.parameters.close
        if self._markup.elements is not None:
            return "", self._markup.elements.prefix
        assert self._markup.values is not None
        return "", self._markup.values.quotes[0]

    def _beginning(self, text: str) -> list[str]:
        """Return the first parts of a text, up to a special token if there is one."""
        parts = self._split_at_special_tokens(text)
        count = next((n for n, part in enumerate(parts, 1) if self._special_token_id(part) is not None), 1)
        return parts[:count]

    def _lead(self, first: Sequence[str]) -> list[str]:
        """Return rules that match text up to the first parts of the trigger, in special tokens or ordinary ones."""
        *before, last = first
        token = self._special_token_id(last)
        more = "(TEXT free)* " if self._free_tokens else ""
        as_token = "" if token is None else f"{more}LEAD <[{token}]> | "
        rules = [f"lead: {as_token}{more}spelled", f"spelled[lazy]: {ANY_TEXT} {quoted(''.join(first))}"]
        return rules if token is None else [*rules, f"LEAD: {ANY_TEXT} {quoted(''.join(before))}"]

    def _text_rules(self) -> list[str]:
        """Return rules for free text."""
        if not self._free_tokens:
            return ["text: TEXT", f"TEXT: {ANY_TEXT}"]
        return ["text: TEXT (free TEXT)*", f"free: <[{_token_ranges(self._free_tokens)}]>", f"TEXT: {ANY_TEXT}"]

    def _literals(self, text: str) -> str:
        return " ".join(
            self._literal(part)
            for piece in split_at_placeholders(text)
            for part in ([piece] if piece in PLACEHOLDERS else self._literal_parts(piece))
        )

    def _literal_parts(self, text: str) -> Iterator[str]:
        """Split text before and after special tokens and what stands before the tags of elements.

        The lexer takes the longest of the literals that may come next, although another one may be what follows.
        """
        elements = self._markup.elements
        for part in self._split_at_special_tokens(text):
            yield from [part] if elements is None else _split_at(part, [elements.prefix])

    def _literal(self, part: str) -> str:
        if part in PLACEHOLDERS:
            return regex({ID: self._markup.id_pattern, TYPE: JSON_TYPES}.get(part, PLACEHOLDERS[part]))
        return token_or_text(self._special_token_id(part), part)

    def _split_at_special_tokens(self, text: str) -> list[str]:
        """Split the text before and after special tokens."""
        tokens = [each for each in self._markup.special_tokens if self._special_token_id(each) is not None]
        return _split_at(text, tokens)

    def _special_token_id(self, part: str) -> int | None:
        return self._special_token(part) if part in self._markup.special_tokens else None


def answer_in_element(element: TextElement, answer: str, special_token: SpecialTokenLookup) -> str:
    """Return the grammar of an answer without calls. `answer` has the rule of the text."""

    def literals(text: str) -> str:
        known = {each: token for each in element.special_tokens if (token := special_token(each)) is not None}
        return " ".join(token_or_text(known.get(part), part) for part in _split_at(text, list(known)))

    opening = "" if element.opened_by_prompt else literals(element.opening)
    end = f"({literals(element.end)})?" if element.end else ""
    return f"start: {opening} answer {end}\nanswer: {answer}"


def _split_at(text: str, tokens: Sequence[str]) -> list[str]:
    """Split the text before and after these tokens."""
    if not tokens:
        return [text] if text else []
    longest_first = sorted(tokens, key=len, reverse=True)
    return [part for part in re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if part]


def _token_ranges(tokens: Sequence[int]) -> str:
    """Write token ids with runs as ranges: 3-5,9."""
    ranges: list[list[int]] = []
    for token in sorted(tokens):
        if ranges and token == ranges[-1][1] + 1:
            ranges[-1][1] = token
        else:
            ranges.append([token, token])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def _text_without_prefix(prefix: str) -> str:
    """Return a regular expression that matches every text without this prefix."""
    any_text = r"(?s:.*)"
    pattern = ""
    for character in reversed(prefix):
        code = rf"\x{{{ord(character):X}}}"
        pattern = f"(?:[^{code}]{any_text}|{code}{pattern})?" if pattern else f"(?:[^{code}]{any_text})?"
    return f"/{pattern}/"
