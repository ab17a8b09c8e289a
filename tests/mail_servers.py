"""Private instances of the real mail servers, on loopback and in a temporary folder, configured by the files in `deploy/`."""

import contextlib
import os
import pwd
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import need
from tests.postgres import free_port

DEPLOY = Path(__file__).parent.parent / "deploy"
START_TIMEOUT = 20.0  # seconds
MASTER = """
{service}
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
proxymap  unix  -       -       n       -       -       proxymap
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
anvil     unix  -       -       n       -       1       anvil
discard   unix  -       -       n       -       -       discard
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
postlog   unix-dgram n  -       n       -       1       postlogd
"""


class Process:
    """A server process of ours; ended by its pid."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)

    def wait_for(self, port: int) -> None:
        """Until it listens."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.02)
        raise RuntimeError(f"it did not start:\n{self._log.read_text(errors='replace')[-3000:]}")

    def wait_for_path(self, path: Path) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(path))
                return
            time.sleep(0.02)
        raise RuntimeError(f"it did not start:\n{self._log.read_text(errors='replace')[-3000:]}")

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(5)


def certificate(folder: Path) -> Path:
    """A key and a certificate for localhost in one file."""
    if shutil.which("openssl") is None:
        need("openssl")
    made, key = folder / "tls.pem", folder / "tls.key"
    if not made.exists():
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        subprocess.run([*make, "-keyout", str(key), "-out", str(made)], check=True, capture_output=True, timeout=30)
        made.write_text(key.read_text() + made.read_text())
        key.chmod(0o644)
        made.chmod(0o644)
    return made


def executable(name: str, package: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/lib/postfix/sbin:/usr/lib/dovecot")
    return found if found else need(package)


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that the mail servers' own users can enter."""
    with tempfile.TemporaryDirectory(prefix="mail-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextlib.contextmanager
def postfix(folder: Path, service_file: str, changes: dict[str, str], private: Path | None = None) -> Iterator[int]:
    """Postfix with one of `deploy/postfix/`'s services, with these changes; gives the port of submission.

    Args:
        private: a socket that is put into the queue's `private` folder as `auth`.
    """
    if os.geteuid() != 0:
        need("root, which Postfix's master starts as,")
    master = executable("master", package="Postfix (Debian: postfix)")
    check = executable("postfix", package="Postfix (Debian: postfix)")
    port = free_port()
    config, queue, data = folder / "postfix", folder / "queue", folder / "postfix-data"
    for made in (config, queue, data):
        made.mkdir(parents=True)
    shutil.chown(data, "postfix")
    pem = certificate(folder)
    log = folder / "postfix.log"
    main = {
        "compatibility_level": "3.6",
        "queue_directory": queue,
        "data_directory": data,
        "myhostname": "mail.example.com",
        "mydestination": "",
        "mynetworks": "",
        "inet_interfaces": "loopback-only",
        "inet_protocols": "ipv4",
        "default_transport": "discard:",
        "local_transport": "discard:",
        "alias_maps": "",
        "local_recipient_maps": "",
        "smtpd_tls_cert_file": pem,
        "smtpd_tls_key_file": pem,
        "maillog_file": log,
        "maillog_file_prefixes": folder,
        "smtpd_peername_lookup": "no",
        "smtpd_sasl_auth_enable": "no",
    }
    (config / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in main.items()))
    service = (DEPLOY / "postfix" / service_file).read_text()
    for old, new in {"submission inet": f"127.0.0.1:{port} inet", **changes}.items():
        assert old in service, old
        service = service.replace(old, new)
    (config / "master.cf").write_text(MASTER.format(service=service))
    subprocess.run([check, "-c", str(config), "check"], check=False, capture_output=True, timeout=60)
    if private is not None:
        (queue / "private" / "auth").symlink_to(private)
    process = Process([master, "-c", str(config), "-d"], log)
    try:
        process.wait_for(port)
        yield port
    finally:
        process.stop()


@contextlib.contextmanager
def dovecot(folder: Path, database_url: str, cache: str | None = None) -> Iterator[Path]:
    """Dovecot's auth service by SQL, from `deploy/dovecot/`; gives the path of its socket.

    Args:
        database_url: for PostgreSQL, as the role that may only read the views.
        cache: an `auth_cache_size`, for the benchmark.
    """
    if os.geteuid() != 0:
        need("root, which Dovecot's master starts as,")
    binary = executable("dovecot", package="Dovecot (Debian: dovecot-core)")
    sqlite = database_url.startswith("sqlite")
    driver = "sqlite" if sqlite else "pgsql"
    if not list(Path("/usr/lib/dovecot").glob(f"modules/**/*{driver}*.so")):
        need(f"Dovecot's SQL driver (Debian: dovecot-{driver})")
    home = folder / "dovecot"
    home.mkdir(mode=0o755)
    path = home / "auth-client"
    query = (DEPLOY / "dovecot" / f"smtp-bot-{driver}.conf.ext").read_text()
    if sqlite:
        query = query.replace("/var/lib/smtp-bot/smtp-bot.db", database_url.removeprefix("sqlite:///"))
    else:
        server, _, name = database_url.removeprefix("postgresql://").partition("/")
        role, _, address = server.rpartition("@")
        host, _, port = address.partition(":")
        connect = f"host={host} port={port} dbname={name} user={role}"
        query = "\n".join(f"connect = {connect}" if line.startswith("connect") else line for line in query.splitlines()) + "\n"
    current, previous = home / "smtp-bot.conf.ext", home / "smtp-bot-previous.conf.ext"
    current.write_text(query)
    previous.write_text(query.replace("FROM smtp_passdb ", "FROM smtp_passdb_previous "))
    config = (DEPLOY / "dovecot" / "dovecot.conf").read_text()
    config = config.replace("/etc/dovecot/smtp-bot.conf.ext", str(current))
    config = config.replace("/etc/dovecot/smtp-bot-previous.conf.ext", str(previous))
    config = config.replace("/var/spool/postfix/private/auth", str(path)).replace("mode = 0660", "mode = 0666")
    private = [
        f"base_dir = {home / 'run'}",
        f"log_path = {folder / 'dovecot.log'}",
        "default_vsz_limit = 1 G",
        "ssl = no",
        "listen = 127.0.0.1",
    ]
    private += [f"auth_cache_size = {cache}"] if cache else []
    made = home / "dovecot.conf"
    made.write_text("\n".join(private) + "\n" + config)
    process = Process([binary, "-F", "-c", str(made)], folder / "dovecot.log")
    try:
        process.wait_for_path(path)
        yield path
    finally:
        process.stop()


def exim_binary() -> str:
    """Exim, installed or unpacked beside Postfix, with which Debian does not let it be installed (EXIM_ROOT)."""
    root = os.environ.get("EXIM_ROOT")
    found = shutil.which("exim4", path=f"{root}/usr/sbin" if root else "/usr/sbin:/usr/bin")
    if found is None or "Debian-exim" not in {entry.pw_name for entry in pwd.getpwall()}:
        need("Exim with its user (Debian: exim4-daemon-heavy, unpacked at EXIM_ROOT, and a user Debian-exim)")
    return found


@contextlib.contextmanager
def exim(folder: Path, auth_socket: Path) -> Iterator[int]:
    """Exim with `deploy/exim/`'s authenticators; gives its port. Messages are accepted and kept in its queue."""
    if os.geteuid() != 0:
        need("root, which Exim's daemon starts as,")
    binary = exim_binary()
    home = folder / "exim"
    home.mkdir()
    shutil.chown(home, "Debian-exim")
    pem = certificate(folder)
    port = free_port()
    authenticators = (DEPLOY / "exim" / "authenticators.conf").read_text().replace("/run/smtp-bot/auth", str(auth_socket))
    config = home / "exim.conf"
    config.write_text(
        f"""
spool_directory = {home}
log_file_path = {home}/%slog
primary_hostname = mail.example.com
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
tls_advertise_hosts = *
tls_certificate = {pem}
tls_privatekey = {pem}
queue_only = true
keep_environment =
acl_smtp_rcpt = check_rcpt
host_lookup =
rfc1413_query_timeout = 0s
begin acl
check_rcpt:
  accept authenticated = *
  deny message = log in first
begin routers
begin transports
begin retry
begin authenticators
{authenticators}
"""
    )
    process = Process([binary, "-bdf", "-oX", str(port), "-oP", str(home / "pid"), "-C", str(config)], folder / "exim.log")
    try:
        process.wait_for(port)
        yield port
    finally:
        process.stop()


class Session:
    """An app that sends mail: STARTTLS, log in, send."""

    def __init__(self, port: int) -> None:
        self.smtp = smtplib.SMTP("127.0.0.1", port, local_hostname="app.example.com", timeout=20)
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.smtp.starttls(context=context)
        self.smtp.ehlo()

    def log_in(self, username: str, password: str, mechanism: str = "PLAIN") -> int:
        """SMTP's reply code: 235 yes, 535 no, 454 later; 421 when the server hung up."""
        self.smtp.user, self.smtp.password = username, password
        method = {"PLAIN": self.smtp.auth_plain, "LOGIN": self.smtp.auth_login}[mechanism]
        try:
            return self.smtp.auth(mechanism, method)[0]
        except smtplib.SMTPServerDisconnected:
            return 421
        except smtplib.SMTPResponseException as error:
            return error.smtp_code

    def send(self) -> None:
        self.smtp.sendmail("app@example.com", ["you@example.net"], "Subject: test\r\n\r\nHello\r\n")

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.smtp.close()


def log_in(port: int, username: str, password: str, mechanism: str = "PLAIN", send: bool = False) -> int:
    """One session: the log-in's reply code; with `send`, a message goes with it."""
    with Session(port) as session:
        code = session.log_in(username, password, mechanism)
        if send and code == 235:
            session.send()
        return code
