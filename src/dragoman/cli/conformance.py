"""`dragoman conformance`: check any server against what a dialect promises."""

from typing import Annotated

import typer

from dragoman.cli.database_access import FAILURE, USAGE_ERROR, error_exit
from dragoman.cli.key_option import KeyOption, read_key

_TIMEOUT_SECONDS = 120.0


def conformance(
    url: Annotated[str, typer.Argument(help="Base URL that clients of the dialect are given, such as http://HOST/v1.")],
    dialect: Annotated[str, typer.Option(help="openai, responses, infermatic, float16, empower, arcee or scale.")],
    model: Annotated[str, typer.Option(help="Model to ask.")],
    key: KeyOption = None,
    report: Annotated[str, typer.Option("--report", help="text, json or junit.")] = "text",
    timeout: Annotated[float, typer.Option(help="Seconds that each request may take.")] = _TIMEOUT_SECONDS,
) -> None:
    """Check which of a dialect's promises a server keeps.

    It may be any server, and is sent some thirty requests. The exit status is 1 if it breaks one.
    """
    import httpx

    from dragoman.conformance.dialects import PROFILES
    from dragoman.conformance.promises import ServerUnderTest, check_all
    from dragoman.conformance.report import REPORTS

    for name, value, allowed in (("--dialect", dialect, PROFILES), ("--report", report, REPORTS)):
        if value not in allowed:
            raise error_exit(f"{name} must be one of {', '.join(allowed)}, got {value}", USAGE_ERROR)
    secret = read_key(key)
    with httpx.Client(base_url=url, timeout=timeout) as client:
        server = ServerUnderTest(client, PROFILES[dialect], model, secret)
        results = list(check_all(server))
    typer.echo(REPORTS[report](dialect, results))
    if any(result.state == "failed" for result in results):
        raise typer.Exit(FAILURE)
