"""Who may use the page: whoever has the link, from this machine, from the page itself.

    app = Guard(app, token)          # ASGI; http://127.0.0.1:PORT/TOKEN/ is the page

A request is refused whose `Host` is not a name of this machine (a web page whose name was pointed at 127.0.0.1 counts
as this server's, for a browser), whose path does not begin with the token, which comes from another page, or which
would change something without being a POST of JSON from the page itself. All answers carry a policy that lets the page
load nothing from elsewhere and run no script that is not a file of this server.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES = ("127.0.0.1", "localhost", "[::1]")
MOST = 2_000_000  # bytes of a request's body
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
NO_LINK = "This link does not open this page: take the one that the running `augment review` has printed."


class Guard:
    """ASGI: passes on what may pass, its path without the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import PlainTextResponse, RedirectResponse

        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # there is no websocket here
            return await send({"type": "websocket.close", "code": 1008, "reason": "no websocket"})

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        if refusal := self.refusal(scope):
            await PlainTextResponse(refusal, 403, {"cache-control": "no-store"})(scope, receive, send_with_policy)
            return None
        if scope["path"] == f"/{self.token}":  # the page's relative addresses need the slash
            return await RedirectResponse(f"/{self.token}/")(scope, receive, send_with_policy)
        inner = scope["path"][len(self.token) + 1 :] or "/"
        scope = {**scope, "path": inner, "raw_path": inner.encode(), "root_path": ""}
        return await self.app(scope, receive, send_with_policy)

    def refusal(self, scope: Scope) -> str | None:
        """Why a request does not pass, or None."""
        headers: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value.decode("latin-1").lower())
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or _name(hosts[0]) not in NAMES:
            return f"host {', '.join(hosts) or '(none)'} refused: this server is {', '.join(NAMES)}"
        origins = headers.get(b"origin", [])
        if any(origin != f"http://{hosts[0]}" for origin in origins):
            return f"a page of {', '.join(origins)} may not use this server"
        if any(site not in ("same-origin", "none") for site in headers.get(b"sec-fetch-site", [])):
            return "another page may not use this server"
        head, _, _ = scope["path"].removeprefix("/").partition("/")
        if not hmac.compare_digest(head.encode(), self.token.encode()):
            return NO_LINK
        if scope["method"] in ("GET", "HEAD"):
            return None
        if scope["method"] != "POST" or not origins:
            return "changes come as a POST of this server's own page"
        if headers.get(b"content-type", [""])[0].partition(";")[0] != "application/json":
            return "changes come as JSON"
        length = headers.get(b"content-length", [""])[0]
        if not length.isdigit() or int(length) > MOST:
            return f"a change has its length in bytes, at most {MOST}"
        return None


def _name(host: str) -> str:
    """A Host without its port: a tunnel may give it another."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host
