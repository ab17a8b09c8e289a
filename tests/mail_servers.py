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
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import need
from tests.postgres import free_port

DEPLOY = Path(__file__).parent.parent / "deploy"
START_TIMEOUT = 120.0  # seconds
# main.cf's rules for strangers on port 25 as many sites have them, without the DNS: whoever meets one of them here is refused.
STRICT = {
    "smtpd_helo_required": "yes",
    "smtpd_client_restrictions": "check_client_access static:{REJECT listed at a blocklist}",
    "smtpd_helo_restrictions": "reject_non_fqdn_helo_hostname, check_helo_access static:{REJECT Host not found}",
    "smtpd_sender_restrictions": "reject_non_fqdn_sender, check_sender_access static:{REJECT Domain not found}",
    "smtpd_recipient_restrictions": "reject_non_fqdn_recipient, reject_unauth_destination",
    "smtpd_data_restrictions": "reject_unauth_pipelining, check_sender_access static:{REJECT at DATA}",
    "smtpd_end_of_data_restrictions": "check_sender_access static:{REJECT at the end of data}",
    "smtpd_reject_unlisted_sender": "yes",
    "virtual_mailbox_domains": "example.com",
    "virtual_mailbox_maps": "inline:{boss@example.com=boss}",
    "smtpd_sasl_security_options": "noanonymous, noplaintext",
    "smtpd_sasl_exceptions_networks": "127.0.0.0/8",
    "strict_rfc821_envelopes": "yes",
    "disable_vrfy_command": "yes",
}
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
        subprocess.run([*make, "-keyout", str(key), "-out", str(made)], check=True, capture_output=True, timeout=150)
        made.write_text(key.read_text() + made.read_text())
        key.chmod(0o644)
        made.chmod(0o644)
    return made


def replaced(text: str, changes: dict[str, str]) -> str:
    """The text of a file of `deploy/` with these changes, each of which it must have a place for."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def executable(name: str, package: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/lib/postfix/sbin:/usr/lib/dovecot")
    return found if found else need(package)


@contextlib.contextmanager
def open_folder(root: Path = Path("/")) -> Iterator[Path]:
    """A temporary folder that the mail servers' own users can enter; inside of `root`, for a server that runs there."""
    with tempfile.TemporaryDirectory(prefix="mail-", dir=None if root == Path("/") else root / "tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@dataclass(frozen=True)
class Postfix:
    submission: int
    """The port with STARTTLS, as 587."""
    submissions: int
    """The port with TLS from the start, as 465."""
    log: Path


@contextlib.contextmanager
def postfix(
    folder: Path, service_file: str, changes: dict[str, str], private: Path | None = None, more: dict[str, str] | None = None
) -> Iterator[Postfix]:
    """Postfix with one of `deploy/postfix/`'s pairs of services, with these changes, beside a strict main.cf.

    Args:
        private: a socket that is put into the queue's `private` folder as `auth`.
        more: further settings of main.cf.
    """
    if os.geteuid() != 0:
        need("root, which Postfix's master starts as,")
    master = executable("master", package="Postfix (Debian: postfix)")
    check = executable("postfix", package="Postfix (Debian: postfix)")
    config, queue, data = folder / "postfix", folder / "queue", folder / "postfix-data"
    for made in (config, queue, data):
        made.mkdir(parents=True)
    shutil.chown(data, "postfix")
    pem = certificate(folder)
    running = Postfix(free_port(), free_port(), folder / "postfix.log")
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
        "maillog_file": running.log,
        "maillog_file_prefixes": folder,
        "smtpd_peername_lookup": "no",
        "smtpd_sasl_auth_enable": "no",
        **STRICT,
        **(more or {}),
    }
    (config / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in main.items()))
    with contextlib.suppress(FileNotFoundError):
        shutil.copy("/etc/postfix/dynamicmaps.cf", config)  # Debian's: where the map types of its further packages are
    service = (DEPLOY / "postfix" / service_file).read_text()
    ours = {
        "submission inet": f"127.0.0.1:{running.submission} inet",
        "submissions inet": f"127.0.0.1:{running.submissions} inet",
        "/etc/ssl/private/mail.example.com.key, /etc/ssl/certs/mail.example.com.pem": str(pem),
    }
    (config / "master.cf").write_text(MASTER.format(service=replaced(service, ours | changes)))
    subprocess.run([check, "-c", str(config), "check"], check=False, capture_output=True, timeout=150)
    if private is not None:
        (queue / "private" / "auth").symlink_to(private)
    process = Process([master, "-c", str(config), "-d"], running.log)
    try:
        process.wait_for(running.submission)
        process.wait_for(running.submissions)
        yield running
    finally:
        print(running.log.read_text()[-4000:])  # pytest shows it when a test fails
        process.stop()


def dovecot_root(version: str) -> Path:
    """The folder under which Dovecot 2.3 or 2.4 lies: the machine's own, or 2.4 unpacked by `tests/dovecot-2.4.sh` (DOVECOT_24_ROOT)."""
    if os.geteuid() != 0:
        need("root, which Dovecot's master starts as,")
    for root in (Path("/"), Path(os.environ.get("DOVECOT_24_ROOT", "/"))):
        if (root / "usr/sbin/dovecot").exists():
            told = subprocess.run(["chroot", str(root), "/usr/sbin/dovecot", "--version"], capture_output=True, text=True, timeout=150)
            if told.stdout.startswith(f"{version}."):
                return root
    return need(f"Dovecot {version} (Debian: dovecot-core; tests/dovecot-2.4.sh)")


@contextlib.contextmanager
def dovecot(folder: Path, database_url: str, cache: str | None = None, version: str = "2.3") -> Iterator[Path]:
    """Dovecot by SQL: Debian's own configuration and `deploy/dovecot/` beside it; gives the path of the socket for Postfix.

    Args:
        folder: inside of `dovecot_root(version)`, and so is SQLite's file.
        database_url: for PostgreSQL, as the role that may only read the views.
        cache: an `auth_cache_size`, for the benchmark.
    """
    root = dovecot_root(version)
    sqlite = database_url.startswith("sqlite")
    driver = "sqlite" if sqlite else "pgsql"
    if not list((root / "usr/lib/dovecot").glob(f"modules/**/*{driver}*.so")):
        need(f"Dovecot's SQL driver (Debian: dovecot-{driver})")

    def inside(path: Path) -> str:
        return f"/{path.relative_to(root)}"

    home = folder / "dovecot"
    (home / "conf.d").mkdir(mode=0o755, parents=True)
    path = home / "auth-client"
    database = (DEPLOY / "dovecot" / f"smtp-bot-{version}-{driver}.conf.ext").read_text()
    if sqlite:
        changes = {"/var/lib/smtp-bot/smtp-bot.db": inside(Path(database_url.removeprefix("sqlite:///")))}
    else:
        server, _, name = database_url.removeprefix("postgresql://").partition("/")
        role, _, address = server.rpartition("@")
        changes = {"5432": address.partition(":")[2], "smtp_passdb_reader": role, "smtp_bot": name}
    database = replaced(database, changes)
    current, previous = home / "smtp-bot.conf.ext", home / "smtp-bot-previous.conf.ext"
    current.write_text(database)
    previous.write_text(database.replace("FROM smtp_passdb ", "FROM smtp_passdb_previous "))
    debian = root / "usr/share/dovecot"
    shutil.copy(debian / "dovecot.conf", home)
    for part in (debian / "conf.d").glob("*.conf"):
        if part.name != "10-ssl.conf":  # names a certificate that only an installation makes
            (home / "conf.d" / part.name).write_text(part.read_text().replace("!include auth-system.conf.ext", ""))
    config = (DEPLOY / "dovecot" / f"dovecot-{version}.conf").read_text()
    config = config.replace("/etc/dovecot/smtp-bot-previous.conf.ext", inside(previous)).replace(
        "/etc/dovecot/smtp-bot.conf.ext", inside(current)
    )
    (home / "conf.d" / "95-smtp-bot.conf").write_text(config.replace("/var/spool/postfix/private/auth", inside(path)))
    private = [f"base_dir = {inside(home)}/run", f"log_path = {inside(folder)}/dovecot.log", "ssl = no", "listen = 127.0.0.1"]
    private += [f"auth_failure_delay = {'0' if version == '2.3' else '1s'}"]  # without any 2.4 knows no penalty either
    private += [f"auth_cache_size = {cache}"] if cache else []
    (home / "local.conf").write_text("\n".join(private) + "\n")
    command = ["chroot", str(root), "/usr/sbin/dovecot", "-F", "-c", inside(home / "dovecot.conf")]
    process = Process(command, folder / "dovecot.log")
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
    authenticators = replaced((DEPLOY / "exim" / "authenticators.conf").read_text(), {"/run/smtp-bot/auth": str(auth_socket)})
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


@contextlib.contextmanager
def haraka(folder: Path, auth: Path, policy: Path) -> Iterator[int]:
    """Haraka (HARAKA_ROOT) with `deploy/haraka/`'s plugin; gives its port. Messages are accepted and dropped."""
    node = shutil.which("node")
    server = Path(os.environ.get("HARAKA_ROOT", "/nowhere"), "node_modules/Haraka/bin/haraka")
    if node is None or not server.exists():
        need("Haraka (npm: Haraka, installed at HARAKA_ROOT)")
    home, port, pem = folder / "haraka", free_port(), certificate(folder)
    subprocess.run([node, str(server), "-i", str(home)], check=True, capture_output=True, timeout=150)
    plugin = (DEPLOY / "haraka" / "smtp_bot.js").read_text()
    plugin = replaced(plugin, {"/run/smtp-bot/auth": str(auth), "/run/smtp-bot/policy": str(policy)})
    (home / "plugins" / "smtp_bot.js").write_text(plugin)
    (home / "plugins" / "drop.js").write_text("exports.hook_queue_outbound = (next) => next(OK)\n")
    for name, content in {
        "plugins": "tls\nsmtp_bot\ndrop\n",
        "smtp.ini": f"listen=127.0.0.1:{port}\n",
        "tls.ini": f"key={pem}\ncert={pem}\n",
        "me": "mail.example.com\n",
    }.items():
        (home / "config" / name).write_text(content)
    process = Process([node, str(server), "-c", str(home)], folder / "haraka.log")
    try:
        process.wait_for(port)
        yield port
    finally:
        process.stop()


@dataclass(frozen=True)
class Tunnel:
    auth: int
    """The port on the mail server that leads to authd's socket for log-ins."""
    policy: int
    outside: int
    """The port that strangers reach on authd's machine."""


@contextlib.contextmanager
def tunnel(folder: Path, auth: Path, policy: Path) -> Iterator[Tunnel]:
    """Both ends of `deploy/postfix/`'s stunnel between authd's sockets and a mail server."""
    binary = executable("stunnel", package="stunnel (Debian: stunnel4)")
    secrets = folder / "smtp-bot.psk"
    secrets.write_text(f"mx1:{'5' * 64}\n")
    secrets.chmod(0o600)
    far, far_policy = free_port(), free_port()
    made = Tunnel(free_port(), free_port(), far)
    common = {"/etc/stunnel/smtp-bot.psk": str(secrets)}
    ends = {
        "stunnel-authd.conf": {
            "0.0.0.0:7901": f"127.0.0.1:{far}",
            "0.0.0.0:7902": f"127.0.0.1:{far_policy}",
            "/run/smtp-bot/auth": str(auth),
            "/run/smtp-bot/policy": str(policy),
        },
        "stunnel-mail-server.conf": {
            "= 127.0.0.1:7901": f"= 127.0.0.1:{made.auth}",
            "= 127.0.0.1:7902": f"= 127.0.0.1:{made.policy}",
            "authd.example.com:7901": f"127.0.0.1:{far}",
            "authd.example.com:7902": f"127.0.0.1:{far_policy}",
        },
    }
    with contextlib.ExitStack() as stack:
        for name, changes in ends.items():
            given = replaced((DEPLOY / "postfix" / name).read_text(), changes | common)
            (folder / name).write_text(f"foreground = yes\npid =\n{given}")
            process = Process([binary, str(folder / name)], folder / f"{name}.log")
            stack.callback(process.stop)
            process.wait_for(far if name == "stunnel-authd.conf" else made.auth)
        yield made


class _Proxied(smtplib.SMTP):
    """Through a proxy that speaks the PROXY protocol (version 1) to the mail server."""

    def __init__(self, port: int, client: str) -> None:
        self._client = client
        super().__init__("127.0.0.1", port, "printer", timeout=150)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connection = socket.create_connection((host, port), timeout)
        connection.sendall(f"PROXY TCP4 {self._client} {host} 40000 {port}\r\n".encode())
        return connection


class Session:
    """A printer that sends mail: TLS, log in, send.

    Args:
        wrapped: TLS from the start, as on 465.
        proxied_for: the client's address that a proxy before the mail server tells.
    """

    def __init__(self, port: int, wrapped: bool = False, proxied_for: str | None = None) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if wrapped:
            self.smtp: smtplib.SMTP = smtplib.SMTP_SSL("127.0.0.1", port, "printer", timeout=150, context=context)
        else:
            self.smtp = _Proxied(port, proxied_for) if proxied_for else smtplib.SMTP("127.0.0.1", port, "printer", timeout=150)
            self.smtp.starttls(context=context)
        self.smtp.ehlo()
        assert self.smtp.has_extn("auth"), "it offers no log-in"

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

    def says(self, lines: str) -> int:
        """The reply code to a command, or to several lines that belong together."""
        self.smtp.send(f"{lines}\r\n")
        return self.smtp.getreply()[0]

    def send(self) -> None:
        self.smtp.sendmail("app@example.com", ["you@example.net"], "Subject: test\r\n\r\nHello\r\n")

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.smtp.close()


def log_in(port: int, username: str, password: str, mechanism: str = "PLAIN", send: bool = False, wrapped: bool = False) -> int:
    """One session: the log-in's reply code; with `send`, a message goes with it. `wrapped`: TLS from the start."""
    with Session(port, wrapped) as session:
        code = session.log_in(username, password, mechanism)
        if send and code == 235:
            session.send()
        return code
