"""The execution of a request by its deployment, or by one of its fallbacks."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence

from dragoman.core import logs
from dragoman.core.answered_by import AnsweredBy, AttemptObserver
from dragoman.core.errors import DragomanError
from dragoman.core.events import Event
from dragoman.core.tasks import Task
from dragoman.gateway.admission.reservation import Reservation
from dragoman.gateway.routing.catalog import Deployment
from dragoman.gateway.routing.fallbacks import Fallbacks

_log = logs.get_logger(__name__)

Answer = Callable[[Deployment], AsyncGenerator[Event]]
"""Starts the answer of a deployment."""


async def answer_or_fall_back(
    deployment: Deployment,
    requests: Sequence[Task],
    *,
    answer: Answer,
    fallbacks: Fallbacks,
    reservation: Reservation,
    observer: AttemptObserver,
) -> AsyncGenerator[Event]:
    """Answer by the deployment, or by the first of its fallbacks that begins to. Raises core.errors.

    All prompts of the requests are answered by the same one, whose prices they are charged at.
    """
    requested = deployment
    excluded = {deployment.name, *(name for name in fallbacks.names if not reservation.may_fall_back(name))}
    while True:
        has_output = False
        try:
            async with contextlib.aclosing(answer(deployment)) as events:
                async for event in events:
                    if not has_output and deployment is not requested and deployment.router is None:
                        replica = deployment.replicas[0].name
                        observer.note_answer(AnsweredBy(deployment.name, replica, attempts=1, is_upstream=False))
                    has_output = True
                    yield event
            return
        except DragomanError as error:
            following = None if has_output else fallbacks.after(error, requests, excluded)
            if following is None:
                raise
            _log.warning("request_falls_back", deployment=deployment.name, to=following.name, reason=error.message)
        reservation.fall_back(following.name)
        excluded.add(following.name)
        deployment = following
