import pickle

from hpctrain.errors import UserError


def test_message_and_hint_make_one_line():
    assert str(UserError("no file x.yaml", hint="Write one")) == "no file x.yaml. Write one"
    assert str(UserError("no file x.yaml")) == "no file x.yaml"


def test_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(UserError("what", hint="cure")))
    assert (error.message, error.hint) == ("what", "cure")
