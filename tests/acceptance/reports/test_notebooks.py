"""Every shipped notebook runs top to bottom: by papermill, by our own runner, and by hand in JupyterLab."""

from __future__ import annotations

import html
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from evkit import dead_letters, reporting
from evkit.errors import UnknownGroup
from evkit.runtime.dead_letters import Selection
from tests.acceptance.reports.conftest import HOSTILE

pytestmark = pytest.mark.timeout(900)  # each notebook has a kernel of its own, and some tests run them all


def states(incident):
    return sorted(x.state for x in dead_letters.letters(incident.system, Selection(states=None)))


def test_every_notebook_runs_top_to_bottom_and_changes_nothing(incident):
    for spec in reporting.notebooks():
        run = reporting.run(spec.name, system=incident.system)

        assert run.error is None, spec.name
        assert run.summary.charts, spec.name
    assert states(incident) == ["open"] * 5
    assert incident.count("evkit.audit") == 0


def test_notebook_runs_by_plain_papermill_on_what_the_environment_names(incident, tmp_path):
    spec = reporting.notebook("why_did_these_die")
    papermill = Path(sys.executable).parent / "papermill"

    done = subprocess.run(
        [papermill, spec.path, "out.ipynb", "-k", "python3", "-p", "group", incident.group, "--no-progress-bar"],
        env=os.environ | incident.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "5 open dead letters" in Path("out.ipynb").read_text()


def test_investigation_of_an_unknown_group_says_so(incident):
    run = reporting.run("why_did_these_die", system=incident.system, group="bilings")

    assert run.exit_code == 3
    assert run.error.startswith("consumer group 'bilings' is not known to evkit's tables")


def test_causes_of_triage_are_findings_of_the_report(incident):
    run = reporting.run("what_is_wrong", system=incident.system, group=incident.group)

    page = (run.path / "report.html").read_text()
    causes = [f for f in run.summary.findings if f.monitor == "triage"]
    assert run.error is None
    assert run.exit_code == 2
    assert (causes[0].severity, causes[0].subject) == ("critical", incident.group)
    assert causes[0].evidence["harm"] == "wrong"
    assert causes[0].evidence["likely"] in html.unescape(page)
    assert HOSTILE not in page


def test_event_that_fared_worst_is_followed_when_none_is_named(incident):
    (newest, *_) = sorted(dead_letters.letters(incident.system), key=lambda x: x.failed_at, reverse=True)

    worst = reporting.run("what_happened_to_this_event", system=incident.system)
    named = reporting.run("what_happened_to_this_event", system=incident.system, key=f"{HOSTILE}1")
    unknown = reporting.run("what_happened_to_this_event", system=incident.system, event_id="nobody")

    assert f"event_id {newest.event_id}" in (worst.path / "report.html").read_text()
    assert named.summary.charts[0].name == "journey"
    assert unknown.exit_code == 3
    assert unknown.error.startswith("event 'nobody' is not known to evkit's tables")


def test_nothing_is_followed_in_an_empty_window(incident):
    run = reporting.run("what_happened_to_this_event", system=incident.system, since="now-3d", until="now-2d")

    assert run.error is None
    assert "There is no event in this window." in (run.path / "report.html").read_text()


def plan_id(run, kind):
    page = (run.path / "report.html").read_text()
    return page.partition(f"confirm={kind}-")[2][:8]


def test_redrive_is_planned_first_and_done_only_as_confirmed(incident):
    """P9: the plan's id is the key, and it fits only the plan that was read."""
    asked = {"group": incident.group, "app": "billing:consumer", "replay_since": "now-10m"}

    planned = reporting.run("redrive_and_replay", system=incident.system, **asked)

    assert planned.error is None
    assert states(incident) == ["open"] * 5
    confirm = f"redrive-{plan_id(planned, 'redrive')}"
    assert "confirm=replay-" in (planned.path / "report.html").read_text()

    for half in ({"confirm": confirm}, {"dry_run": False}, {"dry_run": False, "confirm": "yes"}):
        assert reporting.run("redrive_and_replay", system=incident.system, **asked, **half).error is None
        assert states(incident) == ["open"] * 5

    other = reporting.run(
        "redrive_and_replay", system=incident.system, **asked, dry_run=False, confirm="redrive-00000000"
    )
    assert other.error.startswith(f"the redrive that was confirmed is redrive-00000000, and the plan is now {confirm}")
    assert states(incident) == ["open"] * 5

    done = reporting.run(
        "redrive_and_replay", system=incident.system, **asked, dry_run="false", confirm=confirm, reason="fixed"
    )

    assert done.error is None
    assert states(incident) == ["resolved"] * 5
    assert incident.count("bill") == 10
    assert incident.count("evkit.audit") == 1  # the replay was planned too, and not confirmed


def test_plan_of_an_unknown_group_is_refused(incident):
    from evkit.monitors import Thresholds
    from evkit.reporting.acting import plan_redrive
    from evkit.reporting.report import Report
    from evkit.window import Window

    report = Report(incident.system, Window.last("1h"), Thresholds())

    with pytest.raises(UnknownGroup, match="did you mean"):
        plan_redrive(report, incident.group + "s")


# --- by hand ----------------------------------------------------------------------------------------------------------

# Braces: its promise is not waited for, since it never ends when an answer of the kernel is lost on its way to the page.
RUN_ALL = "() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }"
OPEN = "path => { window.jupyterapp.commands.execute('docmanager:open', { path }) }"
# With its kernel, and without the question whether to save.
CLOSE = """async () => {
    const notebook = window.jupyterapp.shell.currentWidget;
    await notebook.sessionContext.shutdown();
    notebook.context.model.dirty = false;
    notebook.dispose();
}"""
WAIT_MS_MAX = 120_000  # for one thing on the page; only waited for when it does not come
CELLS = "window.jupyterapp.shell.currentWidget.content.model.toJSON().cells"
# Of this notebook: a page that is loaded again shows first what was open before.
READY = (
    "path => window.jupyterapp?.shell.currentWidget?.context?.path === path"
    " && window.jupyterapp.shell.currentWidget.context.isReady"
    " && window.jupyterapp.shell.currentWidget.sessionContext?.session?.kernel?.status === 'idle'"
)


def wait_until_it_listens(port, server):
    """The address is printed before JupyterLab is there."""
    while True:
        assert server.poll() is None, "JupyterLab ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            threading.Event().wait(0.1)


@pytest.fixture
def lab(incident, chromium, tmp_path):
    """A JupyterLab as `evkit lab` starts it, with the address that it prints."""
    environment = os.environ | incident.environment | {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
                                                       "JUPYTER_DATA_DIR": str(tmp_path / "data")}  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, "-m", "evkit", "lab", "mine", "--no-browser", "--", "--LabApp.expose_app_in_browser=True"],
        env=environment, stdout=subprocess.PIPE, stderr=(tmp_path / "lab.log").open("w"), text=True,
    )  # fmt: skip
    try:
        address = server.stdout.readline().strip()
        wait_until_it_listens(int(address.partition("127.0.0.1:")[2].partition("/")[0]), server)
        yield address
    finally:
        server.terminate()
        server.wait(120)


@pytest.mark.needs_browser
def test_notebook_runs_by_hand_in_jupyterlab(lab, incident, chromium, tmp_path):
    """And what papermill left, which is not trusted, still shows charts and tables."""
    assert lab.startswith("http://127.0.0.1:")
    assert "token=" in lab
    executed = reporting.run("why_did_these_die", system=incident.system, out="mine")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 4000})
        page.set_default_timeout(WAIT_MS_MAX)
        page.goto(lab.replace("/lab/tree/tutorial/00_start_here.ipynb", "/lab/tree/health/90_health_report.ipynb"))
        page.wait_for_function(READY, arg="health/90_health_report.ipynb")
        page.evaluate(RUN_ALL)
        page.wait_for_selector("text=exit code 2")
        cells = page.evaluate(CELLS)

        token = lab.partition("?")[2]
        page.goto(f"{lab.partition('/lab')[0]}/lab/tree/{executed.path.relative_to('mine')}/report.ipynb?{token}")
        page.wait_for_selector(".js-plotly-plot .main-svg")
        page.wait_for_selector("table:visible:has-text('letter_id')")
        assert page.locator(".Toastify__toast").count() == 0  # no question about news
        trusted = page.evaluate("window.jupyterapp.shell.currentWidget.content.model.cells.get(5).trusted")
        hacked = page.evaluate("window.hacked")
        browser.close()

    outputs = [o for c in cells if c["cell_type"] == "code" for o in c["outputs"]]
    assert [o for o in outputs if o["output_type"] == "error"] == []
    assert sum("application/vnd.plotly.v1+json" in o.get("data", {}) for o in outputs) == 7
    assert trusted is False
    assert hacked is None


ALL_RAN = f"""path => {{
    const code = {CELLS}.filter(cell => cell.cell_type === 'code');
    const outputs = code.flatMap(cell => cell.outputs);
    // A kernel is idle between two cells too: what a notebook is to show, or why it cannot, has to be there.
    const shown = outputs.some(o => o.output_type === 'error' || 'application/vnd.plotly.v1+json' in (o.data ?? {{}}));
    return shown && code.every(cell => cell.execution_count !== null) && ({READY})(path);
}}"""


@pytest.mark.needs_browser
def test_every_notebook_runs_top_to_bottom_in_jupyterlab(lab, chromium):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 4000})
        page.set_default_timeout(WAIT_MS_MAX)
        # One after the other in one JupyterLab: to load it anew for each takes longer than most notebooks run.
        page.goto(lab + "&reset")
        page.wait_for_function(READY, arg="tutorial/00_start_here.ipynb")
        for spec in reporting.notebooks():
            where = f"{spec.path.parent.name}/{spec.path.name}"
            page.evaluate(OPEN, where)
            page.wait_for_function(READY, arg=where)
            page.evaluate(RUN_ALL)
            page.wait_for_function(ALL_RAN, arg=where)
            outputs = [o for c in page.evaluate(CELLS) if c["cell_type"] == "code" for o in c["outputs"]]

            assert [o["evalue"] for o in outputs if o["output_type"] == "error"] == [], spec.name
            assert any("application/vnd.plotly.v1+json" in o.get("data", {}) for o in outputs), spec.name
            page.evaluate(CLOSE)
        browser.close()
