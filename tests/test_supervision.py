"""What hpctrain says and does about ranks that end: jobs that are made up, run directories that are real."""

import json

import pytest

from hpctrain.errors import InternalError, LostRank, Stopped, UserError
from hpctrain.pipeline import perform
from hpctrain.run import RunDirectory
from hpctrain.steps import STEPS, fingerprint
from hpctrain.stopping import Warned
from hpctrain.supervision import clear, supervise

TRAIN, EVALUATE = STEPS["train"], STEPS["evaluate"]


class Job:
    """Runs for some polls, then ends with a code."""

    def __init__(self, code, *, polls=0, killed_by=None, at_poll=lambda number: None):
        self.code, self.polls, self.signal, self.at_poll = code, polls, killed_by, at_poll
        self.number = 0
        self.stopped = False

    def poll(self):
        self.number += 1
        self.at_poll(self.number)
        return self.code if self.number > self.polls else None

    def stop(self):
        self.stopped = True

    def killed_by(self):
        return self.signal

    def obituary(self):
        return "rank 1 ended: some words"


def watch(run, job, step=TRAIN, warned=None):
    supervise(run, step, job, run.logs / f"{step.name}.log", warned or Warned(), lambda record: None)


def test_success_says_nothing(toy_run):
    watch(toy_run(), Job(0, polls=2))


def test_a_rank_that_died_is_lost_and_named(toy_run):
    with pytest.raises(LostRank, match="train: rank 1 ended: some words; nothing finished is lost"):
        watch(toy_run(), Job(-9, killed_by=9))


@pytest.mark.parametrize(("user", "kind"), [(True, UserError), (False, InternalError)])
def test_an_error_of_a_rank_is_not_a_lost_rank(toy_run, user, kind):
    run = toy_run()
    note = {"rank": 1, "user": user, "message": "a bad loss", "hint": ""}
    (run.logs / "train.rank-1.error.json").write_text(json.dumps(note))
    with pytest.raises(kind, match="a bad loss") as caught:
        watch(run, Job(1))
    assert not isinstance(caught.value, LostRank)


def test_what_died_because_another_was_killed_does_not_count(toy_run):
    run = toy_run()
    note = {"rank": 0, "user": False, "message": "Connection closed by peer", "hint": ""}
    (run.logs / "train.rank-0.error.json").write_text(json.dumps(note))
    with pytest.raises(LostRank, match="rank 1 ended"):
        watch(run, Job(-9, killed_by=9))


def test_the_mark_of_a_stop_is_told(toy_run):
    run = toy_run()
    run.stopped_path("train").write_text(json.dumps({"reason": "SIGUSR2 to rank 3", "step": 17}))
    with pytest.raises(
        Stopped, match=r"train stopped after 17 steps \(SIGUSR2 to rank 3\); the same command"
    ):
        watch(run, Job(75))


@pytest.mark.parametrize(("code", "killed_by"), [(75, None), (-15, 15), (143, 12)])
def test_a_rank_that_ended_at_once_when_asked_is_no_failure(toy_run, code, killed_by):
    with pytest.raises(Stopped, match="stopped at once"):
        watch(toy_run(), Job(code, killed_by=killed_by))


def test_a_signal_to_hpctrain_is_passed_on_to_training_once(toy_run):
    run, warned = toy_run(), Warned()

    def at_poll(number):
        if number == 2:
            warned.signals.append("SIGTERM")
        if number == 4:
            assert run.stop_path("train").read_text() == "SIGTERM to hpctrain"
            assert not job.stopped

    job = Job(0, polls=5, at_poll=at_poll)
    watch(run, job, warned=warned)
    assert job.number == 6


def test_a_second_signal_to_hpctrain_ends_at_once(toy_run):
    run, warned = toy_run(), Warned()
    job = Job(
        0, polls=10**6, at_poll=lambda number: warned.signals.append("SIGTERM") if number in {2, 4} else None
    )
    with pytest.raises(Stopped, match="stopped at once"):
        watch(run, job, warned=warned)
    assert job.stopped


def test_a_step_that_cannot_be_left_ends_at_the_first(toy_run):
    run, warned = toy_run(), Warned()
    warned.signals.append("SIGUSR1")
    job = Job(0, polls=10**6)
    with pytest.raises(Stopped, match="evaluate stopped at once"):
        watch(run, job, EVALUATE, warned)
    assert job.stopped
    assert not run.stop_path("evaluate").exists()


def test_a_rank_lost_while_the_whole_job_is_being_ended_is_no_failure(toy_run):
    run, warned = toy_run(), Warned()
    job = Job(
        137,
        polls=2,
        killed_by=9,
        at_poll=lambda number: warned.signals.append("SIGTERM") if number == 1 else None,
    )
    with pytest.raises(Stopped):
        watch(run, job, warned=warned)


def test_a_hang_ends_the_job_with_the_line_of_the_rank_that_noticed(toy_run):
    run = toy_run()
    note = json.dumps({"message": "hung at step 4 for 240 s; missing: rank 1 (silent, last at step 4)"})
    job = Job(
        1,
        polls=10**6,
        at_poll=lambda number: run.hang_path("train").write_text(note) if number == 2 else None,
    )
    with pytest.raises(LostRank, match=r"hung at step 4 .* missing: rank 1"):
        watch(run, job)
    assert job.stopped


def test_what_an_attempt_left_does_not_speak_for_the_next(toy_run):
    run = toy_run()
    for name in (
        "train.stop",
        "train.stopped.json",
        "train.hang.json",
        "train.rank-0.error.json",
        "train.rank-3.beat",
    ):
        (run.logs / name).write_text("{}")
    (run.logs / "evaluate.stopped.json").write_text("{}")
    clear(run, TRAIN, run.logs / "train.log")
    assert [path.name for path in run.logs.iterdir()] == ["evaluate.stopped.json"]


class Scripted:
    """A launcher whose jobs are written down."""

    ranks = 1
    engine = None

    def __init__(self, jobs):
        self.jobs, self.started = jobs, []

    def check(self, *, parallel):
        pass

    def start(self, arguments, log, *, parallel):
        self.started.append(arguments)
        return self.jobs.pop(0)


class Silent:
    def __init__(self):
        self.restarts, self.warnings = [], []

    def warned(self, text):
        self.warnings.append(text)

    def restarted(self, step, reason, attempt, attempts):
        self.restarts.append((reason, attempt, attempts))

    def __getattr__(self, name):
        return lambda *arguments: None


def generated(run: RunDirectory) -> RunDirectory:
    inputs = fingerprint("generate", run.experiment, run)
    run.finish_step("generate", {"fingerprint": inputs, "summary": {}})
    return run


def done(run):
    def write(number):
        (run.logs / "train.result.json").write_text(json.dumps({"summary": {}, "peak_memory_bytes": 1}))

    return Job(0, at_poll=write)


def test_lost_ranks_are_restarted_so_many_times(toy_run):
    run, display = generated(toy_run()), Silent()
    launcher = Scripted([Job(-9, killed_by=9), Job(-9, killed_by=9), done(run)])
    perform(run, ["train"], launcher, display, max_restarts=2)
    assert [(attempt, of) for _, attempt, of in display.restarts] == [(1, 2), (2, 2)]
    assert run.step_record("train") is not None


def test_and_not_once_more(toy_run):
    run = generated(toy_run())
    launcher = Scripted([Job(-9, killed_by=9), Job(-9, killed_by=9), done(run)])
    with pytest.raises(LostRank):
        perform(run, ["train"], launcher, Silent(), max_restarts=1)
    assert len(launcher.jobs) == 1


def test_a_mistake_of_the_user_and_a_stop_are_never_restarted(toy_run):
    run = generated(toy_run())
    note = json.dumps({"rank": 0, "user": True, "message": "a bad loss", "hint": ""})

    def tell(number):
        (run.logs / "train.rank-0.error.json").write_text(note)

    launcher = Scripted([Job(2, at_poll=tell), Job(75), done(run)])
    with pytest.raises(UserError, match="a bad loss"):
        perform(run, ["train"], launcher, Silent(), max_restarts=9)
    with pytest.raises(Stopped):
        perform(run, ["train"], launcher, Silent(), max_restarts=9)
    assert len(launcher.jobs) == 1


def test_asked_before_a_step_begins(toy_run):
    warned = Warned()
    warned.signals.append("SIGTERM")
    with pytest.raises(Stopped, match="train stopped before it began"):
        perform(generated(toy_run()), ["train"], Scripted([]), Silent(), warned=warned)


def test_stopped_while_done_again_by_force_keeps_what_is_new(toy_run):
    run = generated(toy_run())
    perform(run, ["train"], Scripted([done(run)]), Silent())
    (run.checkpoints).mkdir(exist_ok=True)
    (run.checkpoints / "old").write_text("")

    def work(number):
        run.checkpoints.mkdir(exist_ok=True)
        (run.checkpoints / "new").write_text("")

    with pytest.raises(Stopped):
        perform(run, ["train"], Scripted([Job(75, at_poll=work)]), Silent(), force=True)
    assert [path.name for path in run.checkpoints.iterdir()] == ["new"]
    perform(run, ["train"], Scripted([done(run)]), Silent())
    assert [path.name for path in run.checkpoints.iterdir()] == ["new"]
    assert not (run.path / ".before").exists()


@pytest.mark.parametrize("profile", [True, False])
def test_every_attempt_is_told_whether_to_leave_a_trace(toy_run, profile):
    run = generated(toy_run())
    run.profile = profile
    launcher = Scripted([Job(-9, killed_by=9), done(run)])
    perform(run, ["train"], launcher, Silent(), max_restarts=1)
    assert launcher.started == 2 * [["worker", "train", str(run.path), *(["--profile"] if profile else [])]]


def test_a_finished_training_has_nothing_to_profile(toy_run):
    run, display = generated(toy_run()), Silent()
    perform(run, ["train"], Scripted([done(run)]), display)
    run.checkpoints.mkdir()
    run.profile = True
    perform(run, ["train"], Scripted([]), display)
    assert display.warnings == ["train is done, so there is nothing to profile; --force does it again"]
