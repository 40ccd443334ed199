"""The average of the weights: its arithmetic, what it leaves alone, and a resumed run."""

from dataclasses import replace

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from audio_ssl.train.averaging import WeightAverage, averaged_weights
from audio_ssl.train.loop import train
from audio_ssl.train.state import Progress
from audio_ssl.train.stepper import Stepper
from tests.unit.train.toy import Collect, Line, Source, make_task, surroundings

GOOD, SKIPPED = torch.zeros(()), torch.ones(())


def set_weights(module: Line, value: float) -> None:
    with torch.no_grad():
        module.linear.weight.fill_(value)


def averages(average: WeightAverage, module: Line) -> torch.Tensor:
    with average.in_place():
        return module.linear.weight.detach().clone()


def test_the_decay_rises_to_what_was_asked_for():
    module = Line()
    set_weights(module, 10.0)
    average = WeightAverage(module, 0.2)
    expected = 10.0
    for value, decay in ((4.0, 2 / 11), (7.0, 0.2), (-1.0, 0.2)):  # 3 / 12 would be above 0.2
        set_weights(module, value)
        average.update(GOOD)
        expected = decay * expected + (1 - decay) * value
        torch.testing.assert_close(averages(average, module), torch.full((1, 5), expected))


def test_at_its_full_decay_it_is_torchs_own():
    module = Line()
    ours, theirs = WeightAverage(module, 0.1), AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.1))
    theirs.update_parameters(module)  # torch's first average is the first weights it is given
    for value in (3.0, 1.0, -2.0):
        set_weights(module, value)
        ours.update(GOOD)
        theirs.update_parameters(module)
    torch.testing.assert_close(averages(ours, module), theirs.module.linear.weight)


def test_a_skipped_update_is_not_averaged_and_does_not_count():
    module, other = Line(), Line()
    average, straight = WeightAverage(module, 0.9), WeightAverage(other, 0.9)
    set_weights(module, 5.0)
    set_weights(other, 5.0)
    average.update(GOOD)
    before = averages(average, module)
    average.update(SKIPPED)
    assert torch.equal(averages(average, module), before)
    average.update(GOOD)
    straight.update(GOOD)
    straight.update(GOOD)
    assert torch.equal(averages(average, module), averages(straight, other))


def test_the_weights_come_back_to_the_last_bit_even_after_an_error():
    torch.manual_seed(1)
    module = Line()
    average = WeightAverage(module, 0.9)
    with torch.no_grad():
        module.linear.weight.copy_(torch.randn(1, 5))
    own, place = module.linear.weight.detach().clone(), module.linear.weight.data_ptr()
    average.update(GOOD)

    def fail() -> None:
        with average.in_place():
            assert not torch.equal(module.linear.weight, own)
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert torch.equal(module.linear.weight, own)
    assert module.linear.weight.data_ptr() == place  # who holds it, as data parallelism does, still holds it


def run(folder, module, average, **settings):
    seen = []

    def validate(update: int) -> dict[str, float]:
        seen.append(module.linear.weight.detach().clone())
        return {"loss": 1.0}

    task = make_task(module, Source([(0, 6)]), validate=validate)
    around = replace(surroundings(folder, [Collect()], validate_every=3, **settings), stepper=Stepper(average=average))
    train(task, Progress(), around)
    return seen


def test_validation_measures_the_average_and_training_does_not_notice(tmp_path):
    plain, module = Line(noise=0.2), Line(noise=0.2)
    run(tmp_path / "a", plain, None, num_updates=6)
    average = WeightAverage(module, 0.5)
    seen = run(tmp_path / "b", module, average, num_updates=6)
    assert torch.equal(plain.linear.weight, module.linear.weight)
    assert len(seen) == 2
    assert torch.equal(seen[-1], averages(average, module))
    assert not torch.equal(seen[-1], module.linear.weight)


def test_a_finished_model_has_the_average_in_place_of_its_weights():
    module = Line()
    average = WeightAverage(module, 0.0)
    set_weights(module, 3.0)
    average.update(GOOD)
    weights = {**Line().state_dict(), "buffer": torch.ones(2)}
    model = averaged_weights(weights, average.tensors())
    assert model.keys() == weights.keys()
    assert torch.equal(model["linear.weight"], torch.full((1, 5), 3.0))
    assert torch.equal(model["buffer"], torch.ones(2))
