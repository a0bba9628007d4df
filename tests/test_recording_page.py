"""The page of a recording: what stands on it, of which recordings it can be made, and that it says why a part is missing."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from helpers import refused, toy_session, untaught

import qf_toolkit as qf
from qf_toolkit.cli.main import main
from qf_toolkit.errors import QfError
from qf_toolkit.estimators.rows import naive_forecasters
from qf_toolkit.evaluation.horizon import best_naive, informative_to, skill_by_horizon
from qf_toolkit.evaluation.repeats import explainable
from qf_toolkit.evaluation.scored import score
from qf_toolkit.recordings.behaviour import Behaviour
from qf_toolkit.recordings.session import new_session
from qf_toolkit.recordings.store import Store
from qf_toolkit.study.recording_page import report
from qf_toolkit.study.recording_results import PLAIN

FEW = {"n_samples": 20}


class Reader(HTMLParser):
    """The text of a page, its tags, and all that it would fetch."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.fetched, self.silent = [], [], [], 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action", "poster")]
        self.silent += tag == "style"

    def handle_endtag(self, tag):
        self.silent -= tag == "style"

    def handle_data(self, data):
        if not self.silent:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def store_of(path, *sessions):
    store = Store(path, create=True)
    for session in sessions:
        store.add(session)
    return store


def lonely():
    """One neuron, three trials, each of a condition of its own."""
    rng = np.random.default_rng(0)
    trials = pd.DataFrame({"onset_frame": [60, 120, 180], "offset_frame": [70, 130, 190], "orientation": [0.0, 45.0, 90.0]})
    return new_session(rng.uniform(90, 110, (1, 260)), subject="mouse", session="short", rate_hz=10.0, trials=trials)


def continuous(n_neurons=4, n_frames=900):
    rng = np.random.default_rng(1)
    traces = 100 + np.cumsum(rng.normal(0, 0.5, (n_neurons, n_frames)), 1)
    return new_session(traces, subject="worm", session="one", rate_hz=3.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return store_of(tmp_path_factory.mktemp("page") / "toy", toy_session(0))


@pytest.fixture(scope="module")
def page(store):
    return report(store, **FEW)


def test_the_numbers_are_those_of_evaluate_on_the_same_split(page):
    table = qf.evaluate([], page.choice.split)
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", re.search(r'<section id="who">(.*?)</section>', page.html, re.S)[1], re.S)
    cells = {row[0]: row for row in (re.findall(r"<td[^>]*>(.*?)</td>", row, re.S) for row in rows) if row}
    for name in table.index:
        assert float(cells[name][2].replace(",", "")) == pytest.approx(table.loc[name, "mse"], rel=6e-3)
        assert float(cells[name][3]) == pytest.approx(table.loc[name, "mse_ratio"], rel=6e-3)


def test_every_naive_row_is_said_in_plain_words(page):
    assert set(PLAIN) == {row.name for row in naive_forecasters()}
    assert all(words in Reader(page.html).text for words in PLAIN.values())


def test_it_fetches_nothing_and_marks_itself(page):
    found = Reader(page.html)
    assert found.fetched and all(where.startswith(("#", "data:image/")) for where in found.fetched)
    assert "script" not in found.tags and "link" not in found.tags and "iframe" not in found.tags
    assert '<meta name="generator" content="qf_toolkit' in page.html
    assert not re.search(r"url\(|@import", page.html)


def test_it_says_what_it_holds(page):
    text = Reader(page.html).text
    for words in ("6 neurons", "60 trials", "by block (test block -1)", page.choice.split.test.digest(), "There is one session.", "No behaviour"):
        assert words in text
    assert "Simulated data" not in text


def test_how_far_ahead_is_that_of_the_pass_over_the_test_part(page):
    scored = score([], page.choice.split)
    expected = skill_by_horizon(scored, "training mean")
    assert page.results.usual["skill"].equals(expected["skill"]) and page.results.best_naive == best_naive(scored)
    reach = informative_to(expected).loc[page.results.best_naive, "informative_s"]
    assert any(f"informative to at least {reach:.2g} s" in line or f"informative to {reach:.2g} s" in line for line in page.short)
    shares = explainable(page.choice.trials)
    assert page.neurons["explainable"].equals(shares["explainable"])
    np.testing.assert_allclose(page.neurons["snr_low"], shares["low"] / (1 - shares["low"]))
    mse = {name: scored.neurons[name]["mse"] for name in (page.results.best_naive, "training mean")}
    np.testing.assert_allclose(page.neurons["skill"], 1 - mse[page.results.best_naive] / mse["training mean"])


def test_states_and_calibration_stand_on_the_page_or_why_they_do_not(page, tmp_path):
    text = Reader(page.html).text
    assert "The 90 % intervals of" in text and "19 draws" not in text and "20 draws of each forecast" in text
    assert "Forecasts are not told apart by behaviour" in text
    speed = 1.4 * np.abs(np.sin(np.arange(toy_session(0).sizes["frame"]) / 70))
    moving = toy_session(0, behaviour={"running_speed": Behaviour(speed, units="cm/s")})
    text = Reader(report(store_of(tmp_path / "moving", moving), n_samples=0).html).text
    assert "Behaviour: running_speed" in text and "at most 1 cm/s" in text and "(--samples 0)" in text
    assert "Forecasts are not told apart" not in text


def test_blocks_too_short_to_be_divided_give_way_to_time(tmp_path):
    page = report(store_of(tmp_path / "blocks", toy_session(0, repeats=1, n_conditions=2, n_blocks=12)), n_samples=0)
    assert page.choice.settings["split"] == "chronological" and "last third of every session" in Reader(page.html).text


def test_a_simulated_recording_is_called_so(tmp_path):
    store = qf.simulate(tmp_path / "sim", n_neurons=3, repeats=6, directions=2, temporal_frequencies=1, gap_s=6.0)
    text = Reader(report(store, n_samples=0).html).text
    assert "Simulated data." in text and "data SIMULATED" in text


@pytest.mark.filterwarnings("error")
def test_one_neuron_and_three_trials_without_repeats_are_still_a_page(tmp_path):
    page = report(store_of(tmp_path / "few", lonely()), **FEW)
    text = Reader(page.html).text
    assert "There is one neuron." in text and "No condition is shown twice." in text and "3 trials" in text
    assert page.choice.missing in text or page.results is not None


def test_a_recording_without_trials_gets_sliding_windows(tmp_path):
    page = report(store_of(tmp_path / "worm", continuous()), **FEW)
    text = Reader(page.html).text
    assert page.choice.settings["windows"] == "sliding" and page.results is not None
    assert "There is no trial table" in text and "no conditions that repeat" in text
    assert "Tested is the last third of every session" in text


def test_cut_trials_get_the_window_that_they_hold(tmp_path):
    rng = np.random.default_rng(2)
    n_trials, n_frames = 40, 30  # sweeps of 3 s at 10 Hz, the onset after 1 s
    time = np.concatenate([10.0 * k + np.arange(n_frames) / 10 for k in range(n_trials)])
    trials = pd.DataFrame({"onset_frame": n_frames * np.arange(n_trials) + 10, "orientation": 45.0 * (np.arange(n_trials) % 4)})
    trials["offset_frame"] = trials["onset_frame"] + 10
    session = new_session(rng.uniform(90, 110, (3, len(time))), subject="m", session="s", rate_hz=10.0, frame_time=time, trials=trials)
    page = report(store_of(tmp_path / "sweeps", session), **FEW)
    assert page.choice.settings["baseline_s"] == 1.0 and page.choice.settings["response_s"] == 2.0 and len(page.choice.trials) == n_trials
    assert "1 s (10 frames) instead of the usual 3 s" in Reader(page.html).text
    with pytest.raises(QfError, match="no observation is left"):
        report(Store(tmp_path / "sweeps"), baseline_s=2.0)


def test_sessions_of_another_rate_are_left_out_by_name(tmp_path):
    other = toy_session(1, rate_hz=15.0, session="fast", n_neurons=2)
    page = report(store_of(tmp_path / "rates", toy_session(0), other), n_samples=0)
    assert page.choice.trials.sessions == ["mouse/one"]
    text = Reader(page.html).text
    assert "1 session at 15 Hz left for another page" in text and "1 session of the store is not on this page." in text


def test_a_subject_left_out_is_measured_by_the_recent_level(tmp_path):
    sessions = [toy_session(i, subject=f"m{i}", n_neurons=3) for i in range(2)]
    page = report(store_of(tmp_path / "two", *sessions), n_samples=0, split="subject", leave_out="m1")
    text = Reader(page.html).text
    assert page.results.reference == "mean of the context" and "training mean is missing" in text and "recent level" in page.short[2]


def test_where_nothing_can_be_forecast_the_page_says_so(tmp_path):
    rng = np.random.default_rng(3)
    onsets = np.arange(60, 60 + 80 * 60, 60)
    trials = pd.DataFrame({"onset_frame": onsets, "offset_frame": onsets + 10, "orientation": rng.choice([0.0, 90.0], 80)})
    noise = new_session(rng.uniform(90, 110, (5, 5000)), subject="m", session="noise", rate_hz=10.0, trials=trials)
    page = report(store_of(tmp_path / "noise", noise), signal="zscore", **FEW)
    assert page.results.best_naive == page.results.reference == "training mean"
    assert any("nothing else forecasts with less error" in line for line in page.short)


HOSTILE = "<script>alert(1)</script>"


def test_names_from_the_recording_are_text_not_markup(tmp_path):
    def spiteful(traces, trials):
        trials["note"] = HOSTILE.replace("/", "|") + '" onload="x'

    session = toy_session(0, change=spiteful, subject="<b>m", session="s&<i>", cells=[f"<img src=x{i}>" for i in range(6)], area='"><svg onload=x>')
    page = report(store_of(tmp_path / "spite", session), **FEW)
    found = Reader(page.html)
    assert not {"script", "b", "i", "svg"} & set(found.tags)
    assert all(where.startswith(("#", "data:image/")) for where in found.fetched)
    assert "<b>m" in found.text and '"><svg onload=x>' in found.text


def test_in_a_notebook_it_shows_itself_in_a_frame_of_its_own(page):
    shown = page._repr_html_()
    assert shown.startswith("<iframe srcdoc=") and shown.count("<iframe") == 1 and "<html" not in shown
    assert 'sandbox=""' in shown


def test_it_replaces_its_own_file_and_no_other(page, tmp_path):
    path = page.save(tmp_path / "r.html")
    assert page.path == path and path.read_text(encoding="utf-8") == page.html
    page.save(path)
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(QfError, match="expected a new file or a page"):
        page.save(path)
    assert path.read_text() == "mine"
    page.save(path, overwrite=True)
    assert path.read_text(encoding="utf-8") == page.html and [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_the_command_writes_the_page_and_says_it_in_short(store, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main(["report", str(store.path), "--out", str(out), "--samples", "0", "--quiet"]) == 0
    told = capsys.readouterr().out
    assert "6 neurons" in told and "Hardest to beat of the naive rows" in told and str(out) in told
    assert main(["report", str(store.path), "--out", str(out), "--samples", "0", "--quiet"]) == 0  # its own page is replaced


def test_the_command_refuses_in_one_line(store, tmp_path, capsys):
    foreign = tmp_path / "mine.html"
    foreign.write_text("<html>mine</html>")
    assert "--overwrite" in refused(capsys, "report", store.path, "--out", foreign)
    assert foreign.read_text() == "<html>mine</html>"
    assert "outside the store" in refused(capsys, "report", store.path, "--out", store.path / "r.html")
    assert "found nothing at" in refused(capsys, "report", tmp_path / "nowhere", "--out", tmp_path / "r.html")
    assert "--baseline" in refused(capsys, "report", store.path, "--out", tmp_path / "r.html", "--baseline", "-1")
    assert "'nonsense' has no trial" in refused(capsys, "report", store.path, "--out", tmp_path / "r.html", "--stimulus", "nonsense")
    Store(tmp_path / "empty", create=True)
    assert "at least one session" in refused(capsys, "report", tmp_path / "empty", "--out", tmp_path / "r.html")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "mine.html"]


@untaught
def test_models_stand_beside_the_naive_rows(store, tmp_path, capsys):
    few = ["--epochs", "1", "--quiet", "--baseline", "2", "--response", "1"]
    assert main(["fit", str(store.path), "--model", "nlinear", "--out", str(tmp_path / "nlinear"), *few]) == 0
    page = report(store, [tmp_path / "nlinear"], **FEW)
    table = qf.evaluate([qf.load(tmp_path / "nlinear")], page.choice.split)
    assert page.choice.settings["baseline_s"] == 2.0 and page.results.table["mse"].equals(table["mse"])
    assert '<tr class="model"><td>NLinear</td>' in page.html and any("NLinear" in line for line in page.short)
    loaded = qf.load(tmp_path / "nlinear")
    loaded.run = None  # as one that was fitted from Python: its split is chosen as for the naive rows alone
    again = report(store, [loaded], **FEW)
    assert again.choice.split.rule == page.choice.split.rule and again.choice.settings["response_s"] == 1.0
    out = tmp_path / "page.html"
    assert main(["report", str(store.path), "--model", str(tmp_path / "nlinear"), "--out", str(out), "--samples", "0", "--quiet"]) == 0
    assert "NLinear" in out.read_text(encoding="utf-8")
    capsys.readouterr()
    with pytest.raises(QfError, match="expected fitted forecasters, found a str"):
        report(store, [object.__new__(type("str", (), {}))])


def test_unknown_options_are_named(store):
    with pytest.raises(QfError, match="no option of report"):
        report(store, baseline=3)
