"""What `dragoman serve` prints when it is ready: what is served, where, and a request to try."""

import os
import socket
import sys
from collections.abc import Sequence

from dragoman.core import logs
from dragoman.core.child_process import discard_standard_output
from dragoman.core.embedding import ModelKind
from dragoman.server.planning import DeploymentPlan
from dragoman.server.settings import Settings
from dragoman.server.start_checks import has_keys

_EXAMPLES: dict[ModelKind, tuple[str, str]] = {
    "generation": (
        "/v1/chat/completions",
        '"messages": [{"role": "user", "content": "What is the capital of France?"}]',
    ),
    "embeddings": ("/v1/embeddings", '"input": ["The capital of France", "Paris"]'),
    "rerank": ("/v1/rerank", '"query": "capital of France", "documents": ["Rome is in Italy.", "Paris is in France."]'),
}
"""Path and fields of a request to try."""

_log = logs.get_logger(__name__)


def announce_server(settings: Settings, plans: Sequence[DeploymentPlan], listener: socket.socket) -> None:
    """Print the announcement."""
    host, port = ("", 0) if settings.uds is not None else listener.getsockname()[:2]
    try:
        print(announcement(settings, plans, host, port), flush=True)
    except OSError as error:  # A full disk, or a reader that is gone, is no reason not to serve.
        _log.warning("announcement_not_written", reason=error.strerror)
        discard_standard_output()


def announcement(settings: Settings, plans: Sequence[DeploymentPlan], host: str, port: int) -> str:
    """Return what is served, where, and a request to try. Host and port mean nothing where a Unix socket is set."""
    scheme = "http" if settings.ssl_certfile is None else "https"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    place, option = url, ""
    if settings.uds is not None:
        url, place, option = f"{scheme}://localhost", f"unix:{settings.uds}", f"--unix-socket {settings.uds} "
    lines = [f"{_bold('dragoman')} serves {_listed(plans)}", f"  at {_bold(place)}"]
    if settings.console.enabled and not settings.console.hosts and settings.uds is None:
        lines.append(f"  for browsers: {url}{settings.console.base_path}")
    path, fields = _EXAMPLES[plans[0].kind]
    key = "-H 'Authorization: Bearer KEY' " if has_keys(settings) else ""
    made = ", with a KEY that `dragoman keys create` makes" if settings.accounts.database else ""
    body = f'{{"model": "{plans[0].name}", {fields}}}'
    return "\n".join([*lines, "", f"Try{made}:", f"  curl {option}{url}{path} {key}-d '{body}'", ""])


def _listed(plans: Sequence[DeploymentPlan]) -> str:
    *others, last = (f"{_bold(plan.name)}{_alias_suffix(plan)}{_adapter_suffix(plan)}" for plan in plans)
    return f"{', '.join(others)} and {last}" if others else last


def _bold(text: str) -> str:
    """Make the text bold for a terminal, unless its user wants no colours. rich would delay every start."""
    return f"\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def _alias_suffix(plan: DeploymentPlan) -> str:
    return f" (also called {', '.join(plan.aliases)})" if plan.aliases else ""


def _adapter_suffix(plan: DeploymentPlan) -> str:
    names = ", ".join(record.adapter.name for record in plan.adapters)
    return f" with the adapters {names}" if names else ""
