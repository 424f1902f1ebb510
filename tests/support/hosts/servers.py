"""dragoman on each of several machines, nginx before them and one PostgreSQL behind, all as deploy has them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.certificates import make_certificate
from tests.support.hosts.network import FRONT, Machine, Network
from tests.support.proxies import DEPLOY, NGINX_MAIN
from tests.support.server import ONE_THREAD, START_TIMEOUT_SECONDS, STOP_TIMEOUT_SECONDS

PORT = 8000
EDGE_URL = "https://10.0.0.5"
WITNESS_PORT = 9000

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

_SETTINGS = DEPLOY / "several-machines" / "dragoman.toml"
_MODEL_LINE = 'model = "smollm2-135m-instruct"'
_WITNESS = f"""
# Only here: jobs of this model are computed by the benchmark itself, which sees when.
[[deployments]]
name = "witnessed"

[[deployments.upstreams]]
url = "http://10.0.0.5:{WITNESS_PORT}"
kind = "openai"
model = "echo"
"""


def settings(model: str, hosts: int, *, witness: bool) -> str:
    """Return the settings of deploy/several-machines for so many machines, with another model, maybe with a witness."""
    text = _SETTINGS.read_text(encoding="utf-8")
    assert _MODEL_LINE in text
    head, *upstreams = text.replace(_MODEL_LINE, f'model = "{model}"').split("[[deployments.upstreams]]")
    return "[[deployments.upstreams]]".join([head, *upstreams[:hosts]]) + (_WITNESS if witness else "")


class Host:
    """dragoman on one machine."""

    def __init__(self, network: Network, machine: Machine, folder: Path, environment: Mapping[str, str]) -> None:
        """`folder` is the machine's disk, with the settings in dragoman.toml."""
        self.machine = machine
        self.url = f"http://{machine.address(FRONT)}:{PORT}"
        self._network = network
        self._folder = folder
        self._environment = {
            **os.environ,
            **ONE_THREAD,
            **environment,
            "DRAGOMAN_ACCOUNTS_JOURNAL_DIR": str(folder / "journals"),
            "TMPDIR": str(folder),
            "XDG_DATA_HOME": str(folder / "data"),
        }
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Start the server, without waiting until it is ready."""
        command = [sys.executable, "-m", "dragoman", "serve", "--config", str(self._folder / "dragoman.toml")]
        with (self._folder / "log").open("a") as log:
            self._process = self.machine.run(command, environment=self._environment, output=log)

    def lose(self) -> None:
        """Let the machine lose power."""
        self._network.lose(self.machine)
        assert self._process is not None
        self._process.wait(STOP_TIMEOUT_SECONDS)

    def restore(self) -> None:
        """Switch the machine on again, with the same disk, and start the server."""
        self._network.restore(self.machine)
        self.start()

    def stop(self) -> None:
        """Let the server end if it runs."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in map(int, children):  # nsenter passes no signals on.
            os.kill(child, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_SECONDS)

    def log(self) -> str:
        """Return what the server has logged."""
        return (self._folder / "log").read_text()

    def is_ready(self) -> bool:
        """Whether it says so to the machine of the clients."""
        try:
            with _opener.open(f"{self.url}/ready", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def wait_until_ready(self) -> None:
        """Wait. Raises AssertionError with the log if it takes too long."""
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self.is_ready():
            is_running = self._process is not None and self._process.poll() is None
            assert is_running, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)


@contextlib.contextmanager
def running_hosts(
    network: Network, folder: Path, settings_file: str, environment: Mapping[str, str]
) -> Iterator[list[Host]]:
    """Run a server on each machine of the network until the end of the block. Wait until each is ready in it."""
    hosts: list[Host] = []
    try:
        for machine in network.hosts:
            disk = folder / f"host{machine.number}"
            disk.mkdir(parents=True)
            (disk / "dragoman.toml").write_text(settings_file, encoding="utf-8")
            hosts.append(Host(network, machine, disk, environment))
        yield hosts
    finally:
        for host in hosts:  # They settle what they have; the network's end kills what is left.
            host.stop()


@contextlib.contextmanager
def running_nginx(network: Network, folder: Path) -> Iterator[Path]:
    """Run nginx with the file of deploy on the clients' machine until the end of the block; yields its certificate."""
    folder.mkdir()
    certificate = make_certificate(folder, "llm.example.com")
    text = (DEPLOY / "nginx" / "dragoman.conf").read_text(encoding="utf-8")
    text = text.replace("/etc/nginx/tls/", f"{folder}/")
    missing = [line for line in text.splitlines(keepends=True) if _names_missing_host(line, network)]
    for line in missing:
        text = text.replace(line, "")
    (folder / "dragoman.conf").write_text(text, encoding="utf-8")
    (folder / "nginx.conf").write_text(NGINX_MAIN.format(folder=folder), encoding="utf-8")
    for line in (DEPLOY / "several-machines" / "sysctl.conf").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition(" = ")
            # This thread is on that machine: /proc/sys/net shows its settings.
            Path("/proc/sys", name.replace(".", "/")).write_text(value)
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", f"{folder}/nginx.conf"], stderr=subprocess.DEVNULL)
    try:
        yield Path(certificate.certfile)
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_SECONDS)


def _names_missing_host(line: str, network: Network) -> bool:
    addresses = {machine.address(FRONT) for machine in network.hosts}
    words = line.split()
    return len(words) > 1 and words[0] == "server" and words[1].partition(":")[0] not in {*addresses, "{", "llm"}
