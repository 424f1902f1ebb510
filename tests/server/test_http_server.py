"""In a process of its own: a signal to it ends it, or does not."""

import signal
import subprocess
import sys

import pytest

SERVES = """
import socket
import uvicorn
from dragoman.server.http_server import HttpServer, bounded_protocol
from dragoman.server.settings import HttpSettings

config = uvicorn.Config(None, interface="asgi3", http=bounded_protocol(HttpSettings(), ()), log_config=None)
config.lifespan = "off"
config.timeout_graceful_shutdown = 1
with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    HttpServer(config, lambda: print("drains"), None, 1.0).run([listener])
print("exports its last spans")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_and_not_what_is_done_behind_it(number: int) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVES], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == "drains\nexports its last spans\n"
    assert process.returncode == 0
