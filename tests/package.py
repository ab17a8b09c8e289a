"""The wheel, installed without a network in each way that docs/operating.md names, and used by an account that has neither name nor home.

`make package` builds `wheelhouse/` and runs this; it takes minutes, so it is no part of `make test`.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sandbox.slack import Slack
from storage.passwords import Style, generate, new_id
from tests.conftest import need
from tests.stage import MANIFEST

ROOT = Path(__file__).parent.parent
WHEELHOUSE = ROOT / "wheelhouse"
OFFLINE = ("--no-index", "--find-links", str(WHEELHOUSE))
NAMELESS = 54321
BIN = Path(os.environ.get("TOOLS", Path(sys.executable).parent))


def clean_environment(**more: str) -> dict[str, str]:
    return {"PATH": "/usr/local/bin:/usr/bin:/bin"} | more


def python() -> str:
    """An interpreter that every account may run: a nameless one cannot enter somebody's home."""
    for candidate in (getattr(sys, "_base_executable", sys.executable), "/usr/bin/python3"):
        same = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
        with contextlib.suppress(OSError):
            if subprocess.run([candidate, "-c", same], user=nameless(), env=clean_environment(), check=False).returncode == 0:
                return str(candidate)
    return need("a Python that every account may run")


def nameless() -> int | None:
    return NAMELESS if os.getuid() == 0 else None


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that every account may enter."""
    folder = Path(tempfile.mkdtemp(prefix="smtp-bot-package-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def install(place: Path, what: str) -> Path:
    """The `smtp-bot` of a new virtual environment, installed from the wheelhouse and nothing else."""
    made = place / what
    subprocess.run([python(), "-m", "venv", made], env=clean_environment(), check=True)
    subprocess.run([made / "bin/pip", "install", "--quiet", *OFFLINE, what], env=clean_environment(), check=True)
    return made / "bin/smtp-bot"


@pytest.fixture(scope="module")
def production(place: Path) -> Path:
    return install(place, "smtp-credentials-bot")


@pytest.fixture(scope="module")
def with_demo(place: Path) -> Path:
    return install(place, "smtp-credentials-bot[demo]")


@pytest.fixture
def empty(place: Path) -> Path:
    """The working folder of an account without a name."""
    folder = Path(tempfile.mkdtemp(dir=place))
    if os.getuid() == 0:
        os.chown(folder, NAMELESS, NAMELESS)
    return folder


def use(smtp_bot: Path, folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """One command by an account without name and HOME."""
    return subprocess.run(
        [smtp_bot, *arguments],
        cwd=folder,
        env=clean_environment(**settings),
        user=nameless(),
        group=nameless(),
        extra_groups=[] if nameless() else None,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@contextlib.asynccontextmanager
async def running(smtp_bot: Path, folder: Path, *arguments: str, **settings: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The same, for what runs until SIGTERM; it ends with status 0."""
    process = await asyncio.create_subprocess_exec(
        smtp_bot,
        *arguments,
        cwd=folder,
        env=clean_environment(**settings),
        user=nameless(),
        group=nameless(),
        extra_groups=[] if nameless() else None,
    )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 120) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def answer(url: str, process: asyncio.subprocess.Process) -> str:
    """The page at `url`, as soon as it is served."""

    def get() -> str | None:
        try:
            with urllib.request.urlopen(url, timeout=5) as page:
                return str(page.read().decode())
        except (urllib.error.URLError, OSError):
            return None

    for _ in range(600):
        page = await asyncio.to_thread(get)
        if page is not None:
            return page
        assert process.returncode is None, "it ended before it answered"
        await asyncio.sleep(0.1)
    raise AssertionError("no answer")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_command_line_on_the_day_slack_is_down(production: Path, empty: Path) -> None:
    assert use(production, empty, "--version").stdout == "smtp-bot 0.1.0\n"
    assert use(production, empty, "manifest").stdout == (ROOT / "manifest.yml").read_text()
    assert use(production, empty, "workspace", "add", "acme").stdout == "Made the workspace acme (acme).\n"
    listed = use(production, empty, "list", "--json")
    assert (listed.returncode, listed.stdout, listed.stderr) == (0, "", "")
    refused = use(production, empty, "revoke", "smtp-acme-00000000")
    assert (refused.returncode, refused.stderr) == (1, "smtp-acme-00000000: No credential has that username.\n")
    if nameless():
        assert f'"shell:uid{NAMELESS}"' in use(production, empty, "audit", "--json").stdout
    assert "DATABASE_URL: SQLite, schema up to date" in use(production, empty, "doctor").stdout
    assert [file.name for file in empty.iterdir() if file.stat().st_mode & 0o077] == []


def test_production_has_no_package_of_the_demo_and_says_how_to_get_it(production: Path, empty: Path) -> None:
    refused = use(production, empty, "demo")
    assert refused.returncode == 1
    assert refused.stderr.endswith("is missing). Install it: pip install 'smtp-credentials-bot[demo]'\n")
    installed = subprocess.run([production.with_name("pip"), "list", "--format=freeze"], capture_output=True, text=True, check=True).stdout
    locked = (ROOT / "requirements.lock").read_text()
    ours = {line.split("==")[0].lower().replace("_", "-") for line in installed.splitlines()} - {
        "pip",
        "setuptools",
        "smtp-credentials-bot",
    }
    assert {name for name in ours if f"{name}==" not in locked} == set()


def test_no_other_package_has_the_names_of_ours(with_demo: Path) -> None:
    names = "('bot', 'storage', 'mailauth', 'sandbox')"
    code = f"from importlib.metadata import packages_distributions as found; print([sorted(set(found()[name])) for name in {names}])"
    said = subprocess.run(
        [with_demo.with_name("python"), "-c", code], env=clean_environment(), capture_output=True, text=True, check=True
    ).stdout
    assert said.count("['smtp-credentials-bot']") == 4, said


async def test_the_bot_and_authd_run(production: Path, empty: Path) -> None:
    slack = Slack()
    app = slack.install(MANIFEST)
    port = free_port()
    settings = {
        "SLACK_BOT_TOKEN": f'"{app.bot_token}"',
        "SLACK_APP_TOKEN": app.app_token,
        "PORT": f"{port} # health",
        "METRICS_LISTEN": f"{free_port()}",
        "AUTHD_LISTEN": f"unix:{empty / 'auth'}",
        "AUTHD_HTTP": f"tcp:127.0.0.1:{free_port()}",
    }
    async with slack.serve():
        settings["SLACK_API_URL"] = f"{slack.url}/api/"
        async with running(production, empty, "run", **settings) as bot:
            assert await answer(f"http://127.0.0.1:{port}/readyz", bot) == "ready"
            metrics = await answer(f"http://127.0.0.1:{settings['METRICS_LISTEN']}/metrics", bot)
            assert 'smtp_bot_build_info{python="' in metrics
            assert 'version="0.1.0"' in metrics
            async with running(production, empty, "authd", **settings) as authd:
                assert await answer(f"http://{settings['AUTHD_HTTP'].removeprefix('tcp:')}/readyz", authd) == "ready"
                assert (empty / "auth").is_socket()


async def test_the_demo_runs(with_demo: Path, empty: Path) -> None:
    port = free_port()
    async with running(with_demo, empty, "demo", "--port", str(port)) as demo:
        assert "<title>" in await answer(f"http://127.0.0.1:{port}/", demo)


def test_uv_tool_install(place: Path, empty: Path) -> None:
    environment = clean_environment(
        UV_TOOL_DIR=str(place / "uv"), UV_TOOL_BIN_DIR=str(place / "uv-bin"), UV_CACHE_DIR=str(place / "uv-cache")
    )
    command: list[str | Path] = [
        BIN / "uv",
        "tool",
        "install",
        "--quiet",
        "--offline",
        "--python",
        python(),
        *OFFLINE,
        "smtp-credentials-bot[demo]",
    ]
    subprocess.run(command, env=environment, cwd=place, check=True)
    assert use(place / "uv-bin/smtp-bot", empty, "--version").stdout == "smtp-bot 0.1.0\n"


def test_pipx_install(place: Path, empty: Path) -> None:
    # pipx's other backend, pip, brings its own pip up to date from the network first.
    environment = clean_environment(PIPX_HOME=str(place / "pipx"), PIPX_BIN_DIR=str(place / "pipx-bin"), HOME=str(place), UV_OFFLINE="1")
    environment["PATH"] = f"{BIN}:{environment['PATH']}"
    command: list[str | Path] = [
        BIN / "pipx",
        "install",
        "--backend",
        "uv",
        "--python",
        python(),
        "--pip-args",
        " ".join(OFFLINE),
        "smtp-credentials-bot",
    ]
    subprocess.run(command, env=environment, cwd=place, check=True)
    assert use(place / "pipx-bin/smtp-bot", empty, "workspace", "add", "acme").returncode == 0


def test_the_containerfile_is_well_made() -> None:
    subprocess.run([BIN / "hadolint", ROOT / "deploy/Containerfile"], check=True)


def test_kubernetes_takes_the_example() -> None:
    subprocess.run([BIN / "kubernetes-validate", "--strict", "--quiet", ROOT / "deploy/kubernetes/smtp-bot.yml"], check=True)


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, set[str], set[str]]:
    """A file with passwords of ours among look-alikes; the passwords; and the look-alikes."""
    ours: set[str] = set()
    others = {"smtp-acme-7k2m9x4q", "smtpserverconnection"}
    for _ in range(30):
        long, short = generate(new_id()), generate("", Style.DEVICE)
        misread = short.replace("0", "O").replace("1", "l")
        ours |= {long, short, generate("", Style.DEVICE).upper(), misread}
        others |= {long[:-1] + ("0" if long[-1] != "0" else "1"), short[:-1] + ("0" if short[-1] != "0" else "1"), f"x{long}", f"{short}x"}
    lines = [f'SMTP_PASSWORD = "{value}"' for value in sorted(ours | others)]
    (tmp_path / "settings.py").write_text("\n".join(lines) + "\n")
    return tmp_path / "settings.py", ours, others


def test_kingfisher_finds_ours_and_no_look_alikes(repository: tuple[Path, set[str], set[str]]) -> None:
    file, ours, _ = repository
    rules = ("--rules-path", ROOT / "deploy/scanners/kingfisher.yml", "--load-builtins=false", "--no-update-check")
    subprocess.run([BIN / "kingfisher", "rules", "check", *rules], check=True)
    command: list[str | Path] = [BIN / "kingfisher", "scan", *rules, "--no-validate", "--no-rule-cache", "--format", "jsonl", file]
    scanned = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [json.loads(line) for line in scanned.stdout.splitlines() if line.startswith('{"rule"')]
    assert {one["finding"]["snippet"] for one in found} == ours, scanned.stderr


def test_detect_secrets_finds_ours_and_no_look_alikes(repository: tuple[Path, set[str], set[str]]) -> None:
    file, ours, _ = repository
    plugin = ROOT / "deploy/scanners/detect_secrets_plugin.py"
    command: list[str | Path] = [BIN / "detect-secrets", "scan", "--plugin", plugin, "--all-files", file.name]
    scanned = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=True)
    results = json.loads(scanned.stdout)["results"].get(file.name, [])
    found = {one["hashed_secret"] for one in results if one["type"] == "SMTP Credentials password"}
    assert found == {hashlib.sha1(password.encode()).hexdigest() for password in ours}
