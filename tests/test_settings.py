"""Settings as people's files have them: whatever is around a value, what is misspelt, and what is never repeated."""

import os
import pwd
import stat
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

import pytest

from bot.cli import operator
from bot.environment import clean
from bot.settings import FIELDS, SECRETS, Settings, SettingsError, load, table
from tests.test_cli import smtp_bot

ROOT = Path(__file__).parent.parent
TOKEN = "xoxb-1-2-secret"


def read(tmp_path: Path, env_file: str | bytes | None = None, **environment: str) -> Settings:
    if env_file is not None:
        (tmp_path / ".env").write_bytes(env_file.encode() if isinstance(env_file, str) else env_file)
    return load(environment, tmp_path)


def refusal(tmp_path: Path, env_file: str | bytes | None = None, **environment: str) -> str:
    with pytest.raises(SettingsError) as refused:
        read(tmp_path, env_file, **environment)
    return str(refused.value)


@pytest.mark.parametrize(
    "around",
    [
        "{}",
        " {}\t",
        "{}\r",
        "{} \r\n",
        '"{}"',
        "'{}'",
        '"{}"\r',
        "“{}”",
        '" {} "',
        "{}         # what people are told to enter",
        "{}\t# 'quoted' comment",
        '"{}" # comment',
        "\ufeff{}\u200b",
        "\u00a0{}",
    ],
)
def test_what_is_around_a_value_is_no_part_of_it(tmp_path: Path, around: str) -> None:
    value = around.format("mail.example.com")
    assert read(tmp_path, SMTP_HOST=value).smtp_host == "mail.example.com"
    assert read(tmp_path, f"SMTP_HOST={value}\n".encode()).smtp_host == "mail.example.com"


def test_what_belongs_to_a_value_stays() -> None:
    for value in ("postgresql://u:p#q'\"@h/n", "it's", 'a"b"', "a#b", "a=b"):
        assert clean(value) == value
    assert clean("# only a comment") == clean('""') == clean(" ") == ""


def test_a_file_as_people_write_it(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        f"# my bot\n\nexport SLACK_BOT_TOKEN = '{TOKEN}'\r\nbot_owners=U0OLGA , U0ADAM # us\nLOG_LEVEL=info\nSMTP_TLS=TLS\n"
        "BOT_ALLOW_GUESTS=Yes\nSMTP_PORT=\nBOT_COMMAND=/post\nBOT_COMMAND=/mail\nPOSTGRES_PASSWORD=x\n",
        SMTP_TLS="none",
        BOT_COMMAND="",
    )
    assert found.slack_bot_token.get_secret_value() == TOKEN
    assert found.bot_owners == {"U0OLGA", "U0ADAM"}
    assert (found.log_level, found.smtp_tls, found.bot_allow_guests, found.smtp_port, found.bot_command) == (
        "INFO",
        "none",
        True,
        587,
        "/mail",
    )
    assert found.notes == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    assert read(tmp_path, "# für Käthe\nSMTP_HOST=post.käthe.example\n".encode(encoding)).smtp_host == "post.käthe.example"


def test_a_file_that_is_none(tmp_path: Path) -> None:
    assert refusal(tmp_path, b"\x00\x01\x02\x00\x00SMTP_HOST\xff") == ".env: it cannot be read (it is no text; save it as UTF-8)."
    assert refusal(tmp_path, b"#" * 1024 * 1024 + b"\n") == ".env: it cannot be read (it is over 1 MiB)."
    assert refusal(tmp_path, f"SMTP_HOST=a\nSLACK_BOT_TOKEN: {TOKEN}\n{TOKEN}\n") == (
        ".env, line 2: it is not NAME=value.\n.env, line 3: it is not NAME=value."
    )
    (tmp_path / ".env").unlink()
    (tmp_path / ".env").mkdir()
    assert refusal(tmp_path) == ".env: it cannot be read (it is no file)."


def test_every_secret_can_be_a_file(tmp_path: Path) -> None:
    assert {"DATABASE_URL", "SLACK_BOT_TOKEN", "SLACK_APP_TOKEN", "SLACK_SIGNING_SECRET", "AUTHD_HTTP_TOKEN", "LEAKS_SECRET"} == SECRETS
    file = tmp_path / "secret"
    values = {"DATABASE_URL": "postgresql://bot:geheim@db/bot", "SLACK_BOT_TOKEN": TOKEN, "SLACK_APP_TOKEN": "xapp-1"}
    for name in SECRETS:
        value = values.get(name, "0123456789abcdef0123456789abcdef")
        file.write_text(f"{value}\r\n")
        for found in (read(tmp_path, **{f"{name}_FILE": str(file)}), read(tmp_path, f"{name}_FILE=secret\n")):
            assert getattr(found, name.lower()).get_secret_value() == value
        assert refusal(tmp_path, "", **{f"{name}_FILE": str(file), name: value}) == f"{name}_FILE: {name} is set too. Set one of the two."
    file.write_text("\n")
    assert refusal(tmp_path, "", LEAKS_SECRET_FILE=str(file)) == "LEAKS_SECRET_FILE: the file that it names is empty."
    assert "(No such file or directory)" in refusal(tmp_path, "", LEAKS_SECRET_FILE="nowhere")
    assert "(it is no file)" in refusal(tmp_path, "", LEAKS_SECRET_FILE=str(tmp_path))


def test_the_environment_beats_the_file_in_either_form(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("xoxb-new")
    assert read(tmp_path, "SLACK_BOT_TOKEN=xoxb-old", SLACK_BOT_TOKEN_FILE="secret").slack_bot_token.get_secret_value() == "xoxb-new"
    assert read(tmp_path, "SLACK_BOT_TOKEN_FILE=nowhere", SLACK_BOT_TOKEN=TOKEN).slack_bot_token.get_secret_value() == TOKEN


def test_a_misspelt_name_is_named(tmp_path: Path) -> None:
    found = read(
        tmp_path, "SLAK_APP_TOKEN=xapp-1\nBOT_COLOUR=red\nDOMAIN=example.com\n", BOT_OWNER="U0OLGA", SMTP_PASSWORD="x", HOSTNAME="x"
    )
    assert found.notes == (
        "BOT_OWNER in the environment is no setting. Did you mean BOT_OWNERS?",
        "SLAK_APP_TOKEN in .env is no setting. Did you mean SLACK_APP_TOKEN?",
        "BOT_COLOUR in .env is no setting.",
    )
    others = {"PORTS": "x", "SLACK_WEBHOOK": "x", "SMTP_USER": "x", "DATABASE_NAME": "x", "LOGNAME": "x", "DATABASES": "x", "SHELL": "x"}
    assert read(tmp_path, "", **others).notes == ()
    assert "Did you mean SLACK_BOT_TOKEN_FILE?" in read(tmp_path, "", SLACK_BOT_TOKENFILE="x").notes[0]
    assert "Did you mean BOT_OWNERS?" in refusal(tmp_path, "", BOT_OWNER="U0OLGA", SMTP_PORT="x")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("DATABSE_URL", ". Did you mean DATABASE_URL?"),
        ("DATABASE_URI", ". Did you mean DATABASE_URL?"),
        ("AUTH_LISTEN", ". Did you mean AUTHD_LISTEN?"),
        ("LOGLEVEL", ". Did you mean LOG_LEVEL?"),
        ("loglevel", ". Did you mean LOG_LEVEL?"),
        ("ARGON_MEMORY_KIB", ". Did you mean ARGON2_MEMORY_KIB?"),
        ("AUTHD_TOKEN", ". Did you mean AUTHD_HTTP_TOKEN?"),
        ("METRICS_PORT", "."),
        ("BOT_TOKEN", "."),
        ("SMTP_HOST_FILE", ": only what is secret can be in a file. Set SMTP_HOST."),
    ],
)
@pytest.mark.parametrize("where", ["the environment", ".env"])
def test_a_misspelt_name_is_named_wherever_it_stands(tmp_path: Path, name: str, says: str, where: str) -> None:
    found = read(tmp_path, f"{name}=x\n") if where == ".env" else read(tmp_path, **{name: "x"})
    assert found.notes == (f"{name} in {where} is no setting{says}",)


def test_what_kubernetes_sets_for_a_service_called_smtp_is_ignored_and_said(tmp_path: Path) -> None:
    service = {
        "SMTP_SERVICE_HOST": "10.0.0.11",
        "SMTP_SERVICE_PORT": "587",
        "SMTP_PORT": "tcp://10.0.0.11:587",
        "SMTP_PORT_587_TCP": "tcp://10.0.0.11:587",
        "SMTP_PORT_587_TCP_ADDR": "10.0.0.11",
    }
    found = read(tmp_path, "SMTP_PORT=2587\n", **service)
    assert found.smtp_port == 2587
    assert found.notes == ("SMTP_PORT: ignored, it is Kubernetes' description of a Service; give that Service another name.",)


def test_several_signing_secrets_while_one_is_rotated(tmp_path: Path) -> None:
    old, new = "0" * 32, "f" * 32
    for between in (",", " ", ", "):
        assert read(tmp_path, SLACK_SIGNING_SECRET=f"{old}{between}{new}").signing_secrets == (old, new)
    (tmp_path / "secrets").write_text(f"{old}\n{new}\n")
    assert read(tmp_path, SLACK_SIGNING_SECRET_FILE="secrets").signing_secrets == (old, new)
    assert read(tmp_path).signing_secrets == ()


def test_a_bad_value_of_every_setting_is_named_in_our_words_and_never_repeated(tmp_path: Path) -> None:
    for name in sorted(FIELDS):
        if name == "REVOKED_JOURNAL":  # every text is a path
            continue
        said = refusal(tmp_path, **{name: "salt/and peppér"})
        assert said.startswith(f"{name}: "), said
        assert "salt" not in said
        assert "nput should" not in said
    assert (
        refusal(tmp_path, LOG_FORMAT="js\non")
        == "LOG_FORMAT: it holds a line break or another character that cannot be seen. Type it again."
    )
    for name in sorted(set(FIELDS) - {"SLACK_BOT_TOKEN"}):
        said = refusal(tmp_path, **{name: f"U0OLGA,{TOKEN}" if name == "BOT_OWNERS" else TOKEN})
        assert said.startswith(f"{name}: "), said
        assert "secret" not in said.replace("the signing secret", ""), said


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SMTP_PORT", "99999", "it is a whole number from 1 to 65535, such as 587"),
        ("PORT", "http", "it is a whole number from 0 to 65535"),
        ("BOT_ALLOW_GUESTS", "perhaps", "it is true or false"),
        ("BOT_MODE", "events", "it is socket or http"),
        ("LOG_LEVEL", "chatty", "it is DEBUG, INFO, WARNING or ERROR"),
        ("SMTP_HOST", "https://mail.example.com", "it is a host's name or address and nothing else, such as mail.example.com"),
        ("SMTP_HOST", "mail.example.com:587", "it is a host's name or address and nothing else, such as mail.example.com"),
        ("BOT_OWNERS", "U0OLGA,olga", "number 2 is not a Slack user id, which looks like U0123ABCDEF (Slack profile, ⋮, Copy member ID)"),
        ("AUTHD_LISTEN", "/run/auth", "use unix:PATH, tcp:HOST:PORT or tcp:PORT, such as tcp:127.0.0.1:12345"),
        ("AUTHD_LISTEN", "tcp:65536", "use unix:PATH, tcp:HOST:PORT or tcp:PORT, such as tcp:127.0.0.1:12345"),
        ("POLICY_LISTEN", "tcp:127.0.0.1:99999", "use unix:PATH, tcp:HOST:PORT or tcp:PORT, such as tcp:127.0.0.1:12345"),
        ("AUTHD_HTTP", "tcp:65536", "use tcp:HOST:PORT or tcp:PORT, such as tcp:127.0.0.1:12346"),
        ("AUTHD_NGINX_SERVER", "192.0.2.1:65536", "it is an address and a port, such as 192.0.2.1:25"),
        ("METRICS_LISTEN", "65536", "it is a port of this machine, such as 9464, or an address and a port, such as 0.0.0.0:9464"),
        ("SMTP_HOST", f"{'a' * 64}.example", "it is a host's name or address and nothing else, such as mail.example.com"),
        ("ARGON2_MEMORY_KIB", "4", "it is a whole number from 8 to 4194304, such as 19456"),
        ("DATABASE_URL", "postgresql://bot@db:65536/bot", "its port is no number from 1 to 65535"),
        ("DATABASE_URL", "postgresql://bot@db/bot?port=many", "its port is no number from 1 to 65535"),
        ("DATABASE_URL", "postgresql://bot@/bot?host=a,b&port=5432,0", "its port is no number from 1 to 65535"),
        ("DATABASE_URL", "postgresql://bot@db:many/bot", "it is not a database address"),
        ("DATABASE_URL", "postgresql://bot@db/bot?options=-csearch_path%3D'a", "a quote in its options= is not closed"),
        ("DATABASE_URL", "sqlite:///bot.db?timeout=many", "SQLite takes a file and nothing after it: sqlite:///smtp-bot.db"),
        ("DATABASE_URL", "sqlite:///bot.db?mode=ro", "SQLite takes a file and nothing after it: sqlite:///smtp-bot.db"),
        ("DATABASE_URL", "sqlite:///file:bot.db", "SQLite takes a file and nothing after it: sqlite:///smtp-bot.db"),
        ("DATABASE_URL", "sqlite:///file:bot.db?mode=memory&uri=true", "SQLite takes a file and nothing after it: sqlite:///smtp-bot.db"),
        ("DATABASE_URL", "sqlite://", "SQLite needs a file: sqlite:///smtp-bot.db"),
        ("AUTHD_PEERS", "10.1.0.0/16 mail", "number 2 is no network, which looks like 10.1.0.0/16 or 192.0.2.7"),
        ("METRICS_LISTEN", "everywhere", "it is a port of this machine, such as 9464, or an address and a port, such as 0.0.0.0:9464"),
        ("LEAKS_GITHUB_KEYS", "api.github.com", "it is an https address, such as https://api.github.com/meta/public_keys/secret_scanning"),
        ("LEAKS_SECRET", "short", "it has at least 16 characters; make one with: openssl rand -hex 24"),
        ("SLACK_BOT_TOKEN", "xapp-1", "it starts with xoxb-; this looks like another token. The xapp- one belongs in SLACK_APP_TOKEN"),
        ("SLACK_BOT_TOKEN", "xoxb-…", "it holds a character that none of these has (an example, or cut off?); copy it again"),
        ("SLACK_SIGNING_SECRET", TOKEN, "this is a token; the signing secret is under Basic Information, 32 digits and letters a to f"),
        ("SMTP_HOST", TOKEN, "this is a Slack token. It belongs in SLACK_BOT_TOKEN (xoxb-…) or SLACK_APP_TOKEN (xapp-…)."),
        ("SLACK_API_URL", "slack.com", "it is an address of a Slack API, such as https://slack.com/api/"),
    ],
)
def test_a_bad_value_is_told_with_an_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    assert refusal(tmp_path, **{name: value}) == f"{name}: {says}"
    with monkeypatch.context() as patched:
        patched.chdir(tmp_path)
        for command in ("run", "authd", "list", "doctor"):
            said = smtp_bot("sqlite:///bot.db", command, **{name: value})
            assert (said.exit_code, f"{name}: {says}" in said.output) == (1, True), command
    assert list(tmp_path.iterdir()) == []


def test_lanes_need_memory_each(tmp_path: Path) -> None:
    assert read(tmp_path, ARGON2_MEMORY_KIB="32", ARGON2_PARALLELISM="4").argon2_parallelism == 4
    assert refusal(tmp_path, ARGON2_MEMORY_KIB="31", ARGON2_PARALLELISM="4") == (
        "ARGON2_PARALLELISM: with so many ARGON2_MEMORY_KIB must be 32 or more"
    )


@pytest.mark.parametrize("command", ["run", "authd", "list", "doctor"])
def test_a_folder_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    said = smtp_bot("sqlite:///bot.db", command)
    assert (said.exit_code, "The folder that you are in is not there any more" in said.output) == (1, True)


@pytest.mark.parametrize("command", ["run", "authd", "list", "doctor"])
def test_every_command_names_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    said = smtp_bot("sqlite:///bot.db", command, SMTP_PORT="many", BOT_OWNERS=TOKEN, BOT_OWNER="U0OLGA")
    assert said.exit_code == 1
    assert "SMTP_PORT: it is a whole number from 1 to 65535, such as 587" in said.output
    assert "BOT_OWNERS: this is a Slack token" in said.output
    assert "Did you mean BOT_OWNERS?" in said.output
    assert "secret" not in said.output
    assert list(tmp_path.iterdir()) == []


def test_what_others_ask_of_the_settings(tmp_path: Path) -> None:
    found = read(
        tmp_path, AUTHD_PEERS="10.1.2.3/16, 2001:db8::/32", METRICS_LISTEN="9180", DATABASE_URL="sqlite:////var/lib/smtp-bot/bot.db"
    )
    assert found.authd_peers == (ip_network("10.1.0.0/16"), ip_network("2001:db8::/32"))
    assert found.metrics_address == ("127.0.0.1", 9180)
    assert read(tmp_path).metrics_address == ("127.0.0.1", 9464)
    assert read(tmp_path, METRICS_LISTEN="[::]:9180").metrics_address == ("::", 9180)
    assert found.journal == Path("/var/lib/smtp-bot/smtp-bot.journal")
    assert read(tmp_path, DATABASE_URL="postgresql://bot@db/bot").journal == Path("smtp-bot.journal")
    assert read(tmp_path, REVOKED_JOURNAL="/mnt/journal").journal == Path("/mnt/journal")


def test_the_readmes_table_is_the_classes() -> None:
    readme = (ROOT / "README.md").read_text()
    between = readme.split("<!-- settings: python -m bot.settings -->\n")[1].split("\n<!-- end of settings -->")[0]
    assert between == table()
    assert all(info.description for info in FIELDS.values())


def test_new_files_are_for_their_owner_alone_and_the_doctor_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "BOT_OWNER": "U0OLGA"}
    before = os.umask(0)
    try:
        made = subprocess.run(
            [sys.executable, "-m", "bot", "workspace", "add", "acme"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
    finally:
        os.umask(before)
    assert made.stdout == "Made the workspace acme (acme).\n", made.stderr
    assert "Did you mean BOT_OWNERS?" in made.stderr
    assert {stat.filemode(file.stat().st_mode) for file in tmp_path.iterdir()} == {"-rw-------"}
    url = "sqlite:///smtp-bot.db"
    assert "may read" not in smtp_bot(url, "doctor").stdout
    (tmp_path / ".env").touch()
    (tmp_path / ".env").chmod(0o644)
    (tmp_path / "smtp-bot.db").chmod(0o644)
    said = smtp_bot(url, "doctor", BOT_OWNER="U0OLGA").stdout
    assert "WRONG  Every account of this machine may read .env. Run: chmod o= .env" in said
    assert "may read smtp-bot.db" in said
    assert "note   BOT_OWNER in the environment is no setting. Did you mean BOT_OWNERS?" in said


def test_the_operator_is_the_account_and_not_what_the_environment_says() -> None:
    root = os.getuid() == 0
    code = "from bot.cli import operator; print(operator())" + ("; import os; os.setuid(54321); print(operator())" if root else "")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LOGNAME": "mallory", "SUDO_USER": "mallory", "SUDO_UID": "1"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert run.stdout.splitlines() == (["daemon", "uid54321"] if root else [pwd.getpwuid(os.getuid()).pw_name]), run.stderr


@pytest.mark.parametrize("uid", ["99999999999999999999", "-1", "one", ""])
def test_a_sudo_uid_that_is_none(monkeypatch: pytest.MonkeyPatch, uid: str) -> None:
    monkeypatch.setenv("SUDO_UID", uid)
    assert operator() == (f"uid{uid}" if uid.isdigit() and os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name)
