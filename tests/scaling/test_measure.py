from PIL import Image

from hpctrain.scaling.curve import table
from hpctrain.scaling.figure import draw
from hpctrain.scaling.measure import measure


def test_a_run_is_really_trained_on_each_size_and_left_alone(toy_run, tmp_path):
    run = toy_run()
    before = sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*"))
    points = measure(run, [1, 2], tmp_path / "scratch", weak=True, epochs=2, repetitions=1)
    assert [point.ranks for point in points] == [1, 2]
    assert all(len(point.samples_per_second) == 2 and min(point.samples_per_second) > 0 for point in points)
    assert sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*")) == before
    assert "global_batch_size: 64" in (tmp_path / "scratch" / "2-ranks-0" / "config.yaml").read_text()
    picture = draw(table(points), tmp_path / "curve.png", title="toy")
    assert Image.open(picture).size[0] > 500
