"""One request for a page: who asks, what was sent, and the ways to read data and to answer."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Concatenate, ParamSpec, TypeVar
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from dragoman.accounts.administration.accounts import find_account
from dragoman.accounts.administration.audit_log import Administrator
from dragoman.accounts.database.connections import Database
from dragoman.core.context import Caller, new_request_id
from dragoman.core.models import ServedModel
from dragoman.dialects.http.context import read_limited_body
from dragoman.server.console.cookies import CookieJar
from dragoman.server.console.forms import MAX_FORM_BYTES, TOKEN_FIELD, TOKEN_HEADER, Fields
from dragoman.server.console.forms import PageError as PageError
from dragoman.server.console.live import Broadcast
from dragoman.server.console.rendering import Renderer
from dragoman.server.console.services import ConsoleServices
from dragoman.server.console.sessions import SessionStore, form_token
from dragoman.server.console.viewers import ConsoleViewer

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

NO_DATABASE = PageError(
    404,
    "This server keeps no records",
    "Set record_usage = true, or add [accounts] to dragoman.toml, and start the server again.",
)

NO_ACCOUNTS = PageError(404, "Accounts are off", "Add [accounts] to dragoman.toml, and start the server again.")

NO_OWN_RECORDS = PageError(
    404,
    "There are no records of yours",
    "Keys of the settings are not told apart in the records. With [accounts], each account sees its own.",
)


@dataclasses.dataclass(kw_only=True, repr=False)
class PageRequest:
    """The request of one viewer."""

    request: Request
    services: ConsoleServices
    renderer: Renderer
    sessions: SessionStore | None
    broadcast: Broadcast
    cookies: CookieJar
    secret: str
    """Of this browser."""
    viewer: ConsoleViewer
    refusal: PageError | None = None
    """Why the form was refused that is shown again."""
    typed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What was typed into it, by the names of its fields."""
    _form: dict[str, str] | None = None

    @property
    def path(self) -> dict[str, str]:
        """The parts of the path that vary."""
        return self.request.path_params

    @property
    def query(self) -> Fields:
        """The fields of the query."""
        return Fields(dict(self.request.query_params))

    @property
    def is_fragment(self) -> bool:
        """Whether a script replaces a part of the page with the answer."""
        return "hx-request" in self.request.headers

    async def form(self) -> dict[str, str]:
        """Return the fields of the form that was sent."""
        if self._form is None:
            body = await read_limited_body(self.request, MAX_FORM_BYTES)
            self._form = dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=200))
        return self._form

    async def fields(self) -> Fields:
        """Return the fields of the form, without its token."""
        form = await self.form()
        return Fields({name: value for name, value in form.items() if name != TOKEN_FIELD})

    async def sent_token(self) -> str:
        """Return the token that a script or a form sent; empty without one."""
        return self.request.headers.get(TOKEN_HEADER) or (await self.form()).get(TOKEN_FIELD, "")

    async def read(
        self,
        call: Callable[Concatenate[Database, Parameters], Result],
        /,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """Call a function of the database on its thread. Raises PageError if the server keeps no records."""
        thread = self.services.thread
        if thread is None:
            raise NO_DATABASE
        return await thread.run_slow(call, thread.database, *args, **kwargs)

    async def change(
        self,
        call: Callable[Concatenate[Administrator, Parameters], Result],
        /,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """Make an administrator's change, which is recorded under the viewer's name."""
        thread = self.services.thread
        if thread is None or not self.services.has_accounts:
            raise NO_ACCOUNTS
        return await thread.run_slow(call, Administrator(thread.database, self.viewer.name), *args, **kwargs)

    async def wanted_account(self) -> int | None:
        """Return the account whose records the viewer asks for: a holder its own, an operator that of the query.

        None: all. Raises AccountNotFound for a name that no account has.
        """
        wanted = self.query.text("account")
        if not self.viewer.is_operator or wanted is None:
            return self.viewer.account_id
        if wanted.isascii() and wanted.isdecimal():
            return self.query.integer("account")
        return (await self.read(find_account, wanted)).id

    async def visible_models(self) -> list[ServedModel]:
        """Return the models that the viewer's key may use, or all for an operator."""
        if self.viewer.is_operator or self.viewer.api_key is None:
            return self.services.gateway.models()
        caller = Caller(request_id=new_request_id(), key=self.viewer.api_key)
        return (await self.services.gateway.visible_to(caller)).models()

    def render(self, template: str, *, status: int = 200, **values: object) -> Response:
        """Render a template for this viewer."""
        return self.renderer.response(
            template,
            status=status if self.refusal is None else self.refusal.status,
            refusal=self.refusal,
            typed=self.typed,
            viewer=self.viewer,
            theme=self.cookies.theme,
            token=form_token(self.secret),
            path=self.request.scope["path"],
            **values,
        )

    def error(self, error: PageError) -> Response:
        """Render the page of an error."""
        return self.render(
            "error.html",
            status=error.status,
            message=error.message,
            advice=error.advice,
            is_change=self.request.method == "POST",
        )

    def redirect(self, path: str, /, **query: str) -> Response:
        """Lead to another page after a form."""
        return RedirectResponse(self.renderer.url(path, **query), 303)
