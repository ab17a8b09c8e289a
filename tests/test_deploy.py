"""The files of deploy/: every name in them is real, and what checks them is content.

systemd's own analyser reads the units, and Prometheus' the rules; `make package` has hadolint and Kubernetes' schemas read the rest.
"""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from bot.settings import FIELDS, SECRETS
from storage.passwords import Style, generate, new_id
from tests.conftest import need

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
KUBERNETES: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes/smtp-bot.yml").read_text()))
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yml").read_text())
EXPOSURE_MAX = 2.0
EXPOSURE_AS_ROOT_MAX = 2.3
PROMETHEUS = DEPLOY / "prometheus"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
# Named in the design of the release that these files are for.
COMING = {"smtp_bot_store_went_back"}
METRIC = re.compile(r"\bsmtp_(?:bot|authd)_[a-z0-9_]+")


@pytest.fixture
def analyse() -> str:
    return shutil.which("systemd-analyze") or need("systemd-analyze (Debian: systemd)")


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units, with a program that is here in the place of the bot."""
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/smtp-bot/bin/smtp-bot", "/bin/true"))
    return sorted(tmp_path.iterdir())


def test_systemd_can_read_the_units(analyse: str, units: list[Path]) -> None:
    assert any("FileDescriptorName=auth" in unit.read_text() for unit in units)
    read = subprocess.run([analyse, "verify", "--man=no", *units], capture_output=True, text=True, timeout=150, check=False)
    assert (read.returncode, read.stderr) == (0, "")


@pytest.mark.parametrize("service", [unit.name for unit in SERVICES])
def test_the_services_are_little_exposed(analyse: str, units: list[Path], service: str) -> None:
    unit = next(unit for unit in units if unit.name == service)
    most = EXPOSURE_AS_ROOT_MAX if "User=root" in unit.read_text().splitlines() else EXPOSURE_MAX
    command: list[str | Path] = [analyse, "security", "--offline=true", "--no-pager", f"--threshold={most * 10:.0f}", unit]
    read = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    exposed = re.search(r"Overall exposure level for \S+: ([\d.]+)", read.stdout)
    assert exposed, read.stdout + read.stderr
    assert float(exposed[1]) < most
    assert read.returncode == 0


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_a_service_is_never_given_up_and_leaves_no_core(unit: Path) -> None:
    assert {"StartLimitIntervalSec=0", "LimitCORE=0", "UMask=0077"} <= set(unit.read_text().splitlines())
    assert re.search(r"^RestartSec=\d", unit.read_text(), re.MULTILINE)
    assert re.search(r"^LimitNOFILE=\d", unit.read_text(), re.MULTILINE)


def test_authd_is_given_no_slack_token() -> None:
    for name in ("authd", "queue"):
        unit = (DEPLOY / f"systemd/smtp-bot-{name}.service").read_text()
        assert re.findall(r"^EnvironmentFile=(.*)", unit, re.MULTILINE) == ["/etc/smtp-bot/authd.env"]
    authd = COMPOSE["services"]["authd"]
    assert authd["secrets"] == ["database_url"]
    mounted = next(one for one in KUBERNETES if one["kind"] == "StatefulSet" and one["metadata"]["name"] == "smtp-bot-authd")
    volumes = mounted["spec"]["template"]["spec"]["volumes"]
    assert [item["key"] for volume in volumes if "secret" in volume for item in volume["secret"]["items"]] == ["database-url"]
    assert not any("SLACK" in name for name in (*authd["environment"], *(one["name"] for one in container(mounted)["env"])))


def container(resource: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = resource["spec"]["template"]["spec"]["containers"][0]
    return found


def test_every_setting_in_the_files_is_one() -> None:
    settings = {*FIELDS, *(f"{name}_FILE" for name in SECRETS)}
    set_in = [name for one in COMPOSE["services"].values() if one.get("image") == "smtp-bot:0.1.0" for name in one["environment"]]
    for one in KUBERNETES:
        if one["kind"] == "StatefulSet":
            set_in += [variable["name"] for variable in container(one)["env"]]
        set_in += list(one["data"]) if one["kind"] == "ConfigMap" else []
    assert len(set_in) > 15
    assert set(set_in) - {"HEALTH_URL"} <= settings
    for block in re.findall(r"```ini\n(.*?)```", (ROOT / "docs/operating.md").read_text(), re.DOTALL):
        assert set(re.findall(r"^([A-Z_]+)=", block, re.MULTILINE)) <= settings


@pytest.mark.parametrize("name", ["smtp-bot", "smtp-bot-authd"])
def test_kubernetes_runs_two_of_each_with_no_rights(name: str) -> None:
    resource = next(one for one in KUBERNETES if one["kind"] == "StatefulSet" and one["metadata"]["name"] == name)
    pod, runs = resource["spec"]["template"]["spec"], container(resource)
    assert resource["spec"]["replicas"] == 2
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["enableServiceLinks"] is False
    assert runs["securityContext"]["readOnlyRootFilesystem"] is True
    ports = {port["name"] for port in runs["ports"]}
    assert all(runs[probe]["httpGet"]["port"] in ports for probe in ("startupProbe", "livenessProbe", "readinessProbe"))
    budget = next(one for one in KUBERNETES if one["kind"] == "PodDisruptionBudget" and one["metadata"]["name"] == name)
    assert budget["spec"]["selector"]["matchLabels"].items() <= resource["spec"]["template"]["metadata"]["labels"].items()
    service = next(one for one in KUBERNETES if one["kind"] == "Service" and one["metadata"]["name"] == resource["spec"]["serviceName"])
    assert service["spec"]["selector"].items() <= resource["spec"]["template"]["metadata"]["labels"].items()


def test_the_image_holds_what_it_needs_and_no_sandbox() -> None:
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY ") and "--from" not in line for name in line.split()[1:-1]}
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
    assert not any("sandbox" in name for name in copied)
    assert any(re.fullmatch(r"USER \d+:\d+", line) for line in lines)
    assert any(line.startswith("HEALTHCHECK ") for line in lines)


def test_compose_names_only_what_it_declares() -> None:
    services = COMPOSE["services"]
    assert {"postgres", "bot", "authd", "postfix"} <= set(services)
    for one in services.values():
        assert set(one.get("networks", [])) <= set(COMPOSE["networks"])
        assert set(one.get("secrets", [])) <= set(COMPOSE["secrets"])
        named = {volume.split(":")[0] for volume in one.get("volumes", []) if not volume.startswith(".")}
        assert named <= set(COMPOSE["volumes"])
        assert set(one.get("depends_on", [])) <= set(services)
        if one.get("image") == "smtp-bot:0.1.0":
            assert one["read_only"] is True


@pytest.fixture
def promtool() -> str:
    return shutil.which("promtool") or need("promtool (Debian: prometheus)")


def test_each_alert_fires_when_it_should_and_not_before(promtool: str) -> None:
    tried = subprocess.run(
        [promtool, "test", "rules", PROMETHEUS / "rules_test.yml"], capture_output=True, text=True, timeout=150, check=False
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr
    tests = (PROMETHEUS / "rules_test.yml").read_text()
    for alert in ALERTS:
        name = alert["alert"]
        assert f'alertname="{name}"' in tests, f"{name} is not among those that fire"
        assert f"alertname: {name}}}" in tests, f"{name} is not among those that stay silent"
        assert set(alert["annotations"]) == {"summary", "description"}
        assert alert["labels"]["severity"] in ("page", "ticket", "info")


def expressions() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    return [rule["expr"] for rule in ALERTS] + panels


def test_rules_and_dashboard_ask_for_metrics_that_there_are() -> None:
    code = "\n".join(path.read_text() for folder in ("bot", "mailauth", "storage") for path in (ROOT / folder).rglob("*.py"))
    made = re.findall(r'(?:Counter|Gauge|Histogram|Info)\(\s*"(smtp_\w+)"', code)
    there = {name + suffix for name in made for suffix in ("", "_bucket", "_info")} | COMING
    assert {name for expression in expressions() for name in METRIC.findall(expression)} <= there


def test_the_dashboard_can_be_imported(promtool: str, tmp_path: Path) -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < 24
    assert DASHBOARD["templating"]["list"][0]["name"] == "datasource"
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels if panel["type"] != "row")
    asked = [{"record": f"panel:{number}", "expr": text.replace("$__rate_interval", "5m")} for number, text in enumerate(expressions())]
    rules = tmp_path / "panels.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": asked}]}))
    read = subprocess.run([promtool, "check", "rules", rules], capture_output=True, text=True, timeout=150, check=False)
    assert read.returncode == 0, read.stdout + read.stderr


def by_pattern() -> dict[str, list[re.Pattern[str]]]:
    """The patterns of the scanners that no registry has, by their rules' file. Python reads the part of RE2 that they use."""
    rules = tomllib.loads((DEPLOY / "scanners/gitleaks.toml").read_text())["rules"]
    detectors = yaml.safe_load((DEPLOY / "scanners/trufflehog.yml").read_text())["detectors"]
    assert all(rule["secretGroup"] == 1 and rule["keywords"] for rule in rules)
    return {
        "gitleaks": [re.compile(rule["regex"]) for rule in rules],
        "trufflehog": [re.compile(pattern) for detector in detectors for pattern in detector["regex"].values()],
    }


@pytest.mark.parametrize("scanner", by_pattern())
def test_the_patterns_find_our_passwords_and_no_look_alikes(scanner: str) -> None:
    standard, device = by_pattern()[scanner]
    for pattern in (standard, device):
        assert not re.search(r"\(\?[=!<]", pattern.pattern), "RE2 has no lookaround"
    for _ in range(100):
        long, short = generate(new_id()), generate("", Style.DEVICE)
        for around in ("{}", "SMTP_PASSWORD={}", '"{}"', "_{}", "url://user:{}@host", "{},"):
            assert standard.findall(around.format(long)) == [long]
            assert device.findall(around.format(short)) == [short]
        assert device.findall(short.upper()) == [short.upper()]
        assert standard.findall(f"{long} {long}") == [long, long]
        for other in (f"x{long}", f"{long}x", long[:-1], "smtp2" + long[5:], "smtp-acme-7k2m9x4q", f"smtp1u{long[6:]}"):
            assert standard.findall(other) == device.findall(other) == []
        for other in (f"x{short}", f"{short}x", short[:-1], "smtpserverconnection", "smtp_" + short[5:]):
            assert device.findall(other) == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/operating.md"])
def test_what_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http", "#"))]
    assert all(((ROOT / page).parent / link).exists() for link in links)
    named = re.findall(r"`((?:bot|storage|mailauth|sandbox|tests|deploy|docs)/[\w./-]+)`", text)
    assert [name for name in named if not (ROOT / name).exists() and name != "bot/note.py" and "/tls/" not in name] == []
    targets = set(re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", text, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{first or second}:", makefile, re.MULTILINE) for first, second in targets)
