"""Logging: ours follows LOG_LEVEL, others' stays quiet, and nothing that looks like a secret gets through."""

import logging
import re
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, WrappedLogger

from storage.passwords import mask

OURS = ("bot", "storage", "mailauth", "sandbox")
# Below INFO, slack_sdk and Bolt log whole bodies and response_urls; SQL drivers log parameters.
SPEAK_AT_INFO = ("slack_bolt", "slack_sdk")
SECRET = re.compile(r"(xox[a-z]|xapp)-[\w-]+|https://hooks\.slack\.com/\S+|/response/\S+|\b\d+\.\d+\.[0-9a-f]{32}\b")


def hide_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Blots out passwords, hashes, tokens, response_urls and trigger ids, should one ever be in a log line."""
    return {key: SECRET.sub("[secret]", mask(value)) if isinstance(value, str) else value for key, value in event.items()}


def configure(level: str, style: Literal["console", "json"]) -> None:
    """Sets up structlog and the standard library's logging to write to standard error."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        hide_secrets,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    for name in SPEAK_AT_INFO:
        logging.getLogger(name).setLevel(logging.INFO)
