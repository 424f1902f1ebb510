import asyncio
from itertools import count

from dragoman.core.background_tasks import repeat
from dragoman.core.errors import Overloaded
from tests.support.captured_logs import capture_logs


async def test_a_loop_goes_on_after_every_error_and_logs_the_first_of_consecutive_ones() -> None:
    errors: list[Exception | None] = [
        *(RuntimeError("defect"), Overloaded("the database does not answer", 5), RuntimeError("defect")),
        *(None, RuntimeError("another")),
    ]
    rounds = count()
    done = asyncio.Event()

    async def run_round() -> None:
        number = next(rounds)
        if number == len(errors):
            done.set()
        elif number < len(errors) and (error := errors[number]) is not None:
            raise error

    with capture_logs() as logs:
        task = asyncio.create_task(repeat("test", run_round, 0.0))
        await done.wait()
        task.cancel()
        await asyncio.wait([task])
    assert [(log["event"], log["task"]) for log in logs] == [("background_task_failed", "test")] * 2
