"""Alertmanager's configuration and templates, read and rendered by a real Alertmanager with real receivers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode

import pytest
import yaml
from support.alertmanager import SECRETS, SOURCE, Running, alert, alertmanager, amtool, copied, now, part, seconds
from support.paths import ROOT
from support.servers import ask, eventually

from demo.receivers import usable, write
from exporter.errors import ConfigError

CHANGE = 30.0
"""Seconds in which a change of a group of the layers data and business is sent, even under load."""
INBOX = "http://127.0.0.1:9877/v1/notifications"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """An Alertmanager with every receiver."""
    with alertmanager(tmp_path) as server:
        yield server


# ---- alerts as Prometheus sends them

START = "2024-11-26T10:00:00Z"
END = "2024-11-26T10:12:30Z"


ERRORS = alert(
    "ModelErrorRatioHigh",
    "critical",
    "system",
    "digits version 3 returns errors",
    "4.2% of the requests to digits version 3 fail with a 5xx code, above 1%.",
    model="digits",
    version="3",
)
DRIFT = alert(
    "ModelDrift",
    "warning",
    "data",
    "The data of digits version 3 no longer come from the training distribution",
    "The inputs or predictions of digits version 3 differ from training.",
    model="digits",
    version="3",
)


CORRECTIONS = alert(
    "ModelCorrectionRatioHigh",
    "critical",
    "business",
    "Users correct digits version 3 too often",
    "Users corrected 8.3% of the confident predictions of digits version 3 in the last hour, above 1%."
    " 64% of the corrections are where image.intensity_mean is below 3.5, 6% of the traffic.",
    model="digits",
    version="3",
)
CORRECTIONS["annotations"]["review_url"] = "http://127.0.0.1:9877/review?model=digits&version=3"
CORRECTIONS["annotations"]["slices_url"] = "http://127.0.0.1:9877/slices?model=digits&version=3"
ACCURACY = alert(
    "ModelAccuracyLow",
    "critical",
    "business",
    "digits version 3 is estimated to be less accurate than it should be",
    "Estimated without labels: at most 84% of the predictions of digits version 3 are right, below 91%, 5% less than"
    " the 96% on the labelled rows of its profile that have a confidence. It is lowest in the window 1h: 82%.",
    model="digits",
    version="3",
)


# ---- the configuration


def test_source_is_valid() -> None:
    """amtool accepts the committed configuration with its templates."""
    assert "1 templates" in amtool("check-config", SOURCE)


def test_slack_can_be_the_pager(tmp_path: Path) -> None:
    """The commented line of the receiver `pager` is valid, and stays on without a webhook."""
    source = copied(tmp_path / "am", slack_url="http://127.0.0.1/")
    text = source.read_text()
    assert text.count("    # slack_configs: [*slack]") == 1
    source.write_text(text.replace("    # slack_configs: [*slack]", "    slack_configs: [*slack]"))
    assert "SUCCESS" in amtool("check-config", source)
    off = write(source, tmp_path / "out.yml", inbox=INBOX)
    assert "Webhook to pager" in off
    assert not any(name.startswith("Slack") for name in off)
    receivers = {
        receiver["name"]: receiver for receiver in yaml.safe_load((tmp_path / "out.yml").read_text())["receivers"]
    }
    assert receivers["pager"]["slack_configs"] == receivers["team"]["slack_configs"]


@pytest.mark.parametrize("secrets", [(), SECRETS, ("slack_url",)], ids=["none", "all", "slack"])
@pytest.mark.parametrize("smarthost", [None, "mail:1025"])
def test_adapted_is_valid(tmp_path: Path, secrets: tuple[str, ...], smarthost: str | None) -> None:
    """amtool accepts every adapted form, wherever it is written."""
    source = copied(tmp_path / "alertmanager", **dict.fromkeys(secrets, "http://127.0.0.1/"))
    write(source, tmp_path / "out.yml", inbox=INBOX, smarthost=smarthost)
    assert "1 templates" in amtool("check-config", tmp_path / "out.yml")


@pytest.mark.parametrize(
    ("severity", "layer", "receivers"),
    [
        ("critical", "system", "inbox,pager,team"),
        ("critical", "business", "inbox,stakeholders,pager,team"),
        ("warning", "system", "inbox,team"),
        ("warning", "data", "inbox,team"),
        ("warning", "business", "inbox,stakeholders,team"),
        ("warning", "exporter", "inbox,team"),
        ("info", "business", "inbox,stakeholders,team-info"),
        ("info", "data", "inbox,team-info"),
        ("none", "exporter", "inbox,watchdog"),
    ],
)
def test_routes(severity: str, layer: str, receivers: str) -> None:
    """Severity and layer decide the receivers; the watchdog reaches only the home page and the dead man's switch."""
    labels = [f"severity={severity}", f"layer={layer}", "alertname=A", "model=digits"]
    assert amtool("config", "routes", "test", f"--config.file={SOURCE}", *labels).strip() == receivers


def routes(route: dict[str, Any], inherited: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every route with what it inherits."""
    merged = {key: value for key, value in (inherited | route).items() if key != "routes"}
    yield merged
    for child in route.get("routes", []):
        yield from routes(child, merged)


def test_times() -> None:
    """The pager is notified within seconds, info repeats least often, and no interval exceeds five days."""
    all_routes = list(routes(yaml.safe_load(SOURCE.read_text())["route"], {}))
    (pager,) = (route for route in all_routes if route["receiver"] == "pager")
    assert seconds(pager["group_wait"]) <= 5
    assert all(seconds(route["group_wait"]) <= seconds("10m") for route in all_routes)
    assert all(seconds(route["repeat_interval"]) < seconds("5d") for route in all_routes)
    info = [route for route in all_routes if route.get("matchers") == ['severity="info"']]
    others = [route for route in all_routes if route not in info]
    assert len(info) == 2
    slowest = max(seconds(route["repeat_interval"]) for route in others)
    assert all(seconds(route["repeat_interval"]) > slowest for route in info)


# ---- adapting it


def test_receivers_without_secrets_are_left_out(tmp_path: Path) -> None:
    """Without secrets every receiver except the inbox is left out."""
    source = copied(tmp_path / "am")
    target = tmp_path / "out.yml"
    assert write(source, target, inbox="http://exporter:9877/v1/notifications") == [
        "E-mail to team",
        "Slack to team",
        "E-mail to team-info",
        "E-mail to stakeholders",
        "Webhook to pager",
        "Webhook to watchdog",
    ]
    receivers = {receiver.pop("name"): receiver for receiver in yaml.safe_load(target.read_text())["receivers"]}
    inbox = {"url": "http://exporter:9877/v1/notifications", "send_resolved": True}
    assert receivers.pop("inbox") == {"webhook_configs": [inbox]}
    assert set(map(str, receivers.values())) == {"{}"}


def test_a_secret_turns_its_receiver_on(tmp_path: Path) -> None:
    """A receiver whose secret file exists is kept, with an absolute path to the file."""
    source = copied(tmp_path / "am", slack_url="http://127.0.0.1/", smtp_password="x")
    off = write(source, tmp_path / "out.yml", inbox=INBOX)
    assert off == ["Webhook to pager", "Webhook to watchdog"]
    config = yaml.safe_load((tmp_path / "out.yml").read_text())
    team = next(receiver for receiver in config["receivers"] if receiver["name"] == "team")
    assert team["slack_configs"][0]["api_url_file"] == f"{tmp_path}/am/secrets/slack_url"
    assert team["email_configs"][0]["to"] == "ml-team@example.com"
    assert config["global"]["smtp_auth_password_file"] == f"{tmp_path}/am/secrets/smtp_password"
    assert config["templates"] == [f"{tmp_path}/am/templates/*.tmpl"]


def test_mail_catcher(tmp_path: Path) -> None:
    """A smarthost option enables e-mail without a password and TLS; the source file is unchanged."""
    config = yaml.safe_load(SOURCE.read_text())
    before = json.dumps(config)
    adapted, off = usable(config, tmp_path, inbox=INBOX, smarthost="mail:1025")
    assert not any("E-mail" in name for name in off)
    assert adapted["global"] == {
        "smtp_from": "model-exporter@example.com",
        "smtp_smarthost": "mail:1025",
        "smtp_require_tls": False,
    }
    assert json.dumps(config) == before


def test_no_mail_server(tmp_path: Path) -> None:
    """E-mail is left out when no mail server is set anywhere."""
    config = {"receivers": [{"name": "a", "email_configs": [{"to": "a@example.com"}]}]}
    assert usable(config, tmp_path, inbox=INBOX, smarthost=None) == (
        {"global": {}, "receivers": [{"name": "a"}]},
        ["E-mail to a"],
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "{source}: cannot be read: No such file or directory"),
        ("- a", "{source}: expected keys such as route: and receivers:"),
        ("a: [", "{source}:1:5: is not YAML"),
    ],
)
def test_an_invalid_source_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    """A configuration that cannot be read is named with the error."""
    source = tmp_path / "alertmanager.yml"
    if text is not None:
        source.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message.format(source=source))):
        write(source, tmp_path / "out.yml", inbox=INBOX)


def test_target_that_cannot_be_written(tmp_path: Path) -> None:
    """A target that cannot be written is named."""
    with pytest.raises(ConfigError, match=r"out\.yml: cannot be copied or written: No such file or directory"):
        write(SOURCE, tmp_path / "missing" / "out.yml", inbox=INBOX)


def test_secrets_are_ignored_and_described() -> None:
    """Git ignores every secret, and the folder's README lists each file that the configuration refers to."""
    folder = SOURCE.parent / "secrets"
    assert (folder / ".gitignore").read_text().splitlines() == ["*", "!.gitignore", "!README.md"]
    secrets = set(re.findall(r"_file: secrets/(\w+)", SOURCE.read_text()))
    assert secrets == set(SECRETS) == set(re.findall(r"^\| `(\w+)`", (folder / "README.md").read_text(), re.MULTILINE))
    assert not re.search(r"hooks\.slack|password: |api_url: ", SOURCE.read_text())


# ---- messages


def example(name: str) -> str:
    """A rendered example of docs/notifications.md."""
    text = (ROOT / "docs" / "notifications.md").read_text()
    match = re.search(rf"<!-- example: {name} -->\n+```\w+\n(.*?)\n```\n", text, re.DOTALL)
    assert match, f"docs/notifications.md has no example {name}"
    return match[1]


def as_text(mail: EmailMessage) -> str:
    lines = [f"{name}: {mail[name]}" for name in ("From", "To", "Subject")]
    return "\n".join(lines) + "\n\n" + part(mail, "plain").rstrip()


def as_slack(message: Any) -> str:
    (attachment,) = message["attachments"]
    return f"{attachment['title']}\n\n{attachment['text'].rstrip()}"


def test_every_receiver_gets_the_documented_message(running: Running) -> None:
    """A firing and a resolved incident of one model reach each receiver as the documentation shows."""
    received = running.received
    alerts = [CORRECTIONS | {"startsAt": START}, ACCURACY | {"startsAt": "2024-11-26T10:01:30Z"}]
    # Alertmanager does not wait with alerts that have been firing for longer than group_wait.
    running.post(alerts[0])
    eventually(lambda: received.mailed("ml-team@example.com") and received.at("/slack"))
    running.post(*alerts)
    eventually(lambda: len(received.mailed("ml-team@example.com")) == 2 and len(received.at("/slack")) == 2, CHANGE)
    eventually(lambda: [len(post["alerts"]) for post in received.at("/v1/notifications")] == [1, 2])
    running.post(*(entry | {"endsAt": END} for entry in alerts))
    eventually(lambda: len(received.mailed("ml-team@example.com")) == 3 and len(received.at("/slack")) == 3, CHANGE)

    _, firing, over = received.mailed("ml-team@example.com")
    assert as_text(firing) == example("mail-firing")
    assert as_text(over) == example("mail-over")
    for mail, links in ((firing, 10), (over, 1)):  # HTML says what the text says, and links what it links
        html = part(mail, "html")
        for line in filter(None, part(mail, "plain").splitlines()):
            content = re.sub(r"^([A-Z]+, \w+|Runbook|Review|Slices|Dashboard|Home page|Silence): ", "", line)
            assert unquote(content).replace("&", "&amp;") in unquote(html)
        assert html.count("<a href=") == links
        assert "width=device-width" in html

    _, firing, over = received.at("/slack")
    assert as_slack(firing) == example("slack-firing")
    assert as_slack(over) == example("slack-over")
    assert [post["attachments"][0]["color"] for post in received.at("/slack")] == ["danger", "danger", "good"]

    paged = eventually(lambda: len(received.at("/pager")) == 3 and received.at("/pager"))
    documented = json.loads(example("webhook-firing"))
    assert {key: paged[0][key] for key in documented} == documented  # newer versions add fields
    assert [page["status"] for page in paged] == ["firing", "firing", "resolved"]
    assert eventually(lambda: received.at("/v1/notifications")[2:])[0]["status"] == "resolved"
    owners = eventually(lambda: len(mails := received.mailed("model-owners@example.com")) == 3 and mails, CHANGE)
    subjects = [str(mail["Subject"]) for mail in owners]
    assert [subject.partition("]")[0] for subject in subjects] == ["[critical", "[critical", "[resolved after 12m"]


DIGITS = {"model": "digits", "version": "1"}
FEATURES = ("image.intensity_mean", "image.intensity_stddev", "image.sharpness")


def digits(name: str, feature: str = "", severity: str = "warning", layer: str = "data") -> Any:
    return alert(name, severity, layer, **DIGITS, **({"feature": feature} if feature else {}))


CORRECTED = digits("ModelCorrectionRatioHigh", severity="critical", layer="business")


def test_a_change_of_an_incident_is_one_message(running: Running) -> None:
    """Alerts that join and alerts that end are in one message, which says how many have ended."""
    received = running.received
    low = alert("ModelConfidentRatioLow", "warning", "business", model="digits", version="3")
    running.post(low, DRIFT)
    eventually(lambda: received.mailed("ml-team@example.com"))
    running.post(DRIFT | {"endsAt": now()})
    running.post(alert("ModelAttemptsDrop", "warning", "business", model="digits"))
    _, mail = eventually(lambda: len(mails := received.mailed("ml-team@example.com")) == 2 and mails, CHANGE)
    assert mail["Subject"].startswith("[warning] digits, 3 alerts, 1 resolved: ")
    assert [line.split(":")[0] for line in part(mail, "plain").splitlines() if re.match("[A-Z]+, ", line)] == [
        "WARNING, business",
        "WARNING, business",
        "RESOLVED, data",
    ]


def test_a_critical_alert_of_another_layer_pages_at_once(running: Running) -> None:
    """The pager does not wait for group_interval while another layer of the model has a critical alert."""
    received = running.received
    running.post(CORRECTIONS)
    eventually(lambda: received.at("/pager"))
    running.post(ERRORS)
    eventually(lambda: len(received.at("/pager")) == 2)
    assert [entry["labels"]["layer"] for page in received.at("/pager") for entry in page["alerts"]] == [
        "business",
        "system",
    ]


def test_a_closer_alert_inhibits_others(running: Running) -> None:
    """A statement inhibits its causes and what says less about the same, and nothing of another version or model."""
    suppressed = [
        *(digits("ModelFeatureDrift", feature) for feature in FEATURES),
        digits("ModelPredictionDrift"),
        digits("ModelFeatureMissing", FEATURES[0]),
        digits("ModelDrift"),
        digits("ModelErrorBudgetBurn", severity="critical", layer="system"),
    ]
    firing = [
        digits("ModelInputsChanged", severity="critical"),
        digits("ModelErrorRatioHigh", severity="critical", layer="system"),
        alert("ModelDrift", "warning", "data", model="digits", version="2"),
        alert("ModelFeatureDrift", "warning", "data", model="loans", version="1", feature="age"),
        alert("ModelErrorBudgetBurn", "critical", "system", model="digits", version="2"),
    ]
    running.post(*suppressed, *firing)

    eventually(lambda: states(running) == {"active": labels_of(firing), "suppressed": labels_of(suppressed)})


def test_business_alerts_are_mailed_to_stakeholders(running: Running) -> None:
    """Stakeholders are mailed business alerts; alerts with severity info are not sent to Slack."""
    running.post(alert("ModelReviewBacklog", "info", "business", model="digits"))
    running.post(alert("ModelAttemptsDrop", "warning", "business", model="loans"))
    received = running.received
    eventually(lambda: len(received.mailed("model-owners@example.com")) == 2)
    eventually(lambda: len(received.mailed("ml-team@example.com")) == 2 and received.at("/slack"))
    subjects = {str(mail["Subject"]) for mail in received.mailed("ml-team@example.com")}
    assert subjects == {"[info] ModelReviewBacklog of digits", "[warning] ModelAttemptsDrop of loans"}
    assert {str(mail["Subject"]) for mail in received.mailed("model-owners@example.com")} == subjects
    assert [post["attachments"][0]["title"] for post in received.at("/slack")] == [
        "[warning] ModelAttemptsDrop of loans"
    ]


def test_watchdog_reaches_no_person(running: Running) -> None:
    """The watchdog reaches the dead man's switch, the home page and no person."""
    received = running.received
    running.post(alert("Watchdog", "none", "exporter"), alert("ModelEventsDropped", "warning", "exporter"))
    eventually(lambda: received.at("/watchdog"))
    eventually(lambda: received.mails and received.at("/slack") and received.at("/v1/notifications"))
    inbox = [entry["labels"]["alertname"] for post in received.at("/v1/notifications") for entry in post["alerts"]]
    assert set(inbox) == {"Watchdog", "ModelEventsDropped"}
    others = [body for path, body in received.posts if path not in {"/watchdog", "/v1/notifications"}]
    assert "Watchdog" not in json.dumps(others) + "".join(map(str, received.mails))


def test_exporter_down_inhibits_the_alerts_of_its_models(running: Running) -> None:
    """ModelExporterDown inhibits what it explains: alerts of its models and machines, and not those of another job."""
    suppressed = [
        ERRORS,
        DRIFT,
        alert("ModelHostDiskHigh", "warning", "system", path="/", job="model-exporter", instance="a:9877"),
    ]
    active = [
        alert("ModelExporterDown", "critical", "system", job="model-exporter"),
        alert("ModelExporterDown", "none", "system", model="digits"),
        alert("ModelFeedbackMissing", "info", "business", model="loans"),
        alert("ModelErrorRatioHigh", "critical", "system", model="loans", version="1"),
        alert("ModelHostDiskHigh", "warning", "system", path="/", job="other", instance="b:9877"),
        alert("ModelConfigReloadFailed", "warning", "exporter"),
    ]
    running.post(*active, *suppressed)
    eventually(lambda: states(running) == {"active": labels_of(active), "suppressed": labels_of(suppressed)})
    received = running.received
    eventually(lambda: len(received.at("/pager")) == 2)
    posts = [path for path, body in received.posts if '"severity": "none"' in json.dumps(body)]
    assert set(posts) <= {"/v1/notifications"}, "only the home page learns which models are not monitored"


def test_one_replica_that_is_down_mutes_nothing(running: Running) -> None:
    """Only the alert that no exporter is up explains what its models say."""
    active = [alert("ModelExporterDown", "warning", "system", job="model-exporter", instance="a:9877"), ERRORS]
    running.post(*active)
    eventually(lambda: running.received.at("/pager"))
    assert states(running) == {"active": labels_of(active)}


def states(running: Running) -> dict[str, list[Any]]:
    """The labels of the alerts in each state."""
    result: dict[str, list[Any]] = {}
    for entry in ask(f"{running.url}/api/v2/alerts").json:
        result.setdefault(entry["status"]["state"], []).append(sorted(entry["labels"].items()))
    return {state: sorted(found) for state, found in result.items()}


def labels_of(alerts: Sequence[Any]) -> list[Any]:
    return sorted(sorted(entry["labels"].items()) for entry in alerts)


def test_critical_inhibits_its_warning(running: Running) -> None:
    """A critical alert inhibits warnings of the same layer, model and version, and no others."""
    running.post(
        ERRORS,
        alert("ModelLatencyHigh", "warning", "system", model="digits", version="3"),
        alert("OtherVersion", "warning", "system", model="digits", version="2"),
        alert("OtherModel", "warning", "system", model="loans", version="3"),
        alert("OtherLayer", "warning", "data", model="digits", version="3"),
        alert("NoModel", "warning", "system"),
        alert("CriticalWithoutModel", "critical", "system"),
    )
    states = eventually(lambda: len(result := running.alerts()) == 7 and "suppressed" in result.values() and result)
    assert [name for name, state in states.items() if state == "suppressed"] == ["ModelLatencyHigh"]
    posts = eventually(lambda: len(result := running.received.at("/v1/notifications")) == 3 and result)
    names = {entry["labels"]["alertname"] for post in posts for entry in post["alerts"]}
    assert names == set(states) - {"ModelLatencyHigh"}


def test_markup_is_escaped(running: Running) -> None:
    """Markup in labels and annotations is shown as text in mail and Slack, and a script URL is not a link."""
    evil = '<script>alert("1")</script> & <!channel> \\d+\r\nBcc: x@example.com'
    sent = alert("Odd", "warning", "data", f"summary {evil}", f"description {evil}", model=evil, feature='a|b>c "\\d')
    sent["annotations"]["runbook_url"] = "javascript:alert(1)"
    sent["annotations"]["dashboard_url"] = "http://127.0.0.1:3000/d/x?a=1&b=<2>|3"
    running.post(sent)
    received = running.received
    eventually(lambda: received.mails and received.at("/slack"))
    mail = received.mails[0][1]
    assert mail["Bcc"] is None
    html = part(mail, "html")
    assert "<script" not in html
    assert "<!channel" not in html
    assert html.count("&lt;script&gt;") >= 4  # title, summary, description, label
    assert "javascript:" not in html
    plain = re.findall(r"^Silence: (\S+)$", part(mail, "plain"), re.MULTILINE)
    linked = re.findall(r'<a href="([^"]+/silences/new[^"]+)"', html)
    slack = re.findall(r"<([^|>]+/silences/new[^|>]+)\|Silence>", received.at("/slack")[0]["attachments"][0]["text"])
    assert plain == slack
    assert [unquote(link) for link in linked] == [unquote(link) for link in plain]
    silence = unquote(plain[0].partition("?filter=%7B")[2].removesuffix("%7D"))
    matchers = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*")', silence)
    assert ",".join(map("=".join, matchers)) == silence
    assert {name: json.loads(value) for name, value in matchers} == sent["labels"]
    feature = urlencode({"filter": f"feature={dict(matchers)['feature']}"})
    assert [entry["labels"] for entry in ask(f"{running.url}/api/v2/alerts?{feature}").json] == [sent["labels"]]
    attachment = received.at("/slack")[0]["attachments"][0]
    for text in (attachment["title"], attachment["fallback"], attachment["text"]):
        assert '&lt;script&gt;alert("1")&lt;/script&gt; &amp; &lt;!channel&gt;' in text
        assert "<script" not in text
    assert "<http://127.0.0.1:3000/d/x?a=1&amp;b=&lt;2&gt;%7C3|Dashboard>" in attachment["text"]
    assert 'feature a|b&gt;c "\\d' in attachment["text"]


def test_alerts_without_annotations_and_large_groups(running: Running) -> None:
    """An alert without annotations is sent; of a large group Slack shows ten and the total."""
    received = running.received
    running.post({"labels": {"alertname": "Bare", "severity": "warning"}})
    features = [alert("Many", "warning", "data", model="wide", feature=f"f{n:02}") for n in range(30)]
    running.post(*features)
    messages = eventually(lambda: len(posts := received.at("/slack")) == 2 and posts)
    bare, grouped = sorted(
        (post["attachments"][0] for post in messages), key=lambda attachment: len(attachment["text"])
    )
    assert bare["title"] == "[warning] Bare"
    assert grouped["title"] == grouped["fallback"] == "[warning] wide, 30 alerts: Many of wide"
    assert grouped["text"].count("*WARNING, data: ") == 10
    assert "Only the first 10 are shown: 30 are firing and 0 are resolved." in grouped["text"]
    mails = eventually(lambda: len(mails := received.mailed("ml-team@example.com")) == 2 and mails)
    assert {len(re.findall("^WARNING", part(mail, "plain"), re.MULTILINE)) for mail in mails} == {1, 30}
    (mail,) = (mail for mail in mails if mail["Subject"] == grouped["title"])
    assert "Only the first" not in part(mail, "plain") + part(mail, "html")


def test_a_mail_of_many_alerts_is_bounded(running: Running) -> None:
    """A mail shows 50 alerts and their number; programs cut one of more than 102 kB."""
    received = running.received
    features = [alert("Many", "critical", "business", model="wide", feature=f"f{n:03}") for n in range(501)]
    running.post(*features)
    (firing,) = eventually(lambda: received.mailed("model-owners@example.com"))
    assert firing["Subject"] == "[critical] wide, 501 alerts: Many of wide"
    running.post(*(entry | {"endsAt": now()} for entry in features))
    _, over = eventually(lambda: len(mails := received.mailed("model-owners@example.com")) == 2 and mails, CHANGE)
    for mail, totals, shown in (
        (firing, "501 are firing and 0 are resolved", {"CRITICAL": 50}),
        (over, "0 are firing and 501 are resolved", {"RESOLVED": 50}),
    ):
        for kind in ("plain", "html"):
            content = part(mail, kind)
            assert f"Only the first 50 are shown: {totals}." in content
            assert {word: content.count(f"{word}, ") for word in shown} == shown
            assert len(content.encode()) < 100_000
            assert "Home page" in content
