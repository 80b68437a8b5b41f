"""The order of measuring, on machines that are formulas."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.topology import Core, Node, Topology
from hpctrain.tuning.measurement import Measurement
from hpctrain.tuning.search import Search, TimeIsUp, choice
from hpctrain.tuning.settings import Setting, layouts

NOW = Setting(1, 68)


class Machine:
    """Rates by formula; ``allowance`` measurements and no more."""

    def __init__(self, rate, allowance=1000):
        self.rate, self.allowance, self.asked = rate, allowance, []

    def __call__(self, setting):
        if len(self.asked) == self.allowance:
            raise TimeIsUp
        self.asked.append(setting)
        rate = self.rate(setting)
        if rate is None:
            return Measurement(setting, error="no compiler")
        return Measurement(setting, (rate * 0.99, rate, rate * 1.01))


def searched(topology, rate, allowance=1000, *, bf16=False):
    machine = Machine(rate, allowance)
    search = Search(machine)
    search.run(NOW, layouts(NOW, topology, most_ranks=1000), topology, bf16=bf16)
    return machine, list(search.found.values())


@given(st.sampled_from([1, 2, 4, 8, 16, 32, 64, 68]))
def test_the_hill_is_climbed(peak):
    topology = Topology(tuple(Core((i,), 0, 0) for i in range(68)), (Node(0, frozenset()),), 68)
    _, found = searched(topology, lambda s: 1000 * 0.8 ** abs(math.log2(s.ranks / peak)))
    assert choice(found, NOW, precision=False).ranks == peak


def test_the_present_setting_is_first_and_again_at_the_end(machine_named):
    machine, found = searched(machine_named("knl-quad-cache"), lambda s: s.ranks)
    assert machine.asked[0] == NOW
    assert machine.asked.count(NOW) == 3
    assert [len(one.rates) for one in found if one.setting == NOW] == [9]


def test_what_helps_is_put_together(machine_named):
    def rate(s):
        return s.ranks * (1 + 0.5 * s.channels_last + 0.3 * s.compile)

    _, found = searched(machine_named("knl-quad-cache"), rate)
    assert choice(found, NOW, precision=False) == Setting(68, 1, channels_last=True, compile=True)


def test_a_setting_that_fails_is_passed_over(machine_named):
    _, found = searched(machine_named("knl-quad-cache"), lambda s: None if s.compile else s.ranks)
    assert not choice(found, NOW, precision=False).compile
    assert [one.error for one in found if one.setting.compile] == ["no compiler"]


def test_all_may_fail(machine_named):
    _, found = searched(machine_named("knl-quad-cache"), lambda s: None)
    assert choice(found, NOW, precision=True) == NOW


@pytest.mark.parametrize("allowance", [0, 1, 3, 9])
def test_the_time_may_be_up_at_any_moment(machine_named, allowance):
    machine, found = searched(machine_named("knl-quad-cache"), lambda s: s.ranks, allowance)
    assert len(machine.asked) == allowance
    assert len(found) <= allowance


def test_another_precision_only_when_allowed(machine_named):
    def rate(s):
        return s.ranks * (3 if s.precision == "bf16" else 1)

    _, found = searched(machine_named("knl-quad-cache"), rate, bf16=True)
    assert choice(found, NOW, precision=False) == Setting(68, 1)
    assert choice(found, NOW, precision=True).precision == "bf16"


def test_what_is_faster_by_less_than_the_spread_is_not_faster():
    noisy = Measurement(replace(NOW, channels_last=True), (90.0, 103.0, 110.0))
    now = Measurement(NOW, (80.0, 100.0, 120.0))
    assert choice([now, noisy], NOW, precision=False) == NOW
    clear = Measurement(replace(NOW, compile=True), (125.0, 130.0, 135.0))
    assert choice([now, noisy, clear], NOW, precision=False) == clear.setting
