"""How a new password can be shown: as fields, or as one text to copy into what will use it.

Usernames and passwords are letters, digits and hyphens, so nothing in these texts needs quoting.
"""

from dataclasses import dataclass
from typing import Literal

Tls = Literal["starttls", "tls", "none"]
FIELDS = "fields"


@dataclass(frozen=True)
class Account:
    """What an app needs to send mail."""

    host: str
    port: int
    tls: Tls
    username: str
    password: str

    def pick(self, starttls: str, tls: str, none: str) -> str:
        """One of the three, by the encryption."""
        return {"starttls": starttls, "tls": tls, "none": none}[self.tls]


def env(a: Account) -> str:
    return f"SMTP_HOST={a.host}\nSMTP_PORT={a.port}\nSMTP_ENCRYPTION={a.tls}\nSMTP_USERNAME={a.username}\nSMTP_PASSWORD={a.password}"


def postfix(a: Account) -> str:
    """https://www.postfix.org/SASL_README.html#client_sasl_enable"""
    wrapped = a.pick("", "smtp_tls_wrappermode = yes\n", "")
    return f"""\
# /etc/postfix/main.cf
relayhost = [{a.host}]:{a.port}
smtp_sasl_auth_enable = yes
smtp_sasl_password_maps = texthash:/etc/postfix/sasl_passwd
smtp_sasl_security_options = noanonymous
{wrapped}smtp_tls_security_level = {a.pick("encrypt", "encrypt", "none")}

# /etc/postfix/sasl_passwd, readable by root alone
[{a.host}]:{a.port} {a.username}:{a.password}"""


def python(a: Account) -> str:
    """https://docs.python.org/3/library/smtplib.html"""
    opens = a.pick("smtplib.SMTP", "smtplib.SMTP_SSL", "smtplib.SMTP")
    context = a.pick("", ", context=ssl.create_default_context()", "")
    starts = a.pick("    server.starttls(context=ssl.create_default_context())\n", "", "")
    return f"""\
import smtplib
import ssl

with {opens}("{a.host}", {a.port}{context}) as server:
{starts}    server.login("{a.username}", "{a.password}")
    server.send_message(message)"""


def node(a: Account) -> str:
    """https://nodemailer.com/smtp"""
    secure = a.pick("secure: false, requireTLS: true", "secure: true", "secure: false")
    return f"""\
const transport = nodemailer.createTransport({{
  host: "{a.host}", port: {a.port}, {secure},
  auth: {{ user: "{a.username}", pass: "{a.password}" }},
}});"""


def laravel(a: Account) -> str:
    """https://laravel.com/docs/mail"""
    return f"""\
MAIL_MAILER=smtp
MAIL_SCHEME={a.pick("smtp", "smtps", "smtp")}
MAIL_HOST={a.host}
MAIL_PORT={a.port}
MAIL_USERNAME={a.username}
MAIL_PASSWORD={a.password}"""


def wordpress(a: Account) -> str:
    """https://wpmailsmtp.com/docs/how-to-secure-smtp-settings-by-using-constants"""
    return f"""\
define( 'WPMS_ON', true );
define( 'WPMS_MAILER', 'smtp' );
define( 'WPMS_SMTP_HOST', '{a.host}' );
define( 'WPMS_SMTP_PORT', {a.port} );
define( 'WPMS_SSL', '{a.pick("tls", "ssl", "")}' );
define( 'WPMS_SMTP_AUTH', true );
define( 'WPMS_SMTP_USER', '{a.username}' );
define( 'WPMS_SMTP_PASS', '{a.password}' );"""


def grafana(a: Account) -> str:
    """https://grafana.com/docs/grafana/latest/setup-grafana/configure-grafana/#smtp"""
    return f"""\
[smtp]
enabled = true
host = {a.host}:{a.port}
user = {a.username}
password = {a.password}
startTLS_policy = {a.pick("MandatoryStartTLS", "NoStartTLS", "NoStartTLS")}"""


def panel(a: Account) -> str:
    security = a.pick("STARTTLS", "SSL/TLS", "none")
    return f"""\
SMTP server   {a.host}
Port          {a.port}
Security      {security}
Authenticate  yes (SMTP AUTH)
User          {a.username}
Password      {a.password}"""


RECIPES = {
    "env": (".env", env),
    "postfix": ("Postfix relay", postfix),
    "python": ("Python", python),
    "node": ("Node", node),
    "laravel": ("Laravel", laravel),
    "wordpress": ("WordPress", wordpress),
    "grafana": ("Grafana", grafana),
    "panel": ("Printer panel", panel),
}
"""By the value of the menu's option: its label, and the text."""
