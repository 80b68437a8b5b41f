import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.errors import UserError
from hpctrain.ingest.chunks import Chunk, plan, stable_hash
from hpctrain.ingest.simulate import WholeDetectorSettings as Settings
from hpctrain.physics.generator import MAX_SEED
from hpctrain.physics.processes import find_process

SETTINGS = Settings(seed=3, image_bins=64, trimmed=True)


@given(events=st.integers(1, 5000), size=st.integers(1, 900))
def test_chunks_hold_all_events_in_nearly_equal_parts(events: int, size: int) -> None:
    chunks = plan([(find_process("jz5"), events), (find_process("jz6"), 10)], size, SETTINGS)
    mine = [c.events for c in chunks if c.process.name == "jz5"]
    assert sum(mine) == events
    assert max(mine) <= size
    assert max(mine) - min(mine) <= 1
    assert len(mine) == -(-events // size)
    assert [c.index for c in chunks] == list(range(len(chunks)))
    assert len({c.name for c in chunks}) == len(chunks)


def test_seeds_differ_within_a_process_and_follow_from_seed_process_and_number() -> None:
    chunks = plan([(find_process("jz5"), 1000), (find_process("jz6"), 1000)], 1, SETTINGS)
    seeds = [c.pythia_seed for c in chunks[:1000]]
    assert len(set(seeds)) == 1000
    assert all(1 <= seed <= MAX_SEED for seed in seeds)
    assert seeds != [c.pythia_seed for c in chunks[1000:]]
    # The position in the configuration, the size and the other processes do not matter.
    alone = plan([(find_process("jz6"), 2000)], 2, SETTINGS)
    assert alone[7].pythia_seed == chunks[1007].pythia_seed
    assert alone[7].random().random() == chunks[1007].random().random()
    assert chunks[0].random().random() != chunks[1].random().random()


def test_seeds_wrap_inside_what_pythia_takes() -> None:
    chunk = plan([(find_process("jz5"), 1)], 1, SETTINGS)[0]
    beyond = dataclasses.replace(chunk, number=MAX_SEED - 1)
    assert 1 <= beyond.pythia_seed <= MAX_SEED


def test_hash_is_the_same_in_another_process() -> None:
    code = "from hpctrain.ingest.chunks import stable_hash; print(stable_hash('jz5'))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == stable_hash("jz5")


def test_fingerprint_changes_with_everything_that_changes_events() -> None:
    def first(settings: Settings = SETTINGS, events: int = 10, name: str = "jz5", **masses: float) -> Chunk:
        return plan([(find_process(name, **masses), events)], 100, settings)[0]

    same = {first().fingerprint(), first().fingerprint()}
    assert len(same) == 1
    others = {
        first(Settings(4, 64, True)).fingerprint(),
        first(Settings(3, 32, True)).fingerprint(),
        first(Settings(3, 64, False)).fingerprint(),
        first(events=11).fingerprint(),
        first(name="jz6").fingerprint(),
        first(name="rpv_gluino").fingerprint(),
        first(name="rpv_gluino", m_gluino=1500.0).fingerprint(),
        dataclasses.replace(first(), number=1).fingerprint(),
    }
    assert len(others) == 8
    assert not same & others


def test_a_process_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="jz5 stands twice"):
        plan([(find_process("jz5"), 5), (find_process("jz5"), 6)], 5, SETTINGS)
    masses = [find_process("rpv_gluino", m_gluino=m) for m in (1400, 1500)]
    assert len(plan([(p, 5) for p in masses], 5, SETTINGS)) == 2
