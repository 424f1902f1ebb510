"""`dragoman upstreams`: add, drain and remove upstreams while servers run."""

from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.cli.database_access import (
    FAILURE,
    ConfigOption,
    DatabaseOption,
    error_exit,
    load_settings_with_database,
    open_administrator,
    open_database_of,
)
from dragoman.cli.tables import print_table

if TYPE_CHECKING:
    from dragoman.accounts.administration.upstreams import StoredUpstream
    from dragoman.server.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    help="Add, drain and remove upstreams. Running servers follow within a second, and later ones do from their start.",
)

UpstreamArgument = Annotated[str, typer.Argument(metavar="UPSTREAM", help="Its name, such as assistant/0.")]


@app.command("list")
def list_all(database: DatabaseOption = None, config: ConfigOption = None) -> None:
    """List the upstreams of the settings and those that were added. `/admin/upstreams` has their states, too."""
    from dragoman.accounts.administration.upstreams import list_upstreams

    settings = load_settings_with_database(database, config)
    with open_database_of(settings) as db:
        stored = {each.name: each for each in list_upstreams(db)}
    configured = [
        (name, deployment, url, "settings", name in stored and stored[name].is_draining and stored[name].url == url)
        for name, (deployment, url) in _configured(settings).items()
    ]
    added = [
        (each.name, each.deployment, each.url, "added", each.is_draining)
        for each in stored.values()
        if each.settings is not None
    ]
    columns = dict.fromkeys(("upstream", "deployment", "url", "from", "draining"), "left")
    print_table(columns, (((*row[:-1], "yes" if row[-1] else "")) for row in (*configured, *added)))


@app.command()
def add(
    deployment: Annotated[str, typer.Argument(help="The deployment that it is to answer for.")],
    url: Annotated[str, typer.Argument(help="http://HOST:PORT, https://HOST or unix:///PATH, with or without /v1.")],
    model: Annotated[str | None, typer.Option(help="What it calls the model. Default: as the deployment.")] = None,
    kind: Annotated[str | None, typer.Option(help="What it is, such as vllm. Default: it is found out.")] = None,
    key_variable: Annotated[
        str | None,
        typer.Option(help="The variable of the servers' environment with its API key: UPSTREAM_KEY_ and more."),
    ] = None,
    weight: Annotated[float, typer.Option(help="Share of the requests, compared with the others.")] = 1.0,
    priority: Annotated[int, typer.Option(help="Those with the lowest one are used first.")] = 0,
    concurrency: Annotated[int, typer.Option(help="Requests of each worker at the same time.")] = 64,
    first_token: Annotated[float, typer.Option(help="Seconds from the request to the first token.")] = 120.0,
    between_tokens: Annotated[float, typer.Option(help="Seconds without a byte after it.")] = 60.0,
    total: Annotated[float, typer.Option(help="Seconds of the whole request.")] = 3600.0,
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Let another server answer for a deployment."""
    from dragoman.server.upstream_changes import stored_settings

    timeouts = {"first_token": first_token, "between_tokens": between_tokens, "total": total}
    values = {"url": url, "kind": kind, "model": model, "key_variable": key_variable, "timeouts": timeouts}
    known = {each.name for each in load_settings_with_database(database, config).deployments}
    with open_administrator(database, config) as admin:
        settings = stored_settings({**values, "weight": weight, "priority": priority, "concurrency": concurrency})
        typer.echo(admin.add_upstream(deployment, url, settings).name)
    if known and deployment not in known:
        typer.echo(f"dragoman: the settings have no deployment {deployment}; servers without one ignore it", err=True)


@app.command()
def drain(upstream: UpstreamArgument, database: DatabaseOption = None, config: ConfigOption = None) -> None:
    """Send an upstream no further requests. Those that run finish."""
    _set_draining(upstream, database, config, is_draining=True)


@app.command()
def undrain(upstream: UpstreamArgument, database: DatabaseOption = None, config: ConfigOption = None) -> None:
    """Send an upstream requests again."""
    _set_draining(upstream, database, config, is_draining=False)


@app.command()
def remove(upstream: UpstreamArgument, database: DatabaseOption = None, config: ConfigOption = None) -> None:
    """Remove an upstream that was added. Those of the settings are removed there, and may be drained."""
    from dragoman.accounts.administration.upstreams import UpstreamNotFound

    with open_administrator(database, config) as admin:
        try:
            admin.remove_upstream(upstream)
        except UpstreamNotFound as error:
            raise error_exit(str(error), FAILURE) from error


def _set_draining(name: str, database: DatabaseOption, config: ConfigOption, *, is_draining: bool) -> None:
    from dragoman.accounts.administration.upstreams import list_upstreams

    configured = _configured(load_settings_with_database(database, config))
    with open_administrator(database, config) as admin:
        added = {each.name: _place(each) for each in list_upstreams(admin.database) if each.settings is not None}
        place = added.get(name) or configured.get(name)
        if place is None:
            raise error_exit(f"there is no upstream {name}", FAILURE)
        admin.drain_upstream(name, *place, is_draining=is_draining)


def _place(stored: "StoredUpstream") -> tuple[str, str]:
    return stored.deployment, stored.url


def _configured(settings: "Settings") -> dict[str, tuple[str, str]]:
    """Return the deployment and URL of each replica of the settings, by its name: engines of this machine first."""
    found: dict[str, tuple[str, str]] = {}
    for deployment in settings.deployments:
        own = deployment.replicas if deployment.model is not None or not deployment.upstreams else 0
        urls = [""] * own + [upstream.url for upstream in deployment.upstreams]
        found |= {f"{deployment.name}/{number}": (deployment.name, url) for number, url in enumerate(urls)}
    return found
