"""Forms of a conversation that more templates accept than the one it was sent in."""

from collections.abc import Iterator, Sequence

import msgspec

from dragoman.core.request import Message


def other_forms(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Yield the conversation in forms that more templates accept: those that differ from it and from each other."""
    forms = [list(messages)]
    joined, merged = join_system(messages), merge_system(messages)
    turns, merged_turns = _join_turns(joined), _join_turns(merged)
    for form in (joined, turns, merged, merged_turns, _join_results(turns), _join_results(merged_turns)):
        if form not in forms:
            forms.append(form)
            yield form


def join_system(messages: Sequence[Message]) -> list[Message]:
    """Put the text of all system messages into one at the beginning. Unchanged without one."""
    system = [message.text for message in messages if message.role == "system"]
    if not system:
        return list(messages)
    rest = [message for message in messages if message.role != "system"]
    return [Message(role="system", content="\n\n".join(system)), *rest]


def merge_system(messages: Sequence[Message]) -> list[Message]:
    """Move the text of all system messages in front of the first user message. Unchanged without a user message."""
    system = [message.text for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    first_user = next((index for index, message in enumerate(rest) if message.role == "user"), None)
    if not system or first_user is None:
        return list(messages)
    user = rest[first_user]
    rest[first_user] = Message(role="user", content="\n\n".join([*system, user.text]), name=user.name)
    return rest


def _join_turns(messages: Sequence[Message]) -> list[Message]:
    """Join consecutive messages of a user, and of the assistant if neither calls a function nor gives its reasoning."""
    joined: list[Message] = []
    for message in messages:
        last = joined[-1] if joined else None
        if last is not None and last.role == message.role and _is_plain(last) and _is_plain(message):
            joined[-1] = msgspec.structs.replace(last, content=f"{last.text}\n\n{message.text}")
        else:
            joined.append(message)
    return joined


def _join_results(messages: Sequence[Message]) -> list[Message]:
    """Put a user's message behind results into the last one, for templates that demand an answer in between."""
    joined: list[Message] = []
    for message in messages:
        last = joined[-1] if joined else None
        if last is not None and (last.role, message.role) == ("tool", "user"):
            joined[-1] = msgspec.structs.replace(last, content=f"{last.text}\n\n{message.text}")
        else:
            joined.append(message)
    return joined


def _is_plain(message: Message) -> bool:
    return message.role in ("user", "assistant") and not message.tool_calls and message.reasoning is None
