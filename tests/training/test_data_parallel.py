"""A whole training through its launcher: any number of ranks, both engines, killed and gone on with."""

import re
import shutil
import subprocess
import sys
import time

import pytest
import torch

from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.files import read_json
from hpctrain.launch.base import Job
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.run import RunDirectory
from hpctrain.track import read_metrics
from hpctrain.training.checkpoint import Checkpoints
from hpctrain.training.restore import load_task

WINDOWS = ("data.window=64", "data.block=8", "data.lanes=4")
"""An order of several windows for 203 events, as large datasets have."""


def start(run: RunDirectory) -> Job:
    return run.experiment.launch.build().start(
        ["worker", "train", str(run.path)], run.logs / "train.log", parallel=True
    )


def train(run: RunDirectory) -> dict:
    """All ranks to the end; the last checkpoint."""
    job = start(run)
    while (code := job.poll()) is None:
        time.sleep(0.05)
    assert code == 0, (run.logs / "train.log").read_text()
    return Checkpoints(run.checkpoints).latest()


def weights(state: dict) -> torch.Tensor:
    return torch.cat([value.reshape(-1) for value in state["model"].values()])


def test_one_rank_learns_and_records(toy_run):
    run = toy_run("one", "training.epochs=6", "training.optimizer.learning_rate=5e-3", events=400)
    tracker = run.tracker("train")
    summary = run.experiment.training.build().run(run, tracker, SingleCommunicator())
    assert summary["validation_auc"] > 0.9
    lines = read_metrics(run.metrics_path)
    epochs = [line for line in lines if line["event"] == "epoch"]
    assert [line["epoch"] for line in epochs] == list(range(6))
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    assert sum(line["event"] == "step" for line in lines) == summary["steps"] == 6 * 13
    assert max(e["validation_auc"] for e in epochs) == summary["validation_auc"]
    assert epochs[summary["best_epoch"]]["validation_auc"] == summary["validation_auc"]


@pytest.mark.parametrize(("ranks", "engine"), [(2, "mpi"), (3, "mpi"), (2, "gloo")])
def test_any_ranks_and_engine_are_one_rank(toy_run, ranks, engine):
    """203 events in batches of 32: the last batch is uneven, and smaller than ranks of three would like."""
    settings = ("task.loss_weights=log", *(WINDOWS if ranks == 3 else ()))
    one = train(toy_run("one", *settings))
    many = train(toy_run("many", *settings, f"launch.ranks={ranks}", f"launch.engine={engine}"))
    assert one["step"] == many["step"] == 14
    # float32: sums over 32 samples in another order, 14 Adam steps
    assert torch.allclose(weights(one), weights(many), rtol=1e-3, atol=2e-5)
    for a, b in zip(one["position"]["history"], many["position"]["history"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)
        assert a["validation_auc"] == pytest.approx(b["validation_auc"], abs=1e-3)


def test_two_ranks_twice_are_the_same_bits(toy_run):
    first, second = (train(toy_run(name, "launch.ranks=2")) for name in ("a", "b"))
    assert torch.equal(weights(first), weights(second))
    assert first["position"] == second["position"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_job_and_the_run_goes_on_bit_for_bit(toy_run, rank):
    settings = (
        "launch.ranks=2", "training.checkpoint_steps=2", "training.epochs=30", "training.keep=3", *WINDOWS
    )  # fmt: skip
    whole = train(toy_run("whole", *settings))
    run = toy_run("killed", *settings)
    job = start(run)
    while len(list(run.checkpoints.glob("*.pt"))) < 3:
        assert job.poll() is None, (run.logs / "train.log").read_text()
        time.sleep(0.01)
    text = (run.logs / "train.log").read_text()
    pid = next(line.split()[-1] for line in text.splitlines() if line.startswith(f"rank {rank} is process"))
    subprocess.run(["kill", "-9", pid], check=True)
    started = time.monotonic()
    while (code := job.poll()) is None:
        assert time.monotonic() - started < 30, "the other rank did not notice"
        time.sleep(0.05)
    assert code != 0
    assert f"rank {rank} was killed by signal 9" in job.obituary()
    seen = Checkpoints(run.checkpoints).latest()["step"]
    assert 0 < seen < whole["step"]
    continued = train(run)
    assert torch.equal(weights(whole), weights(continued))
    assert whole["position"] == continued["position"]
    assert [line["event"] for line in read_metrics(run.metrics_path)].count("resume") == 1


def test_going_on_at_another_size_is_the_same_training(toy_run):
    settings = ("training.checkpoint_steps=3", "training.epochs=3")
    whole = train(toy_run("whole", *settings))
    run = toy_run("moved", *settings, "training.epochs=3")
    run.checkpoints.mkdir()
    # a checkpoint in the middle of the second epoch, made by one rank …
    job = start(run)
    while not (run.checkpoints / "step-00000009.pt.sha256").exists():
        assert job.poll() is None
        time.sleep(0.002)
    job.stop()
    # … is gone on from by two
    run = toy_run("moved", *settings, "launch.ranks=2")
    continued = train(run)
    assert continued["step"] == whole["step"]
    assert torch.allclose(weights(whole), weights(continued), rtol=1e-3, atol=2e-5)


def test_checkpoints_of_another_training_are_refused(toy_run):
    train(toy_run("x"))
    run = toy_run("x", "training.optimizer.learning_rate=0.1")
    with pytest.raises(UserError, match="belong to another training"):
        run.experiment.training.build().run(run, run.tracker("train"), SingleCommunicator())


def test_patience_stops_and_the_best_is_restored(toy_run):
    run = toy_run(
        "short",
        "training.epochs=50",
        "training.patience=2",
        "training.optimizer.learning_rate=3e-2",
        events=120,
    )
    summary = run.experiment.training.build().run(run, run.tracker("train"), SingleCommunicator())
    assert summary["epochs"] < 50
    assert summary["epochs"] == summary["best_epoch"] + 3
    best = Checkpoints(run.checkpoints).best()
    assert best["position"]["epoch"] == summary["best_epoch"] + 1
    restored = load_task(run).model.state_dict()
    assert all(torch.equal(restored[name], best["model"][name]) for name in restored)


def test_batch_norm_is_that_of_the_global_batch(toy_run):
    """Batches of 32, the last of 11; running statistics are in the checkpoint under the names of the plain layer."""
    settings = ("task.model.normalisation=batch", "training.epochs=1")
    one = train(toy_run("one", *settings))
    two = train(toy_run("two", *settings, "launch.ranks=2"))
    assert list(one["model"]) == list(two["model"])
    # float32: sums in another order, 7 Adam steps
    assert torch.allclose(weights(one), weights(two), rtol=1e-3, atol=2e-5)
    run = toy_run("two", *settings)
    load_task(run, "last")


def test_micro_batches_of_batch_norm_are_refused(toy_run):
    run = toy_run("norm", "task.model.normalisation=batch", "training.micro_batch_size=4")
    with pytest.raises(UserError, match="whose statistics are those of a whole batch, not of micro-batches"):
        run.experiment.training.build().run(run, run.tracker("train"), SingleCommunicator())


def test_micro_batches_are_the_whole(toy_run):
    whole = train(toy_run("whole"))
    parts = train(toy_run("parts", "training.micro_batch_size=5", "launch.ranks=2"))
    assert torch.allclose(weights(whole), weights(parts), rtol=1e-3, atol=2e-5)


def test_a_checkpoint_of_another_network_is_named(toy_run):
    train(toy_run("x"))
    run = toy_run("x", "task.model.hidden=9")
    with pytest.raises(UserError, match="is of another network"):
        load_task(run)


def test_a_loss_that_explodes_is_one_clear_line(toy_run):
    run = toy_run(
        "wild",
        "training.optimizer.kind=sgd",
        "training.optimizer.learning_rate=1e30",
        "training.schedule.warmup_steps=0",
    )
    with pytest.raises(UserError, match=r"loss of phase 'classify' is (nan|inf) at step"):
        run.experiment.training.build().run(run, run.tracker("train"), SingleCommunicator())


@pytest.mark.parametrize("ranks", [1, 2])
def test_samples_of_a_batch_that_is_not_finite_are_written_down(toy_run, ranks, monkeypatch):
    """An energy that float32 cannot square: the shard is whole, the event is senseless."""
    run = toy_run("odd", "task.transform=linear", f"launch.ranks={ranks}", "training.micro_batch_size=4")
    shards = ShardDataset.open(run.data / "train")
    columns = shards.read_range(0, shards.events)
    columns["image"].values[columns["image"].offsets[77]] = 3e38
    shutil.rmtree(run.data / "train")
    with ShardWriter(
        run.data / "train", shards.fields, provenance={}, scale={"image_max": [1e-3] * 3}, events_per_shard=50
    ) as writer:
        writer.append(columns)
    job = start(run)
    while (code := job.poll()) is None:
        time.sleep(0.05)
    assert code == 2
    found = read_json(run.path / "nonfinite.json")
    step = found["global_step"]
    assert found["samples_whose_own_loss_is_not_finite"] == [
        {"row": 77, "shard": shards_of(run)[1], "event": 27}
    ]
    assert len(found["samples"]) == 32
    assert 77 in [sample["row"] for sample in found["samples"]]
    assert re.search(
        rf"the loss of phase 'classify' is (nan|inf) at step {step}; its 32 samples are in .*nonfinite.json, 1 of "
        rf"them are not finite alone, first event 27 of {shards_of(run)[1]}",
        (run.logs / "train.log").read_text(),
    )


def shards_of(run: RunDirectory) -> list[str]:
    return [shard.file for shard in ShardDataset.open(run.data / "train").info.shards]


FEATURES = (
    "training.average_decay=0.9",
    "training.schedule={kind: plateau, patience: 1, factor: 0.5, warmup_steps: 3}",
    "training.learning_rate_scaling=sqrt",
    "training.reference_batch_size=8",
    "training.clip_norm=1.0",
    "training.channels_last=true",
)


@pytest.mark.parametrize(
    "gradients", ["{kind: exact, bucket_mb: 0.001}", "{kind: power_sgd, rank: 1, exact_steps: 2}"]
)
def test_everything_that_training_keeps_is_in_its_checkpoints(toy_run, gradients):
    """Gone on with from the first of its checkpoints: the bits of the whole training."""
    precision = "training.precision=bf16" if "power" in gradients else "training.precision=fp16"
    settings = (precision, f"training.gradients={gradients}", "launch.ranks=2", "task.model.hidden=64")
    run = toy_run("kept", *FEATURES, *settings, "training.epochs=3", "training.keep=9")
    whole = train(run)
    for path in run.checkpoints.glob("step-*.pt"):
        if torch.load(path, weights_only=True)["position"]["epoch"] > 1:
            path.unlink()
    parts = train(run)
    assert sum(line["event"] == "resume" for line in read_metrics(run.metrics_path)) == 1
    for key in ("model", "average"):
        assert all(torch.equal(whole[key][name], parts[key][name]) for name in whole[key]), key
    assert whole["scaler"] == parts["scaler"]
    assert not torch.equal(whole["average"]["layers.output.weight"], whole["model"]["layers.output.weight"])
    restored = load_task(run, "last").model.state_dict()
    assert all(torch.equal(restored[name], whole["average"][name]) for name in restored)


@pytest.mark.slow
def test_a_compiled_network_trains_as_it_is(toy_run):
    plain = train(toy_run("plain", "training.epochs=1"))
    compiled = train(toy_run("compiled", "training.epochs=1", "training.compile=true"))
    assert list(plain["model"]) == list(compiled["model"])
    assert torch.allclose(weights(plain), weights(compiled), rtol=1e-3, atol=2e-5)


def test_settings_that_do_not_fit_each_other_are_refused(toy_run):
    with pytest.raises(UserError, match="learning_rate_scaling needs reference_batch_size"):
        toy_run("x", "training.learning_rate_scaling=linear")
    with pytest.raises(UserError, match="which power_sgd cannot follow"):
        toy_run("x", "training.precision=fp16", "training.gradients=power_sgd")


def test_full_disk_in_a_checkpoint_keeps_the_one_before(toy_run, small_disk):
    run = toy_run("full", "training.epochs=3", "training.keep=9", "task.model.hidden=128")
    run.checkpoints.symlink_to(small_disk, target_is_directory=True)
    (small_disk / "filler").write_bytes(b"x" * (1_048_576 - 260_000))
    with pytest.raises(UserError, match="disk full while writing"):
        run.experiment.training.build().run(run, run.tracker("train"), SingleCommunicator())
    whole = Checkpoints(run.checkpoints).latest()
    assert whole["position"]["epoch"] >= 1
    (small_disk / "filler").unlink()
    run.experiment.training.build().run(run, run.tracker("train"), SingleCommunicator())
    assert Checkpoints(run.checkpoints).latest()["position"]["epoch"] == 3


def test_a_kill_between_a_checkpoint_and_its_becoming_the_best_is_mended(toy_run):
    run = toy_run("x", "training.epochs=3", "training.optimizer.learning_rate=5e-3")
    train(run)
    newest = Checkpoints(run.checkpoints).latest()
    assert newest["position"]["best_epoch"] == 2, "the last epoch must be the best for this test"
    for content, digest in [
        (b"older", "0" * 64),
        (None, None),
    ]:  # best.pt of before; or only its checksum was written
        for name, text in [("best.pt", content), ("best.pt.sha256", digest)]:
            path = run.checkpoints / name
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_bytes(text if isinstance(text, bytes) else text.encode())
        run.experiment.training.build().run(run, run.tracker("train"), SingleCommunicator())
        assert Checkpoints(run.checkpoints).best()["step"] == newest["step"]


def test_no_whole_checkpoint_is_said_not_passed_over(toy_run):
    run = toy_run("x")
    train(run)
    for path in run.checkpoints.glob("step-*.pt"):
        path.write_bytes(b"torn")
    with pytest.raises(UserError, match="none of the 2 checkpoints"):
        run.experiment.training.build().run(run, run.tracker("train"), SingleCommunicator())


def test_what_is_kept_and_how_often_does_not_bind_a_resume(toy_run):
    train(toy_run("x"))
    run = toy_run("x", "training.keep=5", "training.checkpoint_steps=3")
    run.experiment.training.build().run(run, run.tracker("train"), SingleCommunicator())


@pytest.mark.parametrize("labels", ["one class", "none"])
def test_validation_without_both_classes_is_refused_before_training(toy_run, labels, write_toy):
    run = toy_run("x")
    shutil.rmtree(run.data / "validation")
    write_toy(run.data / "validation", 40 if labels == "one class" else 0, signal=False)
    with pytest.raises(UserError, match="validation does not hold events of both classes"):
        run.experiment.training.build().run(run, run.tracker("train"), SingleCommunicator())
    assert not run.checkpoints.exists()


def test_ranks_that_do_not_see_each_other_are_refused(toy_run, monkeypatch):
    """As under an mpiexec whose variables are not known: each rank would train alone and call itself rank 0."""
    run = toy_run("x")
    monkeypatch.setenv("HPCTRAIN_STARTED_RANKS", "2")
    monkeypatch.delenv("HPCTRAIN_PARENT", raising=False)
    result = subprocess.run(
        [sys.executable, "-m", "hpctrain", "worker", "train", run.path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "2 ranks were started, but each sees 1" in result.stderr
    assert not run.checkpoints.exists()
