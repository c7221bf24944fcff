"""The learning rate at hand-computed iterations, and who is in which parameter group."""

import copy

import pytest
import torch
from torch import nn

from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.config.settings import Config, ScheduleConfig
from mlc_ext.detectors.engine.optim import LearningRate, build_optimizer, check_schedule


def schedule(**options) -> Config:
    return Config(schedule=ScheduleConfig(**options))


class Net(nn.Module):
    """One of everything that a detector has."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.gn = nn.GroupNorm(2, 4)
        self.frozen = nn.Conv2d(4, 4, 1)
        self.frozen.requires_grad_(False)
        self.scales = nn.Parameter(torch.ones(5))
        self.head = nn.Sequential(nn.Conv2d(4, 2, 1, bias=False))


@pytest.mark.parametrize(
    ("warmup", "iteration", "factor"),
    [
        ("constant", 0, 1 / 3),
        ("constant", 499, 1 / 3),
        ("constant", 500, 1.0),
        ("linear", 0, 1 / 3),
        ("linear", 250, 2 / 3),
        ("linear", 499, 1 / 3 + 2 / 3 * 499 / 500),
        ("linear", 500, 1.0),
    ],
)
def test_warmup(warmup, iteration, factor):
    rate = LearningRate(schedule(warmup=warmup, warmup_iterations=500, warmup_factor=1 / 3), 1000)
    assert rate.factor(iteration) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(
    ("epochs", "per_epoch", "drops"),
    [
        (24, 100, (1800, 2200)),
        (19, 7, (16 * 7, 18 * 7)),
        (12, 10, (80, 110)),
        (13, 10, (110, 124)),  # 13 * 16 / 19 = 10.947.. epochs, 12.315..: the first iteration past them
        (38, 1, (29, 35)),  # 38 * 18 / 24 and 38 * 22 / 24: from 24 epochs on the longer schedule's fractions
    ],
)
def test_a_tenth_at_each_milestone(epochs, per_epoch, drops):
    rate = LearningRate(schedule(epochs=epochs, warmup_iterations=0), per_epoch)
    factors = [rate.factor(i) for i in range(epochs * per_epoch)]
    first, second = drops
    expected = [1.0] * first + [0.1] * (second - first) + [0.01] * (epochs * per_epoch - second)
    assert factors == pytest.approx(expected, rel=1e-12)


def test_given_milestones_and_none_at_all():
    rate = LearningRate(schedule(epochs=10, warmup_iterations=0, milestones=(2.5, 3.0)), 4)
    assert [rate.factor(i) for i in (9, 10, 11, 12)] == pytest.approx([1.0, 0.1, 0.1, 0.01])
    rate = LearningRate(schedule(epochs=10, warmup_iterations=0, milestones=()), 4)
    assert {rate.factor(i) for i in range(40)} == {1.0}


@pytest.mark.parametrize(("warmup", "end"), [(0, 0.0), (7, 0.0), (7, 0.05)])
def test_cosine_is_torchs_after_the_warmup(warmup, end):
    config = schedule(kind="cosine", lr=0.2, epochs=5, end_factor=end, warmup="linear", warmup_iterations=warmup,
                      warmup_factor=0.1)  # fmt: skip
    rate = LearningRate(config, 8)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40 - warmup, eta_min=0.2 * end)
    expected = [0.2 * (0.1 + 0.9 * iteration / 7) for iteration in range(warmup)]
    for _ in range(40 - warmup):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    assert [0.2 * rate.factor(iteration) for iteration in range(40)] == pytest.approx(expected, rel=1e-9)
    assert rate.factor(40) == pytest.approx(end, abs=1e-12)


def test_cosine_at_a_quarter_half_and_all_of_the_training():
    rate = LearningRate(schedule(kind="cosine", epochs=8, warmup_iterations=0, end_factor=0.2), 10)
    found = [rate.factor(iteration) for iteration in (0, 20, 40, 80)]
    assert found == pytest.approx([1.0, 0.2 + 0.8 * (1 + 2**-0.5) / 2, 0.6, 0.2])


def test_cosine_with_a_warmup_longer_than_the_training():
    rate = LearningRate(schedule(kind="cosine", epochs=1, warmup="linear", warmup_iterations=500), 10)
    assert all(rate.factor(iteration) < 0.36 for iteration in range(10))


def test_cosine_has_no_milestones():
    assert schedule(kind="cosine").milestones() == ()
    with pytest.raises(ValueError, match=r"schedule.kind=cosine has no schedule.milestones, got \(8.0,\)"):
        check_schedule(schedule(kind="cosine", milestones=(8.0,)))


def test_warmup_over_a_milestone_multiplies():
    rate = LearningRate(schedule(warmup="linear", warmup_iterations=10, warmup_factor=0.5, milestones=(1,)), 4)
    assert rate.factor(5) == pytest.approx(0.1 * 0.75)


def test_groups_of_sgd():
    net = Net()
    optimizer = build_optimizer(net, schedule(optimizer="sgd", lr=0.01, weight_decay=1e-4, momentum=0.9))
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found = {name: group_of.get(id(p)) for name, p in net.named_parameters()}
    assert all(found[name] is None for name in found if name.startswith("frozen"))
    for name, group in found.items():
        if group is None:
            continue
        is_conv_bias = name == "conv.bias"
        assert group["lr"] == pytest.approx(0.02 if is_conv_bias else 0.01), name
        assert group["weight_decay"] == (0 if is_conv_bias else 1e-4), name
        assert group["momentum"] == 0.9
    assert isinstance(optimizer, torch.optim.SGD) and len(group_of) == 8


def test_adamw_decays_weights_only():
    net = Net()
    optimizer = build_optimizer(
        net, schedule(optimizer="adamw", lr=1e-3, weight_decay=0.05, bias_lr_factor=1.0, bias_weight_decay=0.0)
    )
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
    assert decayed == {id(net.conv.weight), id(net.head[0].weight)}
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}
    assert isinstance(optimizer, torch.optim.AdamW)


def test_a_network_without_biases_has_no_empty_group():
    optimizer = build_optimizer(nn.Conv2d(3, 3, 1, bias=False), schedule())
    assert len(optimizer.param_groups) == 1


def test_apply_keeps_the_groups_ratio_and_returns_the_first_rate():
    config = schedule(lr=0.01, warmup_iterations=10, epochs=24)
    optimizer = build_optimizer(Net(), config)
    rate = LearningRate(config, 10)
    for iteration, expected in ((0, 0.01 / 3), (10, 0.01), (200, 0.001), (225, 0.0001), (0, 0.01 / 3)):
        assert rate.apply(optimizer, iteration) == pytest.approx(expected)
        assert optimizer.param_groups[-1]["lr"] == pytest.approx(2 * expected)


@pytest.mark.parametrize("kind", ["step", "cosine"])
def test_resuming_gives_the_same_rate_wherever_it_happens(kind):
    config = schedule(lr=0.01, warmup_iterations=10, epochs=24, kind=kind)
    net = Net()
    optimizer, rate = build_optimizer(net, config), LearningRate(config, 10)
    for stop in (0, 5, 10, 199, 230):
        rate.apply(optimizer, stop)
        state = copy.deepcopy(optimizer.state_dict())
        resumed = build_optimizer(net, config)
        resumed.load_state_dict(state)
        for later in (stop + 1, 235):
            fresh = build_optimizer(net, config)
            assert LearningRate(config, 10).apply(resumed, later) == rate.apply(fresh, later)
            assert [g["lr"] for g in resumed.param_groups] == [g["lr"] for g in fresh.param_groups]


def test_unknown_options():
    with pytest.raises(ValueError, match="schedule.optimizer must be one of 'sgd', 'adamw', got 'adam'"):
        build_optimizer(Net(), override(Config(), "schedule.optimizer", "adam"))
    with pytest.raises(ValueError, match="schedule.warmup must be one of 'constant', 'linear', got 'cosine'"):
        LearningRate(override(Config(), "schedule.warmup", "cosine"), 10)
