"""The page of a run: verdicts by hand, whole HTML, nothing from elsewhere, and nothing of the data's that is markup."""

import re
from datetime import timedelta
from html.parser import HTMLParser

import numpy as np
import pytest

from audio_ssl.evaluate.error_rate import EditCounts
from audio_ssl.evaluate.report.codebook import codebook
from audio_ssl.evaluate.report.curves import checks, curves
from audio_ssl.evaluate.report.examples import Examples, MaskedUtterance, Transcript
from audio_ssl.evaluate.report.page import build_page
from audio_ssl.evaluate.report.pictures import similarity_over_time, spectrogram, utterance
from audio_ssl.evaluate.report.run_folder import read_run
from audio_ssl.evaluate.report.skeleton import POLICY
from tests.unit.evaluate.runs import TRAIN, event, rows, write_run

VOID = {"meta", "br", "hr", "img", "input", "link"}
EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"
IS_MASKED = np.array([0, 1, 1, 0, 0, 1, 0, 0, 1, 1, 1], dtype=bool)


class Whole(HTMLParser):
    """Checks that every tag is closed, and collects tags and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.tags, self.addresses, self.ids = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data")]
        self.ids += [v for k, v in attrs if k == "id"]
        assert not any(k.startswith("on") for k, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(html: str) -> Whole:
    page = Whole()
    page.feed(html)
    page.close()
    assert not page.open
    return page


def masked_utterance(similarity=None, name="u") -> MaskedUtterance:
    waveform = np.sin(np.arange(3_760) / 9).astype(np.float32)
    if similarity is None:
        similarity = np.linspace(-0.5, 0.9, 121, dtype=np.float32).reshape(11, 11)
    return MaskedUtterance(name, waveform, 16_000, 320, IS_MASKED, similarity)


def verdicts(tmp_path, figures, **sections):
    found = checks(read_run(write_run(tmp_path, figures=figures, **sections)))
    return {check.panel.name: (check.split, check.value, check.verdict) for check in found}


def test_newest_figures_are_judged_by_their_bands(tmp_path):
    found = verdicts(tmp_path, rows())
    assert found["contrastive_loss"] == ("valid", 4.3, "healthy")
    assert found["accuracy"] == ("valid", 0.04, "healthy")
    assert found["code_perplexity"] == ("train", 9.0, "healthy")  # of 14
    assert found["padding_share"] == ("train", 0.03, "healthy")
    assert "lr" not in found


def test_a_collapse_and_a_dying_run_are_seen(tmp_path):
    bad = {"contrastive_loss": 0.0, "accuracy": 0.0, "code_perplexity": 2.0, "skipped_updates": 3, "grad_norm": 90.0}
    found = verdicts(tmp_path, [{**TRAIN, "update": 40, **bad, "data_wait_share": 0.4}])
    assert {name for name, (_, _, verdict) in found.items() if verdict == "look"} == {*bad, "data_wait_share"}


def test_one_group_that_has_collapsed_is_seen_behind_a_healthy_sum(tmp_path):
    found = verdicts(tmp_path, [{**TRAIN, "update": 40, "code_perplexity_1": 6.9, "code_perplexity_2": 1.1}])
    assert found["code_perplexity"][2] == "healthy"
    assert found["code_perplexity_*"] == ("train", 1.1, "look")


def test_a_young_run_is_not_judged(tmp_path):
    at_chance = {**TRAIN, "update": 4, "contrastive_loss": 4.615}
    assert verdicts(tmp_path, [at_chance], run={"num_updates": 50})["contrastive_loss"][2] == "early"
    assert verdicts(tmp_path, [{**at_chance, "update": 5}], run={"num_updates": 50})["contrastive_loss"][2] == "look"


def test_chance_and_masks_follow_the_settings(tmp_path):
    objective = {"num_distractors": 9, "mask_prob": 0.5, "mask_span_frames": 2, "num_entries": 7, "num_groups": 2}
    run = write_run(tmp_path, figures=[{**TRAIN, "update": 9, "masked_share": 0.5}], objective=objective)
    html = curves(read_run(run))
    assert "ln 10 = 2.303" in html
    assert "10 % by chance" in html
    assert "these settings give 44%" in html  # 1 - (1 - .25) ** 2


def test_figures_that_nobody_knows_are_drawn_too(tmp_path):
    figures = [{**TRAIN, "update": 9, "moon_phase": 0.25, "is_best": True, "comment": "x", "bad": float("nan")}]
    figures.append({"update": 9, "split": "guard", "guard": "spike", "message": "x", "median_loss": 4.0})
    html = curves(read_run(write_run(tmp_path, figures=figures)))
    assert "Other figures" in html
    assert "<h4>moon phase</h4>" in html
    assert "<h4>bad" not in html
    assert "is best" not in html
    assert "median" not in html


def test_a_part_of_the_loss_that_is_off_is_not_drawn(tmp_path):
    figures = [{**TRAIN, "update": 9, "feature_penalty": 0.0}]
    assert "Feature penalty" not in curves(read_run(write_run(tmp_path, figures=figures)))
    figures[0]["feature_penalty"] = 0.3
    assert "Feature penalty" in curves(read_run(write_run(tmp_path, figures=figures)))


def test_the_page_is_whole_and_takes_nothing_from_elsewhere(tmp_path):
    run = write_run(tmp_path / "first", events=[event("start", versions={"torch": "2.9"}, device="cpu")])
    examples = Examples("step_1", "validation manifest v.arrow", 1.0, 1, np.array([[5.0, 0, 3], [1, 1, 6]]))
    examples.masked = masked_utterance()
    html = build_page(read_run(run), examples)
    page = parsed(html)
    assert POLICY in html
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert not re.search(r"url\((?!#)", html)
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert len(page.ids) == len(set(page.ids))
    linked = {address.removeprefix("#") for address in page.addresses if address.startswith("#")}
    assert linked == {
        "summary", "warnings", "curves", "codebook", "utterance", "checkpoints", "settings", "environment",
    }  # fmt: skip
    assert linked <= set(page.ids)
    assert html.count('role="img"') == html.count("<title>") - 1 + html.count("of the updates are done")


def test_nothing_of_the_data_becomes_markup(tmp_path):
    figures = [{**TRAIN, "update": 9, EVIL: 0.5}]
    sections = {"data": {"train": [EVIL], EVIL: EVIL}, "model": {"preset": EVIL}}
    events = [
        event("start", device=EVIL, versions={EVIL: EVIL}), {**event("warning", message=EVIL), "time": EVIL},
        event(EVIL, message=EVIL), event("end", how="failed", message=EVIL),
    ]  # fmt: skip
    run = write_run(tmp_path / "<b>run<b>", figures=figures, events=events, **sections)
    examples = Examples(EVIL, EVIL, 1.0, 1, np.ones((1, 3)), masked_utterance(name=EVIL), notes=[EVIL])
    html = build_page(read_run(run), examples)
    assert {"script", "img", "b>run<b"}.isdisjoint(parsed(html).tags)
    tuned = write_run(tmp_path / "tuned", figures=[{"update": 1, "split": "train", "loss": 1.0}], init_from=EVIL)
    examples.transcripts = (Transcript(EVIL, EVIL, EVIL, EditCounts(hits=1)),)
    html = build_page(read_run(tuned), examples)
    assert {"script", "img"}.isdisjoint(parsed(html).tags)
    assert html.count("&lt;script&gt;") >= 4


def test_warnings_and_the_error_at_the_end_are_shown_in_order(tmp_path):
    events = [
        event("start"), event("warning", 7, message="row 3 cannot be read"),
        event("end", 8, how="failed", message="TrainingError: gradients must be finite"),
    ]  # fmt: skip
    html = build_page(read_run(write_run(tmp_path, events=events)), Examples())
    assert html.index("row 3 cannot be read") < html.index("The run ended with an error, update 8")
    assert "failed: TrainingError: gradients must be finite" in html


def test_a_run_that_has_only_begun_has_a_page(tmp_path):
    html = build_page(read_run(write_run(tmp_path, figures=[])), Examples(notes=["no checkpoint"]))
    parsed(html)
    assert "0 of 50 updates" in html
    assert "No figures yet." in html
    assert "no checkpoint" in html


def test_the_head_tells_where_the_run_stands(tmp_path):
    run = read_run(write_run(tmp_path / "first", figures=rows(2)))
    html = build_page(run, Examples(), now=run.written + timedelta(minutes=90))
    assert "<b>20 of 50 updates</b>" in html
    assert "40% of the updates are done" in html
    assert "newest figures 1.5 h before this page" in html
    assert "<dd>4.300<small>validation, first 4.300</small></dd>" in html
    assert "<dd>0:01:01<small>as measured last</small></dd>" in html


def test_a_fine_tuning_run_shows_errors_and_transcripts(tmp_path):
    figures = [
        {"update": 10, "split": "train", "loss": 2.9, "blank_share": 0.99, "grad_norm": 150.0},
        {"update": 10, "split": "valid", "cer": 0.755, "wer": 1.04},
    ]
    run = read_run(write_run(tmp_path, figures=figures, init_from="runs/first"))
    transcripts = (Transcript("u1", "a b", "", EditCounts(deletions=3)),)
    html = build_page(run, Examples("model", "validation manifest v.tsv", transcripts=transcripts))
    page = parsed(html)
    assert {"transcripts", "curves"} <= set(page.ids)
    assert {"codebook", "utterance"}.isdisjoint(page.ids)
    for text in ("Character error rate", "75.5%", "104.0%", "CTC loss", "<i>nothing</i>", "100%"):
        assert text in html
    found = {check.panel.name: check.verdict for check in checks(run)}
    assert found == {"cer": "healthy", "blank_share": "look"}  # the gradient of CTC has no band


def test_codebook_use_in_words():
    examples = Examples("m", "v", 1.0, 1, np.array([[6.0, 0, 2, 0], [2, 2, 2, 2]]))
    html = codebook(examples)
    assert "2 of 4 entries are chosen at all; the most used takes 75.0% of the frames. Perplexity 2." in html
    assert "4 of 4 entries are chosen at all; the most used takes 25.0% of the frames. Perplexity 4." in html


def test_spans_lie_where_frames_are_masked():
    html = spectrogram(masked_utterance())
    found = re.findall(r'class="masked" x="([\d.]+)%" width="([\d.]+)%"', html)
    share = 100 * 320 / 3760
    assert [tuple(map(float, span)) for span in found] == [
        pytest.approx((start * share, width * share), abs=0.01) for start, width in ((1, 2), (5, 1), (8, 3))
    ]
    assert "3 masked spans cover 55% of the frames" in html


def test_similarities_of_masked_frames_in_words():
    similarity = np.full((11, 11), 0.25, dtype=np.float32)
    np.fill_diagonal(similarity, 0.75)
    similarity[0, 0] = -1  # not masked: plays no part
    html = similarity_over_time(masked_utterance(similarity))
    assert "At masked frames: 0.75 with the own target, 0.25 with the targets of other masked frames." in html
    similarity[5, 1] = 0.9  # one of six frames is nearer to another's target
    similarity[8, 9] = 0.75  # an equal target is the own one
    html = utterance(Examples("m", masked=masked_utterance(similarity)))
    assert "At 5 of 6 masked frames no other" in html
    assert "chance would give 1.2" in html  # 5 rows x 1/6 and one x 2/6 = 7/6
