"""`dragoman serve` with accounts, whose processes can be killed and restarted on the same port."""

import contextlib
import os
import random
import signal
from collections.abc import Iterator, Mapping

from tests.support.ports import free_port
from tests.support.server import ENGINE_PROCESS, WORKER_PROCESS, RunningServer, running_server


class KillableServer:
    """A sequence of servers on the same port."""

    def __init__(self, model: str, environment: Mapping[str, str]) -> None:
        """`model` is the argument of `dragoman serve`; "" serves the bundled model."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._arguments = [*([model] if model else []), "--port", str(self.port)]
        self._environment = environment
        self._stack = contextlib.ExitStack()
        self._server = self._start()

    @property
    def process_id(self) -> int:
        """Process id of the current server's parent process."""
        return self._server.process.pid

    def restart(self) -> None:
        """Kill the parent alone, which its children must notice, and start a new server."""
        _kill(self._server.process.pid)
        self._stack.close()
        self._server = self._start()

    def kill_random_process(self, rng: random.Random) -> str:
        """Kill the whole server and restart it, or kill one of its processes. Returns which kind was killed."""
        workers, engines = self._server.children(WORKER_PROCESS), self._server.children(ENGINE_PROCESS)
        kind = rng.choice(["server", *(["worker"] if workers else []), *(["engine"] if engines else [])])
        match kind:
            case "server":
                _kill(self._server.process.pid, *workers, *engines)
                self._stack.close()
                self._server = self._start()
            case "worker":
                _kill(rng.choice(workers))
            case "engine":
                _kill(rng.choice(engines))
        return kind

    def close(self) -> None:
        """Stop the current server."""
        self._stack.close()

    def _start(self) -> RunningServer:
        return self._stack.enter_context(running_server(*self._arguments, environment=self._environment))


def _kill(*process_ids: int) -> None:
    for process_id in process_ids:
        with contextlib.suppress(ProcessLookupError):  # It may have ended by itself.
            os.kill(process_id, signal.SIGKILL)


@contextlib.contextmanager
def killable_server(model: str, environment: Mapping[str, str]) -> Iterator[KillableServer]:
    """Start a server, wait until it is ready, and stop it at the end."""
    server = KillableServer(model, environment)
    try:
        yield server
    finally:
        server.close()
