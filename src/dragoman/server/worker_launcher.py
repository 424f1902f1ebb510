"""The process that forks HTTP workers, so that they share the memory of what it has imported.

Started as `python -m dragoman.server.worker_launcher` with two descriptors for each worker, its standard input and
output. Prints the workers' ids and ends at once: nothing runs in it but imports and forks. See server/child_group.py.
"""

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

from dragoman.core.child_process import STANDARD_INPUT, STANDARD_OUTPUT, end_with_parent
from dragoman.core.forked_process import show_as_arguments
from dragoman.server import worker

_PARENT_CHECK_SECONDS = 0.001


def main() -> int:
    """Fork the workers and end; in each of them, serve. Returns the worker's exit status."""
    end_with_parent()
    return launch([int(argument) for argument in sys.argv[1:]], worker.main)


def launch(descriptors: Sequence[int], serve: Callable[[], int]) -> int:
    """Fork a worker for each two descriptors, and end this process. Returns in the workers, what `serve` returns."""
    launcher_id = os.getpid()
    gc.freeze()  # A collection writes to each object that it looks at, and what is written to is shared no more.
    first = 2 * _fork_workers(len(descriptors) // 2)
    become_worker(descriptors[first], descriptors[first + 1], descriptors, launcher_id)
    return serve()


def _fork_workers(count: int) -> int:
    """Fork the workers, and end this process. Returns in each of them its number, from 0."""
    process_ids: list[int] = []
    status = 0
    try:
        for number in range(count):
            process_id = os.fork()
            if not process_id:
                return number
            process_ids.append(process_id)
        os.write(STANDARD_OUTPUT, " ".join(map(str, process_ids)).encode())
    except OSError as error:
        print(f"dragoman: no further worker can be forked: {error}", file=sys.stderr)
        for process_id in process_ids:
            os.kill(process_id, signal.SIGKILL)
        status = 1
    os._exit(status)  # The end of the interpreter would write to all objects.


def become_worker(standard_input: int, standard_output: int, unused: Sequence[int], launcher_id: int) -> None:
    """Be a process as `python -m dragoman.server.worker` starts it, and wait for the launcher's parent to adopt it."""
    os.setsid()
    os.dup2(standard_input, STANDARD_INPUT)
    os.dup2(standard_output, STANDARD_OUTPUT)
    for descriptor in unused:
        os.close(descriptor)
    show_as_arguments(worker.__name__)
    while os.getppid() == launcher_id:  # A worker ends with its parent. A process closes its files before it ends.
        time.sleep(_PARENT_CHECK_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
