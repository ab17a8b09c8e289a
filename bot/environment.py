"""Variables as people's files have them: `.env`, the environment, and files that hold one value.

Nothing is known here of what a variable means; no value is repeated in a note or a problem, because it may be a secret.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ENV_FILE = ".env"
CLOSE, VERY_CLOSE = 0.8, 0.9  # from here on a name is taken for another one, misspelt; among everybody's variables
FILE_MAX = 1024 * 1024  # bytes of `.env`, and of a file that a *_FILE variable names

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What cannot be seen at the ends of a pasted value: byte order mark, zero-width characters, no-break space.
_UNSEEN = " \t\r\n\f\v\u00a0\ufeff\u200b\u200c\u200d\u2060"
_QUOTED = re.compile(r"""(?:"([^"]*)"|'([^']*)'|[“”„]([^“”„]*)[“”])\s*(?:#.*)?""", re.DOTALL)
_COMMENT = re.compile(r"(?:^|\s)#.*", re.DOTALL)
# Kubernetes describes every Service to every Pod so: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_SERVICE_ADDRESS = re.compile(r"(?:tcp|udp|sctp)://\S+:\d+")
_SERVICE_NAME = re.compile(r".*_(?:SERVICE_(?:HOST|PORT).*|PORT_\d+_(?:TCP|UDP|SCTP).*)")


def clean(value: str) -> str:
    """The value that was meant, without blanks, carriage returns, quotes and the comment after it.

    A shell and `.env` take them off; docker's `--env-file` and systemd's `EnvironmentFile` hand some of them on.
    """
    value = value.strip(_UNSEEN)
    quoted = _QUOTED.fullmatch(value)
    if quoted:
        return next(part for part in quoted.groups() if part is not None).strip(_UNSEEN)
    return _COMMENT.sub("", value).strip(_UNSEEN)


@dataclass
class Given:
    """What the environment and `.env` hold of ours, and what is wrong with it.

    Args:
        names: the variables that there are.
        secrets: those of them that `NAME_FILE` can give too, as the path of a file that holds the value.
        prefixes: what ours begin with, so that a misspelt one is told from somebody else's.
        shared: those prefixes that other programs' variables have too.
    """

    names: frozenset[str]
    secrets: frozenset[str]
    prefixes: tuple[str, ...]
    shared: tuple[str, ...]
    values: dict[str, str] = field(default_factory=dict)
    """A variable's name to its cleaned value."""
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def take(self, variables: Iterable[tuple[str, str]], where: str) -> None:
        """Adds variables that were not given yet; an empty one counts as not given."""
        new: dict[str, str] = {}
        for name, raw in variables:
            key, value = name.upper(), clean(raw)
            if key not in self.names and key.removesuffix("_FILE") not in self.secrets:
                self._unknown(name, where)
            elif where != ENV_FILE and _SERVICE_ADDRESS.fullmatch(value):
                self.notes.append(f"{name}: ignored, it is Kubernetes' description of a Service; give that Service another name.")
            elif value:
                new[key] = value
        # A variable and its _FILE are the same setting: the environment's beats .env's in either form.
        taken = {key.removesuffix("_FILE") for key in self.values}
        self.values |= {key: value for key, value in new.items() if key.removesuffix("_FILE") not in taken}

    def _unknown(self, name: str, where: str) -> None:
        key = name.upper()
        if _SERVICE_NAME.fullmatch(name):
            return
        if key.removesuffix("_FILE") in self.names:
            self.notes.append(f"{name} in {where} is no setting: only what is secret can be in a file. Set {key.removesuffix('_FILE')}.")
            return
        ours = key.startswith(self.prefixes)
        known = sorted(self.names | {f"{secret}_FILE" for secret in self.secrets})
        close = difflib.get_close_matches(key, known, 1, CLOSE if ours or where == ENV_FILE else VERY_CLOSE)
        if close:
            self.notes.append(f"{name} in {where} is no setting. Did you mean {close[0]}?")
        elif ours and (where == ENV_FILE or not key.startswith(self.shared)):
            self.notes.append(f"{name} in {where} is no setting.")

    def read_files(self, folder: Path) -> None:
        """Puts the content of files in the place of the `NAME_FILE` that name them."""
        for name in sorted(key for key in self.values if key not in self.names):
            target = name.removesuffix("_FILE")
            path = folder / self.values.pop(name)
            if target in self.values:
                self.problems.append(f"{name}: {target} is set too. Set one of the two.")
                continue
            try:
                value = clean(_text(path))
            except (OSError, ValueError) as error:
                self.problems.append(f"{name}: the file that it names cannot be read ({_why(error)}).")
                continue
            if value:
                self.values[target] = value
            else:
                self.problems.append(f"{name}: the file that it names is empty.")


def _why(error: Exception) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)


def _text(path: Path) -> str:
    """A file in UTF-8, UTF-16 or Latin-1, with or without byte order mark. Raises OSError, or ValueError when it is no text."""
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    with path.open("rb") as opened:
        raw = opened.read(FILE_MAX + 1)
    if len(raw) > FILE_MAX:
        raise ValueError("it is over 1 MiB")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings = ["utf-16"]
    elif b"\0" in raw:
        # Text of Latin letters in UTF-16 has a zero in every second byte.
        encodings = ["utf-16-le" if raw[1::2].count(0) > raw[::2].count(0) else "utf-16-be"]
    else:
        encodings = ["utf-8-sig", "cp1252", "latin-1"]
    for encoding in encodings:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise ValueError("it is no text; save it as UTF-8")


def _env_file(path: Path, given: Given) -> list[tuple[str, str]]:
    """The variables of `.env`; a line that is none is a problem, named by its number."""
    try:
        text = _text(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        given.problems.append(f"{ENV_FILE}: it cannot be read ({_why(error)}).")
        return []
    variables = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip(_UNSEEN)
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = re.sub(r"^(?:export|set)\s+", "", stripped).partition("=")
        name = name.strip(_UNSEEN)
        if equals and _NAME.fullmatch(name):
            variables.append((name, value))
        else:
            given.problems.append(f"{ENV_FILE}, line {number}: it is not NAME=value.")
    return variables


def read(given: Given, environment: Mapping[str, str], folder: Path) -> None:
    """Fills `given`: from the environment first, then from `.env` in `folder`, then from the files that `NAME_FILE` names."""
    given.take(environment.items(), "the environment")
    given.take(_env_file(folder / ENV_FILE, given), ENV_FILE)
    given.read_files(folder)
