"""The execution of a request by its deployment, or by one of its fallbacks."""

from collections.abc import Callable, Coroutine, Sequence
from typing import TypeVar

from dragoman.core import logs
from dragoman.core.answered_by import AnsweredBy, AttemptObserver
from dragoman.core.errors import DragomanError
from dragoman.core.tasks import Task
from dragoman.gateway.admission.reservation import Reservation
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.fallbacks import Fallbacks

_log = logs.get_logger(__name__)

AnswerT = TypeVar("AnswerT")

Open = Callable[[Deployment], Coroutine[None, None, AnswerT]]
"""Has the requests answered by a deployment, and returns the answer when it has begun."""


async def answer_or_fall_back(
    deployment: Deployment,
    requests: Sequence[Task],
    *,
    open_answer: Open[AnswerT],
    fallbacks: Fallbacks,
    reservation: Reservation,
    observer: AttemptObserver,
) -> AnswerT:
    """Return the answer of the deployment, or of the first of its fallbacks that begins to. Raises core.errors.

    All prompts of the requests are answered by the same one, whose prices they are charged at.
    """
    requested = deployment
    excluded = {deployment.name, *(name for name in fallbacks.names if not reservation.may_fall_back(name))}
    while True:
        try:
            answer = await open_answer(deployment)
        except DragomanError as error:
            following = fallbacks.after(error, requests, excluded)
            if following is None:
                raise
            _log.warning("request_falls_back", deployment=deployment.name, to=following.name, reason=error.message)
        else:
            if deployment is not requested and deployment.router is None:
                replica = deployment.replicas[0].name
                observer.note_answer(AnsweredBy(deployment.name, replica, attempts=1, is_upstream=False))
            return answer
        reservation.fall_back(following.name)
        excluded.add(following.name)
        deployment = following
