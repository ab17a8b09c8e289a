from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """The release that runs, such as 0.1.0; `unknown` where it was never installed."""
    try:
        return version("smtp-credentials-bot")
    except PackageNotFoundError:
        return "unknown"
