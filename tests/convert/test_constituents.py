import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.convert.constituents import constituents
from hpctrain.data.columns import RaggedRows
from hpctrain.errors import UserError

EVENT = st.integers(0, 3).flatmap(
    lambda jets: st.integers(0, 5).flatmap(
        lambda candidates: st.tuples(
            st.just(jets),
            st.just(candidates),
            st.lists(
                st.tuples(st.integers(-1, jets - 1) if jets else st.just(-1), st.integers(0, candidates - 1)),
                max_size=6,
            )
            if candidates
            else st.just([]),
        )
    )
)


@given(events=st.lists(EVENT, min_size=1, max_size=5), direct=st.booleans())
def test_every_link_gives_one_constituent_of_its_jet(events, direct):
    rng = np.random.default_rng(0)
    if direct:  # the table's rows are the candidates
        events = [(jets, len(links), [(j, i) for i, (j, _) in enumerate(links)]) for jets, _, links in events]
    jets = RaggedRows.from_lists([np.ones((n, 4)) for n, _, _ in events], shape=(4,))
    candidates = RaggedRows.from_lists([rng.random((n, 2)) for _, n, _ in events], shape=(2,))
    columns = [
        RaggedRows.from_lists([[p[k] for p in links] for _, _, links in events], dtype=np.int32)
        for k in (0, 1)
    ]
    found = constituents(jets, candidates, columns[0], None if direct else columns[1], "f")
    expected = []
    for number, (count, _, links) in enumerate(events):
        own = candidates.values[candidates.offsets[number] : candidates.offsets[number + 1]]
        expected += [
            sorted((own[c].tolist() for j, c in links if j == jet), reverse=True) for jet in range(count)
        ]
    assert len(found) == len(jets.values)
    for row, wanted in enumerate(expected):
        values = found.values[found.offsets[row] : found.offsets[row + 1]].tolist()
        assert sorted(values, reverse=True) == wanted
        assert [v[0] for v in values] == sorted((v[0] for v in values), reverse=True)


@pytest.mark.parametrize(
    ("jet", "candidate", "message"),
    [
        ([[0], [1]], [[0], [0]], r"f: a link leads to jet 1 of an event with 1"),
        ([[0], [0]], [[0], [3]], r"f: a link leads to candidate 3 of an event with 2"),
    ],
)
def test_links_into_nothing_are_refused(jet, candidate, message):
    jets = RaggedRows.from_lists([np.ones((1, 4))] * 2, shape=(4,))
    candidates = RaggedRows.from_lists([np.ones((2, 2))] * 2, shape=(2,))
    links = [RaggedRows.from_lists(column, dtype=np.int32) for column in (jet, candidate)]
    with pytest.raises(UserError, match=message):
        constituents(jets, candidates, *links, "f")
