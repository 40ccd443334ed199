"""Recognition heads: told symbols are heard and noise is not, edits by hand, and nothing of test items is used."""

import math

import numpy as np
import pytest
import torch

from audio_ssl.config.probe import ProbeData, ProbeLabels, ProbeTask, ProbeTraining
from audio_ssl.errors import ConfigError
from audio_ssl.probe import standard
from audio_ssl.probe.ctc import Spoken, edits, fit, greedy, hear, losses, say, steps_a_frame
from audio_ssl.probe.heads import HEAD_DRAW, LinearHead, batches, build, learn, reversed_frames
from audio_ssl.probe.recognise import run
from audio_ssl.probe.standard import Held, Standard, standard_of
from audio_ssl.rng import derive_seed, numpy_generator
from tests.unit.probe.in_memory import InMemory, fold_of, items_of

NUM_PHONES = 5


def task_of(**training):
    return ProbeTask(
        kind="recognise", title="phones", data=ProbeData(root="x"), labels=ProbeLabels(phones="text-phone"),
        training=ProbeTraining(**{"epochs": 20, "hidden": 16, "batch": 8, "lr": 0.05, **training}),
    )  # fmt: skip


def spoken(count, *, leak, hop_s=0.02, per_frame=1, num_layers=2):
    """2 to 6 phones, three frames each and a frame of silence after it; of two layers the first tells, or neither."""
    rng = numpy_generator(3, "test spoken", count)
    clips, labels = [], []
    for _ in range(count):
        said = rng.integers(0, NUM_PHONES, size=int(rng.integers(2, 7)))
        path = np.concatenate([[p, p, p, NUM_PHONES] for p in said])
        frames = rng.normal(0, 0.3 if leak else 1.0, (num_layers, len(path), 8))
        if leak:
            frames[0, np.arange(len(path)), path] += 2
        clips.append(frames)
        labels.append(tuple(f"P{p}" for p in said))
    return InMemory(clips, hop_s=hop_s), items_of(labels, [f"s{i % 7}" for i in range(count)])


@pytest.mark.parametrize("head", ["linear", "recurrent"])
def test_told_phones_are_heard_by_the_layer_that_tells_them(head):
    frames, items = spoken(80, leak=True)
    (result,) = run(frames, items, [fold_of(range(56), range(56, 80))], task=task_of(), seeds=(1, 2), heads=(head,))
    assert (result.head, result.score.metric) == (head, "symbol_error_rate")
    assert result.score.value < 0.03
    assert set(result.score.of_seed) == {1, 2}
    assert set(result.score.of_block) == {f"s{i}" for i in range(7)}
    assert not result.score.higher_is_better
    assert 0 < result.others["nats_a_symbol"].value < 0.2
    assert result.layer_weights[0] > 0.55
    assert sum(result.layer_weights) == pytest.approx(1)
    assert result.notes == ()


@pytest.mark.parametrize("head", ["linear", "recurrent"])
def test_noise_is_not_heard(head):
    frames, items = spoken(80, leak=False)
    (result,) = run(frames, items, [fold_of(range(56), range(56, 80))], task=task_of(), seeds=(1, 2), heads=(head,))
    interval = result.score.interval()  # None where the head says nothing at all, which is as wrong in each block
    # Saying nothing is 1, the commonest phone everywhere 1 - 1/5: no better than the guesses that are open to anybody.
    assert 0.75 < result.score.value < 1.3
    assert interval is None or interval.low < result.score.value < interval.high
    assert result.others["nats_a_symbol"].value > math.log(NUM_PHONES)


def test_the_recurrent_head_knows_what_came_before_and_the_linear_one_does_not():
    """A phone is told three frames before it is due, by a frame that is the same for all where the others are."""
    rng = numpy_generator(5, "test order")
    clips, labels = [], []
    for _ in range(80):
        first = int(rng.integers(0, 2))
        frames = rng.normal(0, 0.1, (1, 9, 3))
        frames[0, 1, first] += 3  # which of the two
        frames[0, 6, 2] += 3  # now: the other one, in the same frame's dress for both
        clips.append(frames)
        labels.append((f"P{first}", f"Q{first}"))
    frames, items = InMemory(clips), items_of(labels, [f"s{i % 5}" for i in range(80)])
    linear, recurrent = run(
        frames, items, [fold_of(range(60), range(60, 80))], task=task_of(epochs=40), seeds=(1,),
        heads=("linear", "recurrent"),
    )  # fmt: skip
    assert recurrent.score.value == 0
    assert linear.score.value > 0.2


def test_errors_are_counted_speaker_by_speaker(monkeypatch):
    """ann says a b b and a b, heard as a b a (1 wrong) and a b; bob says b, heard as b a (1 too many)."""
    paths = {0: "aabb", 1: "a.b.a", 2: "aab", 3: "bb.a"}  # what the frames say
    said = [("a", "b"), ("a", "b", "b"), ("a", "b"), ("b",)]
    eye = np.eye(3)
    clips = [[eye[[".ab".index(letter) for letter in paths[i]]] * 50] for i in range(4)]
    monkeypatch.setattr(
        "audio_ssl.probe.recognise.fit", lambda kind, train, *, training, seed: identity_head()
    )  # symbols in order: a is 1, b is 2
    monkeypatch.setattr("audio_ssl.probe.recognise.standard_of", lambda frames, rows: (Plain(), (4,)))
    items = items_of(said, ["zoe", "ann", "ann", "bob"])
    (result,) = run(InMemory(clips), items, [fold_of([0], [1, 2, 3])], task=task_of(), seeds=(4,), heads=("linear",))
    assert result.score.of_block == pytest.approx({"ann": 1 / 5, "bob": 1 / 1})
    assert result.score.value == pytest.approx(2 / 6)


class Plain:
    def apply(self, frames):
        return frames.transpose(0, 1).bfloat16()


def identity_head():
    head = LinearHead((1, 3), 3)
    with torch.no_grad():
        head.linear.weight.copy_(torch.eye(3))
        head.linear.bias.zero_()
    return head


def test_nothing_of_the_test_items_is_used_before_the_score():
    frames, items = spoken(60, leak=True)
    fold = fold_of(range(40), range(50, 60), valid=range(40, 50))
    (before,) = run(frames, items, [fold], task=task_of(epochs=10), seeds=(1,), heads=("linear",))
    others = items_of((*items.labels[:40], *[("Z", "Y")] * 20), items.speakers)
    changed = InMemory([frames.of(i) if i < 40 else 9 * frames.of(i) for i in range(60)])
    (after,) = run(changed, others, [fold], task=task_of(epochs=10), seeds=(1,), heads=("linear",))
    assert after.layer_weights == before.layer_weights
    assert after.score.value >= 1
    assert before.score.value < 1


def test_symbols_that_training_lacks_are_errors_and_no_part_of_the_loss():
    frames, items = spoken(60, leak=True)
    items = items_of((*items.labels[:59], ("P1", "X", "a b")), items.speakers)
    (result,) = run(
        frames, items, [fold_of(range(50), range(50, 60))], task=task_of(), seeds=(1,), heads=("linear",)
    )  # fmt: skip
    assert result.score.value >= 2 / sum(len(items.labels[i]) for i in range(50, 60))
    assert math.isfinite(result.others["nats_a_symbol"].value)
    (note,) = result.notes
    assert note.startswith("split: 1 of 10 test utterances hold symbols that training lacks ('X', 'a b')")


def test_utterances_with_more_symbols_than_frames_are_told():
    frames, items = spoken(60, leak=True)
    long = tuple(f"P{i % NUM_PHONES}" for i in range(40))
    items = items_of((long, *items.labels[1:59], long), items.speakers)
    (result,) = run(
        frames, items, [fold_of(range(50), range(50, 60))], task=task_of(epochs=2), seeds=(1,), heads=("linear",)
    )  # fmt: skip
    assert result.notes == (
        "split: 1 of 50 training utterances have more symbols than frames: not learned from",
        "split: 1 of 10 test utterances have more symbols than frames: no part of nats",
    )
    assert all(map(math.isfinite, result.layer_weights))
    assert math.isfinite(result.others["nats_a_symbol"].value)


@pytest.mark.parametrize(
    ("said", "num_frames", "steps", "is_short"),
    [((1, 2, 3), 3, 1, False), ((1, 2, 3), 2, 1, True), ((1, 1), 2, 1, True), ((1, 1), 3, 1, False),
     ((1, 1), 2, 2, False), ((), 1, 1, False)],
)  # fmt: skip
def test_a_symbol_takes_a_step_and_two_alike_a_blank_between(said, num_frames, steps, is_short):
    assert Spoken([], [num_frames], [said], 3, steps).is_short(0) is is_short
    log_probs = torch.zeros(1, num_frames * steps, 4).log_softmax(-1)
    nats = losses(log_probs, torch.tensor([num_frames * steps]), [said])
    assert bool(nats.isinf()) is is_short


@pytest.mark.parametrize(
    ("hop_s", "steps"), [(0.01, 1), (0.02, 1), (320 / 16000, 1), (0.0201, 2), (0.04, 2), (0.08, 4), (0.0625, 4)]
)
def test_a_head_says_something_every_20_ms_at_least(hop_s, steps):
    assert steps_a_frame(hop_s) == steps


def test_two_phones_of_one_long_frame_are_heard():
    rng = numpy_generator(7, "test long frames")
    clips, labels = [], []
    for _ in range(80):
        said = rng.permutation(NUM_PHONES)[:4].reshape(2, 2)
        frames = rng.normal(0, 0.1, (1, 2, 2 * NUM_PHONES))
        for place, (first, second) in enumerate(said):
            frames[0, place, first] += 2
            frames[0, place, NUM_PHONES + second] += 2
        clips.append(frames)
        labels.append(tuple(f"P{p}" for p in said.flatten()))
    items = items_of(labels, [f"s{i % 4}" for i in range(80)])
    (result,) = run(
        InMemory(clips, hop_s=0.04), items, [fold_of(range(64), range(64, 80))], task=task_of(epochs=30), seeds=(1,),
        heads=("linear",),
    )  # fmt: skip
    assert result.score.value < 0.05


@pytest.mark.parametrize("kind", ["linear", "recurrent"])
def test_an_utterance_is_heard_alike_alone_and_in_a_batch(kind):
    head = build(kind, (2, 5), 4, hidden=3, seed=1)
    clips = [torch.randn(length, 2, 5, generator=torch.Generator().manual_seed(length)).bfloat16() for length in (7, 3)]
    together, lengths = say(head, clips, steps=1)
    assert lengths.tolist() == [7, 3]
    for number, clip in enumerate(clips):
        alone, _ = say(head, [clip], steps=1)
        torch.testing.assert_close(together[number, : len(clip)], alone[0], atol=2e-3, rtol=0)


def test_the_recurrent_head_is_a_bidirectional_lstm():
    head = build("recurrent", (1, 5), 4, hidden=3, seed=1)
    both = torch.nn.LSTM(5, 3, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for name, own in head.onwards.named_parameters():
            both.get_parameter(name).copy_(own)
        for name, own in head.backwards.named_parameters():
            both.get_parameter(f"{name}_reverse").copy_(own)
    frames, num_frames = torch.randn(2, 7, 1, 5).bfloat16(), torch.tensor([7, 4])
    found = head(frames, num_frames)
    for row, length in enumerate((7, 4)):
        expected = head.linear(both(frames[row : row + 1, :length, 0].float())[0])
        torch.testing.assert_close(found[row, :length], expected[0])
    assert reversed_frames(num_frames, 7).tolist() == [[6, 5, 4, 3, 2, 1, 0], [3, 2, 1, 0, 4, 5, 6]]


def test_greedy_takes_repeats_and_blanks_out():
    best = torch.tensor([1, 1, 0, 1, 2, 2, 0])
    assert greedy(torch.nn.functional.one_hot(best, 3).float()) == (1, 1, 2)
    count = edits((1, 2, 2), (1, 1, 2))
    assert (count.hits, count.substitutions, count.errors) == (2, 1, 1)
    assert edits((), (1, 2)).insertions == 2
    assert edits((1,), ()).deletions == 1


def test_losses_are_those_of_each_utterance_by_itself():
    """Two steps, one symbol a: paths aa, -a, a- of p(a) = 0.6, p(-) = 0.3, p(b) = 0.1."""
    log_probs = torch.tensor([[[0.3, 0.6, 0.1]] * 2]).log()
    expected = -math.log(0.6 * 0.6 + 2 * 0.6 * 0.3)
    assert float(losses(log_probs, torch.tensor([2]), [(1,)])) == pytest.approx(expected, abs=1e-5)


def test_heads_know_the_loss_of_what_they_hear_in_any_order():
    head = identity_head()
    clips = [torch.eye(3)[[1, 2, 0, 1]][:, None].bfloat16() * 3, torch.eye(3)[[2]][:, None].bfloat16() * 3]
    test = Spoken(clips, [4, 1], [(1, 2, 1), (2,)], 2)
    long, short = hear(head, test, batch=1)
    assert (long.symbols, short.symbols) == ((1, 2, 1), (2,))
    assert short.nats == pytest.approx(math.log(1 + 2 * math.exp(-3)), abs=1e-2)
    together = hear(head, test, batch=2)
    assert [own.nats for own in together] == pytest.approx([long.nats, short.nats], abs=1e-5)


def test_frames_are_standardised_by_those_that_are_learned_from():
    own = Standard()
    own.add(torch.tensor([[[1.0, 5.0], [3.0, 5.0]]]))
    own.add(torch.tensor([[[5.0, 5.0], [7.0, 5.0]]]))  # mean 4, variance 5; the other channel never moves
    found = own.apply(torch.tensor([[[4.0, 5.0], [9.0, 6.0]]]))  # (L, T, D) -> (T, L, D)
    assert found.shape == (2, 1, 2)
    assert found[:, 0, 0].tolist() == pytest.approx([0, math.sqrt(5)], abs=1e-2)
    assert found[:, 0, 1].tolist() == [0, 1]


def test_what_does_not_fit_is_read_anew_and_is_the_same(monkeypatch):
    frames, _ = spoken(5, leak=True)
    rows = np.array([1, 3, 4])
    own, num_frames = standard_of(frames, rows)
    assert num_frames == tuple(frames.of(row).shape[1] for row in (1, 3, 4))
    held = Held(frames, rows, own)
    assert held[1] is held[1]
    monkeypatch.setattr(standard, "HELD_BYTES", held[0].nbytes)
    tight = Held(frames, rows, own)
    assert tight[0] is tight[0]
    assert tight[1] is not tight[1]
    assert torch.equal(tight[1], held[1])


def test_batches_hold_every_utterance_once_and_neighbours_in_length():
    lengths = [(7 * i) % 100 + 1 for i in range(50)]
    found = list(batches(lengths, 8, seed=1, epoch=2))
    assert sorted(i for own in found for i in own) == list(range(50))
    assert [len(own) for own in found].count(8) == 6
    assert found == list(batches(lengths, 8, seed=1, epoch=2))
    assert found != list(batches(lengths, 8, seed=1, epoch=3))
    spread = np.mean([np.ptp([lengths[i] for i in own]) for own in found])
    assert spread < 30  # of 99


@pytest.mark.parametrize("kind", ["linear", "recurrent"])
def test_heads_start_from_blanks_in_each_step_of_a_frame(kind):
    train = Spoken([torch.zeros(6, 2, 8).bfloat16()] * 4, [6] * 4, [(1, 2)] * 4, 3, steps=2)
    head = fit(kind, train, training=ProbeTraining(epochs=1, lr=1e-9, hidden=4), seed=1)
    probs = say(head, [torch.zeros(6, 2, 8).bfloat16()], steps=2)[0].exp()
    spread = 0.0 if kind == "linear" else 0.06  # what the LSTM's own biases say of silence
    torch.testing.assert_close(
        probs, torch.tensor([0.85, 0.05, 0.05, 0.05]).expand(1, 12, 4), atol=spread + 1e-4, rtol=0
    )


@pytest.mark.parametrize("kind", ["linear", "recurrent"])
def test_an_enormous_gradient_counts_as_one_of_norm_1(kind):
    """Adam would forget all that came before such a batch, and take steps of almost 0 long after it."""
    learned = []
    for size in (1, 2**14):  # powers of 2 leave roundings alike
        head = build(kind, (2, 8), 3, hidden=4, seed=1)
        frames = torch.ones(1, 4, 2, 8).bfloat16()

        def loss_of(chosen, head=head, frames=frames, size=size):
            outputs = head(frames, torch.tensor([4]))
            return size * outputs[..., 0].sum() if chosen == [2] else outputs.square().mean()

        learn(head, loss_of, [3, 3, 3, 3], training=ProbeTraining(epochs=3, batch=1, lr=0.05), seed=1)
        learned.append(head.state_dict())
    for name, tensor in learned[0].items():
        torch.testing.assert_close(tensor, learned[1][name], msg=name)


def test_weights_are_drawn_by_name_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    head = build("linear", (2, 5), 4, hidden=3, seed=7)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(derive_seed(7, HEAD_DRAW))
    assert torch.equal(head.linear.weight, torch.nn.Linear(5, 4).weight)


def test_labels_must_be_symbols_and_folds_must_have_both_parts():
    frames, items = spoken(4, leak=True)
    with pytest.raises(
        ConfigError, match=r"split must have utterances to learn from and to measure on, it has 0 and 4"
    ):
        run(frames, items, [fold_of([], range(4))], task=task_of(), seeds=(1,), heads=("linear",))
    named = items_of(["a", "b", "c", "d"], items.speakers)
    with pytest.raises(ConfigError, match=r"must be symbols in order, .*u0.* has the single label 'a'"):
        run(frames, named, [fold_of([0, 1], [2, 3])], task=task_of(), seeds=(1,), heads=("linear",))
    silent = items_of([()] * 4, items.speakers)
    with pytest.raises(ConfigError, match="must have symbols"):
        run(frames, silent, [fold_of([0, 1], [2, 3])], task=task_of(), seeds=(1,), heads=("linear",))
    long = items_of([("a",) * 60] * 4, items.speakers)
    with pytest.raises(ConfigError, match="as many frames as symbols, none of 2 has"):
        run(frames, long, [fold_of([0, 1], [2, 3])], task=task_of(), seeds=(1,), heads=("linear",))
