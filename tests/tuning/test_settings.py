from hpctrain.config import Experiment
from hpctrain.tuning.settings import Setting, layouts, variants


def test_of_a_configuration_with_the_threads_it_would_have(machine_named):
    experiment = Experiment.from_mapping(
        {"name": "a", "launch": {"ranks": 4, "spare_cores": 4}, "training": {"channels_last": True}}
    )
    found = Setting.of(experiment, machine_named("knl-quad-cache"))
    assert found == Setting(4, 16, channels_last=True)
    assert str(found) == "4 × 16 threads, float32, channels_last"


def test_keys_that_the_configuration_knows():
    setting = Setting(2, 8, hyperthreads=True, precision="bf16", channels_last=True, compile=True)
    overrides = [f"{key}={str(value).lower()}" for key, value in setting.keys().items()]
    experiment = Experiment.from_mapping({"name": "a"}, overrides)
    launch, training = experiment.launch.model_dump(), experiment.training.model_dump()
    assert (launch["ranks"], launch["threads"], launch["hyperthreads"]) == (2, 8, True)
    assert (training["precision"], training["channels_last"], training["compile"]) == ("bf16", True, True)


def test_layouts_fill_the_machine(machine_named):
    found = layouts(Setting(1, 1), machine_named("knl-quad-cache"), most_ranks=1000, spare_cores=2)
    assert [(s.ranks, s.threads) for s in found] == [
        (1, 66), (2, 33), (4, 16), (8, 8), (16, 4), (32, 2), (64, 1), (66, 1),
    ]  # fmt: skip
    eight = layouts(Setting(1, 1), machine_named("perlmutter-cpu"), most_ranks=1000)
    assert (8, 16) in [(s.ranks, s.threads) for s in eight]


def test_no_more_ranks_than_samples(machine_named):
    found = layouts(Setting(1, 1), machine_named("perlmutter-cpu"), most_ranks=20)
    assert max(s.ranks for s in found) == 16


def test_variants_change_one_thing(machine_named):
    base = Setting(2, 34)
    found = list(variants(base, machine_named("knl-quad-cache"), bf16=True))
    assert found == [
        Setting(2, 34, channels_last=True),
        Setting(2, 34, compile=True),
        Setting(2, 33),
        Setting(2, 136, hyperthreads=True),
        Setting(2, 34, precision="bf16"),
    ]
    assert all(s.precision == "float32" for s in variants(base, machine_named("knl-quad-cache"), bf16=False))
    back = list(variants(Setting(2, 136, hyperthreads=True), machine_named("knl-quad-cache"), bf16=False))
    assert Setting(2, 34) in back
