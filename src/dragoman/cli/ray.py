"""`dragoman ray`: place engines on a Ray cluster, as upstreams of servers outside of it."""

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.cli.database_access import (
    FAILURE,
    USAGE_ERROR,
    ConfigOption,
    DatabaseOption,
    error_exit,
    open_administrator,
)

if TYPE_CHECKING:
    from dragoman.accounts.administration.audit_log import Administrator
    from dragoman.ray_serve.follower import UpstreamFollower

KEY_VARIABLE = "UPSTREAM_KEY_RAY"
"""Of this command's and of the servers' environment: the key with which the replicas are asked."""

_FOLLOW_SECONDS = 2.0

app = typer.Typer(no_args_is_help=True, help="Place engines on a Ray cluster. Needs the extra `ray`.")


@app.callback()
def _commands() -> None:
    pass  # Without it, the only command would have no name.


@app.command()
def serve(
    deployment: Annotated[str, typer.Argument(help="The deployment of the servers that the replicas answer for.")],
    replica_config: Annotated[Path, typer.Option(help="Settings file of each replica's server, with its models.")],
    model: Annotated[str | None, typer.Option(help="What replicas call the model. Default: as the deployment.")] = None,
    replicas: Annotated[int, typer.Option(min=1, help="How many.")] = 2,
    processors: Annotated[float, typer.Option(min=0, help="That Ray counts as taken by each.")] = 1.0,
    address: Annotated[str, typer.Option(help="The Ray cluster, as ray.init takes it.")] = "auto",
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Run replicas until this command is stopped. All servers of the database use them."""
    from dragoman.ray_serve.application import ClusterUnusable, RayApplication, RayMissing, ReplicaOptions

    if not (key := os.environ.get(KEY_VARIABLE)):
        raise error_exit(f"the variable {KEY_VARIABLE} must have a key, the same as for the servers", USAGE_ERROR)
    try:
        settings = replica_config.read_text(encoding="utf-8")
    except OSError as error:
        raise error_exit(f"{replica_config}: {error.strerror}", USAGE_ERROR) from error
    options = ReplicaOptions(
        settings=settings,
        environment={"DRAGOMAN_API_KEY": key, "DRAGOMAN_RECORD_USAGE": "false"},
        replicas=replicas,
        processors=processors,
    )
    with open_administrator(database, config) as admin:
        try:
            application = RayApplication(deployment, address)
            application.deploy(options)
        except (RayMissing, ClusterUnusable) as error:
            raise error_exit(str(error), FAILURE) from error
        stopping = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):  # Ray has set its own.
            signal.signal(number, lambda *_: stopping.set())
        follower = _follower(admin, deployment, model)
        try:
            is_failing = True  # No replica has started yet.
            while not stopping.wait(_FOLLOW_SECONDS):
                try:
                    follower.follow(application.urls())
                    is_failing = False
                except ClusterUnusable as error:  # The servers leave out by themselves what does not answer.
                    if not is_failing:
                        typer.echo(f"dragoman: {error}", err=True)
                    is_failing = True
        finally:
            follower.follow(())
            application.delete()


def _follower(admin: "Administrator", deployment: str, model: str | None) -> "UpstreamFollower":
    """Return one that also knows what an earlier run has left."""
    from dragoman.accounts.administration.upstreams import list_upstreams
    from dragoman.ray_serve.follower import UpstreamFollower
    from dragoman.server.upstream_changes import stored_settings

    def settings_of(url: str) -> str:
        return stored_settings({"url": url, "kind": "dragoman", "model": model, "key_variable": KEY_VARIABLE})

    def add(url: str) -> str:
        name = admin.add_upstream(deployment, url, settings_of(url)).name
        typer.echo(f"{name} is at {url}")
        return name

    def remove(name: str) -> None:
        admin.remove_upstream(name)
        typer.echo(f"{name} is gone")

    stored = [each for each in list_upstreams(admin.database) if each.deployment == deployment]
    known = {each.url: each.name for each in stored if each.settings is not None and KEY_VARIABLE in each.settings}
    return UpstreamFollower(known, add, remove)
