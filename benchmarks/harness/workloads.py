"""The prompts of benchmarks.engine: random texts from a word list, the same on every machine and for both servers."""

import random
from collections.abc import Callable
from typing import NamedTuple

TEXT_WORDS = 400
QUESTION_WORDS = 20
CLIENTS = 16

_WORD_LIST = """
able account across action after again against almost along always amount animal answer appear around autumn balance
basket because become before begin behind believe below beside better between beyond bitter border borrow bottle bottom
branch bread bridge bright bring brother brown build butter candle carry castle cattle center certain change charge
cheese choose circle clean clear climb close cloud coast color common corner cotton country course cover cross crowd
daily danger daughter decide degree desert different dinner direct doctor double doubt dream early earth eastern either
empty enemy engine enough equal evening every example famous farmer father figure finger finish flower follow foreign
forest forget forward friend garden gather gentle glass golden grain great green ground happen harbor harvest heavy
history honest hundred hungry iron island journey kitchen ladder language large later laugh learn leather letter level
light listen little machine market matter meadow member middle minute mirror modern moment morning mother mountain
narrow nation nature needle never night north nothing number ocean offer office orange order other paper pencil people
perfect picture plain planet plenty pocket point power present pretty promise proper quarter question quiet reach ready
reason record remember repeat return river round sailor school season second servant settle seven several shadow shape
sharp shelter silver simple sister smooth soldier southern special spring square station steady stone storm story
straight strange stream street strong sudden summer supply surface table teacher thousand through together tomorrow
toward travel valley value village visit voice wagon water weather western wheel window winter wonder wooden worker
world yellow yesterday young
"""

_WORDS = _WORD_LIST.split()


class Prompt(NamedTuple):
    """The texts of one request. There is always a system message, so that no chat template adds its own."""

    system: str
    question: str
    schema: dict[str, object] | None = None
    """The JSON schema of the answer."""


Conversations = list[list[Prompt]]
"""For each client, its requests in order."""


class Workload(NamedTuple):
    """One pattern of requests."""

    description: str
    conversations: Callable[[random.Random, int], Conversations]
    """Makes the prompts from a random source and the number of requests of each client."""

    def for_round(self, name: str, requests: int) -> Conversations:
        """Make the texts of the round `name`. They differ in each round, so that no cache holds them."""
        return self.conversations(random.Random(name), requests)


def text(source: random.Random, words: int) -> str:
    """Return a text with this number of words."""
    return " ".join(source.choices(_WORDS, k=words))


def _shared(source: random.Random, requests: int) -> Conversations:
    system = text(source, TEXT_WORDS)
    return [[Prompt(system, text(source, QUESTION_WORDS)) for _ in range(requests)] for _ in range(CLIENTS)]


def _unshared(source: random.Random, requests: int) -> Conversations:
    return [
        [Prompt(text(source, TEXT_WORDS), text(source, QUESTION_WORDS)) for _ in range(requests)]
        for _ in range(CLIENTS)
    ]


def _single(source: random.Random, requests: int) -> Conversations:
    system = text(source, TEXT_WORDS)
    return [[Prompt(system, text(source, QUESTION_WORDS)) for _ in range(2 * requests)]]


WORKLOADS = {
    "shared": Workload(f"{CLIENTS} clients, one system prompt of {TEXT_WORDS} words for all", _shared),
    "unshared": Workload(f"{CLIENTS} clients, a text of {TEXT_WORDS} words of its own in each request", _unshared),
    "single": Workload(f"1 client, a system prompt of {TEXT_WORDS} words, twice the requests", _single),
}
