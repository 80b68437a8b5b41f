import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.errors import UserError
from hpctrain.parallel.meeting import expand_hosts, meeting_point

STEP = {"SLURM_JOB_ID": "5", "SLURM_STEP_ID": "0", "SLURM_JOB_NODELIST": "node[1-4]"}


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("node1", ["node1"]),
        ("node[1-2]", ["node1", "node2"]),
        ("nid[00098-00101]", ["nid00098", "nid00099", "nid00100", "nid00101"]),
        ("a[1,3-4],b,c[09-10].site", ["a1", "a3", "a4", "b", "c09.site", "c10.site"]),
        ("rack[1-2]n[01-02]", ["rack1n01", "rack1n02", "rack2n01", "rack2n02"]),
        ("login-1,n-[1-2]", ["login-1", "n-1", "n-2"]),
    ],
)
def test_host_lists(text, hosts):
    assert expand_hosts(text) == hosts


def test_ten_thousand_hosts():
    hosts = expand_hosts("nid[00001-09600]")
    assert (len(hosts), hosts[0], hosts[-1]) == (9600, "nid00001", "nid09600")


@pytest.mark.parametrize("text", ["", "a[1-", "a1]", "a[3-1]", "a[]", "a[x]", "a,,b", ",a", "a[1,]"])
def test_what_is_not_a_host_list(text):
    with pytest.raises(UserError, match="is not a list of hosts"):
        expand_hosts(text)


def test_slurm_says_where_and_the_step_goes_before_the_job():
    host, port = meeting_point(STEP)
    assert host == "node1"
    assert 20_000 <= port < 32_000
    assert meeting_point({**STEP, "SLURM_STEP_NODELIST": "node[3-4]"})[0] == "node3"


@given(st.integers(1, 2**31), st.integers(0, 200), st.integers(1, 5000))
def test_jobs_and_steps_side_by_side_meet_apart(job, step, later):
    def port(job, step):
        return meeting_point({**STEP, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})[1]

    assert 20_000 <= port(job, step) < 32_000
    assert port(job, step) != port(job + later, step)
    assert port(job, step) != port(job, step + 1)


def test_what_was_given_goes_before_slurm():
    assert meeting_point({**STEP, "MASTER_ADDR": "head", "MASTER_PORT": "29500"}) == ("head", 29500)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "MASTER_ADDR is not set"),
        ({"MASTER_ADDR": "head"}, "MASTER_PORT is not set"),
        ({**STEP, "MASTER_PORT": "29500"}, "MASTER_ADDR is not set"),
        ({"MASTER_ADDR": "head", "MASTER_PORT": "many"}, "MASTER_PORT is 'many'"),
        ({"MASTER_ADDR": "head", "MASTER_PORT": "70000"}, "MASTER_PORT is '70000'"),
        ({k: v for k, v in STEP.items() if k != "SLURM_JOB_ID"}, "SLURM_JOB_ID is not set"),
        ({**STEP, "SLURM_STEP_ID": "batch"}, "SLURM_STEP_ID is 'batch'"),
        ({k: v for k, v in STEP.items() if k != "SLURM_STEP_ID"}, "MASTER_ADDR is not set"),
    ],
)
def test_half_an_address_is_an_error_that_names_the_variable(environment, message):
    with pytest.raises(UserError, match=message):
        meeting_point(environment)
