"""Rules, dashboard and autoscalers ask for what there is, in words that Prometheus understands."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import promql_parser
import pytest
import yaml
from debian_prometheus import PROMTOOL, needs_promtool
from manifests import (
    DEPLOY,
    RULES,
    Object,
    dashboard,
    needs_helm,
    one,
    plain,
    rendered,
    rules,
    write_rules,
)
from metrics import KNOWN, OURS, SCRAPER_S, TRITON, missing, queries, selectors, targets, used

QUERIES = list(queries())
RECORDED = {rule["record"] for rule in rules() if "record" in rule}
ALERTS = [rule for rule in rules() if "alert" in rule]
UP = '{job="songstarter", namespace=~"$namespace", instance=~"$instance"}'
TO_NOTHING = (
    "monitoring.podMonitor=true",
    "autoscaling.kind=keda",
    "autoscaling.minReplicas=0",
    "autoscaling.keda.arrivalsQuery=sum(x)",
)


@pytest.mark.parametrize(("place", "query"), QUERIES, ids=[f"{place}-{n}" for n, (place, _) in enumerate(QUERIES)])
def test_a_query_is_promql_over_known_series_and_labels(place: str, query: str) -> None:
    for selector in selectors(promql_parser.parse(query)):
        if selector.name in RECORDED:
            continue
        assert selector.name in KNOWN, place
        for matcher in selector.matchers.matchers:
            if matcher.name not in SCRAPER_S or matcher.name in KNOWN[selector.name]:
                values = KNOWN[selector.name][matcher.name]
                assert values == () or matcher.value in values, place


def test_nonsense_is_found() -> None:
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        promql_parser.parse("sum(rate(songstarter_steps_total[5m])")


def test_every_metric_of_the_project_is_looked_at() -> None:
    """What nobody asks for is not worth its round trip into Triton."""
    assert sorted(set(OURS) - set(used())) == []


def test_what_a_server_lacks_is_named_with_the_places_that_need_it() -> None:
    everything = set(OURS) | set(TRITON)
    assert missing(everything, gpu=False) == {}
    lacking = missing(everything - {"songstarter_takes_waiting"}, gpu=False)
    assert set(lacking) == {"songstarter_takes_waiting"}
    assert "ScaledObject: waiting" in lacking["songstarter_takes_waiting"]
    assert set(missing(everything, gpu=True)) >= {"nv_gpu_utilization", "nv_gpu_memory_total_bytes"}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_what_and_what_to_do(rule: Object) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "action"}
    for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
        assert label in SCRAPER_S or any(label in KNOWN.get(name, {}) for name in names(rule["expr"]))


def names(query: str) -> set[str]:
    return {selector.name for selector in selectors(promql_parser.parse(query))}


def test_rules_are_the_same_for_compose_and_for_the_operator_who_has_more_of_a_fleet() -> None:
    *common, fleet = one(plain(), "PrometheusRule")["spec"]["groups"]
    assert common == yaml.safe_load(RULES.read_text())["groups"]
    assert fleet["name"] == "songstarter-fleet"
    assert (DEPLOY / "prometheus" / "rules.yaml").resolve() == RULES.resolve()


@needs_helm
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("monitoring.podMonitor=true",), ["SongstarterGone"]),
        (("monitoring.podMonitor=true", "replicas=3"), ["SongstarterGone", "SongstarterPodsMissing"]),
        (("autoscaling.scrapedElsewhere=true", "autoscaling.kind=hpa"), ["SongstarterGone"]),
        ((), []),  # nothing is scraped
        (("monitoring.podMonitor=true", "replicas=0"), []),
        (TO_NOTHING, []),
    ],
)
def test_a_fleet_that_vanished_is_noticed_where_there_should_be_one(
    settings: tuple[str, ...], expected: list[str]
) -> None:
    groups = one(rendered("monitoring.rules=true", *settings), "PrometheusRule")["spec"]["groups"]
    found = [rule["alert"] for group in groups if group["name"] == "songstarter-fleet" for rule in group["rules"]]
    assert found == expected


@needs_helm
def test_songs_are_slow_where_the_operator_says_so() -> None:
    changed = one(rendered("monitoring.rules=true", "server.slowestSpeed=2"), "PrometheusRule")["spec"]["groups"]
    (slow,) = [rule for group in changed for rule in group["rules"] if rule.get("alert") == "SongstarterSlow"]
    assert slow["expr"].endswith(" < 2")
    (slow,) = [rule for rule in rules() if rule.get("alert") == "SongstarterSlow"]
    assert slow["expr"].endswith(" < 0.5")


def test_the_dashboard_s_panels_have_places_and_numbers_of_their_own() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23


def test_every_panel_explains_itself_and_asks_the_chosen_source() -> None:
    for panel in dashboard()["panels"]:
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_everything_on_the_dashboard_is_of_the_chosen_namespace_and_server() -> None:
    board = dashboard()
    asked = [(title, query) for title, query in targets(board) if not title.startswith("variable ")]
    assert len(asked) > 30
    for title, query in asked:
        # Of the kubelet's series, which know no server, the chosen ones are found by their pods.
        ours = query.count("{") - query.count('{container="server"}')
        assert query.count('{namespace=~"$namespace", instance=~"$instance"') + query.count(UP) == ours, title


def test_what_is_the_node_s_is_not_called_the_server_s() -> None:
    titles = {title for title, query in targets(dashboard()) if "nv_cpu_" in query}
    assert len(titles) == 2
    assert all("node" in title for title in titles)


@pytest.mark.promtool
@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", DEPLOY / "helm" / "songstarter" / "files" / "rules.yaml"),
        ("check", "config", DEPLOY / "prometheus" / "prometheus.yaml"),
    ],
    ids=["rules", "config"],
)
def test_promtool_agrees(arguments: tuple[str | Path, ...]) -> None:
    said = subprocess.run([str(PROMTOOL), *arguments], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.promtool
@needs_promtool
@needs_helm
def test_every_alert_speaks_up_in_its_case_of_trouble_and_in_no_other(tmp_path: Path) -> None:
    settings = ("monitoring.rules=true", "monitoring.podMonitor=true", "replicas=3")
    write_rules(one(rendered(*settings), "PrometheusRule"), tmp_path)
    cases = shutil.copy(Path(__file__).parent / "alerts.yaml", tmp_path)
    command = [str(PROMTOOL), "test", "rules", cases]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


def test_every_alert_has_its_case() -> None:
    cases = yaml.safe_load((Path(__file__).parent / "alerts.yaml").read_text())["tests"]
    raised = {test["alertname"] for case in cases for test in case["alert_rule_test"] if test["exp_alerts"]}
    assert raised >= {rule["alert"] for rule in ALERTS}


@pytest.mark.promtool
@needs_promtool
def test_promtool_understands_every_query(tmp_path: Path) -> None:
    """As recording rules: promtool asks servers, and has no check for a query alone."""
    lines = ["groups: [{name: queries, rules: ["]
    lines += [f"  {{record: 'q:{number}', expr: {quoted(query)}}}," for number, (_, query) in enumerate(QUERIES)]
    rules_file = tmp_path / "queries.yaml"
    rules_file.write_text("\n".join([*lines, "]}]"]))
    said = subprocess.run([str(PROMTOOL), "check", "rules", rules_file], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    assert f"{len(QUERIES)} rules found" in said.stdout


@pytest.mark.promtool
@needs_promtool
def test_keda_tells_no_pods_from_a_broken_scrape(tmp_path: Path) -> None:
    trigger = one(plain(), "ScaledObject")["spec"]["triggers"][0]
    query, labels = trigger["metadata"]["query"], '{namespace="songstarter",service="songstarter",pod="a"}'
    busy = {f"up{labels}": 1, f"songstarter_takes_waiting{labels}": 8, f"songstarter_slots{labels}": 16}
    answers = [({}, 0), ({f"up{labels}": 0}, None), (busy, 50)]
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": series, "values": f"{value}+0x5"} for series, value in given.items()],
            "promql_expr_test": [
                {
                    "expr": query,
                    "eval_time": "3m",
                    "exp_samples": [] if answer is None else [{"labels": "{}", "value": answer}],
                }
            ],
        }
        for given, answer in answers
    ]
    (tmp_path / "keda.yaml").write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": tests}))
    command = [str(PROMTOOL), "test", "rules", tmp_path / "keda.yaml"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


def quoted(text: str) -> str:
    return "'" + " ".join(text.split()).replace("'", "''") + "'"
