"""Signing in with a key, and signing out."""

from starlette.responses import RedirectResponse, Response

from dragoman.core.context import Caller, new_request_id
from dragoman.core.errors import KeyUnknown, Limited
from dragoman.dialects.http.context import client_address
from dragoman.server.console.page import PageError, PageRequest
from dragoman.server.console.sessions import WrongKey

_INSECURE = PageError(
    400,
    "Signing in needs HTTPS",
    "Your key would cross the network unencrypted. Use https; behind a proxy, put its address into trusted_proxies and "
    "let it send X-Forwarded-Proto.",
)


async def show(page: PageRequest) -> Response:
    """Show the form, or lead on who needs none."""
    if page.services.is_open or page.viewer.session is not None:
        return page.redirect("/")
    return page.render("login.html", problem=None, next=own_path(page.query.text("next")))


async def sign_in(page: PageRequest) -> Response:
    """Open a session for a key. Wrong keys are counted and delayed like those of API requests."""
    if not page.cookies.may_sign_in:
        raise _INSECURE
    if page.sessions is None or page.services.thread is None:
        raise PageError(503, "Nobody can sign in", "Sessions need a database: set record_usage or [accounts].")
    fields = await page.fields()
    key, target = fields.text("key") or "", own_path(fields.text("next"))
    try:
        secret = await page.services.thread.run(page.sessions.open, key)
    except WrongKey as error:
        address = client_address(page.request, page.services.http.trusted_proxies)
        caller = Caller(request_id=new_request_id(), key=key, address=address)
        problem = await page.services.gateway.auth_failures.throttle(caller, KeyUnknown())
        is_limited = isinstance(problem, Limited)
        return page.render(
            "login.html",
            status=429 if is_limited else 401,
            problem="Too many wrong keys. Wait a minute." if is_limited else str(error),
            next=target,
        )
    if page.viewer.session is not None:
        await page.services.thread.run(page.sessions.end, page.secret)
    response = RedirectResponse(page.renderer.url(target), 303)
    page.cookies.set(response, secret)
    return response


async def sign_out(page: PageRequest) -> Response:
    """End the session."""
    if page.sessions is not None and page.services.thread is not None:
        await page.services.thread.run(page.sessions.end, page.secret)
    response = page.redirect("/login")
    page.cookies.set(response, "")
    return response


def own_path(path: str | None) -> str:
    """Return the page to show after signing in: one of the console, whatever a link says."""
    is_own = path is not None and path.startswith("/") and not path.startswith(("//", "/\\", "/log"))
    return path if path is not None and is_own else "/"
