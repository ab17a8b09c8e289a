"""The bare Bolt app that the benchmark compares with: its command only acknowledges. Run with the port and `plain` or `early`."""

import sys

import uvicorn
from slack_bolt.adapter.starlette.async_handler import AsyncSlackRequestHandler
from slack_bolt.app.async_app import AsyncApp
from slack_bolt.context.ack.async_ack import AsyncAck
from slack_sdk.web.async_client import AsyncWebClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from bot.server import listen


def main() -> None:
    port, kind, token, secret, api_url = sys.argv[1:]
    client = AsyncWebClient(token, base_url=api_url)
    app = AsyncApp(client=client, token=token, signing_secret=secret, process_before_response=kind == "early")

    @app.command("/smtp")
    async def acknowledge(ack: AsyncAck) -> None:
        await ack()

    handler = AsyncSlackRequestHandler(app)

    async def events(request: Request) -> Response:
        return await handler.handle(request)

    async def ready(_request: Request) -> Response:
        return PlainTextResponse("ready")

    web = Starlette(routes=[Route("/slack/events", events, methods=["POST"]), Route("/readyz", ready)])
    server = uvicorn.Server(uvicorn.Config(web, log_config=None, access_log=False, lifespan="off"))
    server.run([listen("127.0.0.1", int(port))])


if __name__ == "__main__":
    main()
