import gzip
import re

import pytest
import zstandard

from hpctrain.convert.hepmc_files import HepMcInput
from hpctrain.errors import UserError

REAL = "hard-scatter-3.hepmc3.zst"


@pytest.fixture
def text(real):
    return zstandard.ZstdDecompressor().decompressobj().decompress(real(REAL).read_bytes())


def read(path):
    with HepMcInput(path) as file:
        return [
            (event.event_number, len(event.particles), event.event_pos().x) for event in file
        ], file.progress


def sizes(path):
    return [particles for _, particles, _ in read(path)[0]]


@pytest.fixture
def put(tmp_path):
    def write(data, name="a.hepmc3"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def test_plain_gzip_and_zstd_are_told_by_their_bytes(real, text, put):
    expected = sizes(real(REAL))
    assert len(expected) == 3
    compress = zstandard.ZstdCompressor().compress
    half = text.index(b"\nE ", len(text) // 2) + 1
    for data in (text, gzip.compress(text), compress(text), compress(text[:half]) + compress(text[half:])):
        assert sizes(put(data)) == expected
    assert read(real(REAL))[1] == 1.0


def test_files_put_together_are_read_to_the_end(real, text, put):
    assert sizes(put(text + text)) == sizes(real(REAL)) * 2


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, lambda t: zstandard.ZstdCompressor().compress(t)])
def test_files_that_are_cut_are_refused(text, put, keep, compress, capfd):
    data = compress(text.removesuffix(b"HepMC::Asciiv3-END_EVENT_LISTING\n\n"))
    path = put(data[: int(keep * len(data))])
    with pytest.raises(
        UserError, match=r"a\.hepmc3 is damaged after \d events?: .*copy it again|a\.hepmc3: event \d"
    ):
        sizes(path)
    assert capfd.readouterr().err.count("\n") < 4


def test_a_flipped_byte_in_compressed_data(text, put):
    for data in (gzip.compress(text), zstandard.ZstdCompressor(write_checksum=True).compress(text)):
        damaged = bytearray(data)
        damaged[len(damaged) // 2] ^= 0xFF
        with pytest.raises(UserError, match=r"a\.hepmc3 is damaged after"):
            sizes(put(damaged))


def test_a_lost_particle_is_missed(text, put):
    start = text.index(b"\nP ", len(text) // 2)
    stop = text.index(b"\n", start + 1)
    with pytest.raises(
        UserError, match=r"a\.hepmc3 is damaged after 1 event: the next event has \d+ of its \d+ particles"
    ):
        sizes(put(text[:start] + text[stop:]))


def damaged(text, letter, column, word):
    """The text with another word in that column of the middle one of its lines of that letter."""
    lines = text.split(b"\n")
    mine = [number for number, line in enumerate(lines) if line.startswith(letter + b" ")]
    words = lines[mine[len(mine) // 2]].split()
    words[column : column + 1] = [word] if word else []
    lines[mine[len(mine) // 2]] = b" ".join(words)
    return b"\n".join(lines)


@pytest.mark.parametrize(
    ("letter", "column", "word", "message"),
    [
        (b"P", 4, b"hello", "1 damaged particle line$"),
        (b"P", 9, b"", "1 damaged particle line$"),
        (b"P", 1, b"x", "1 damaged particle line$"),
        (b"U", 1, b"TEV", "1 damaged unit line$"),
        (b"V", 3, b"1,2", "1 damaged vertex line$"),
        (b"E", 3, b"-3", "a first line without numbers of vertices and particles$"),
    ],
)
def test_damaged_lines_are_found_and_not_taken_for_zeros(put, text, letter, column, word, message, capfd):
    path = put(damaged(text, letter, column, word))
    with pytest.raises(UserError) as caught:
        sizes(path)
    assert re.search(message, caught.value.message)
    assert "damaged after" in caught.value.message
    assert capfd.readouterr().out == ""  # pyhepmc has not seen it


def test_the_last_line_must_be_whole(put, text):
    """Without its line feed the last particle's status may have lost digits."""
    whole = text.removesuffix(b"HepMC::Asciiv3-END_EVENT_LISTING\n\n").rstrip() + b"\n"
    assert len(sizes(put(whole))) == 3
    with pytest.raises(
        UserError, match=r"damaged after 2 events: the next event has 1 damaged particle line"
    ):
        sizes(put(whole[:-1]))


def test_lines_that_are_rare_but_right(put, text):
    inf = damaged(text, b"P", 4, b"-inf")
    assert sizes(put(inf)) == sizes(put(text.replace(b"\n", b"\r\n"))) == sizes(put(text))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"HepMC::Version 2.06\nHepMC::IO_GenEvent-START_EVENT_LISTING\n",
            r"a\.hepmc3 is HepMC2\. HepMC3 in ASCII",
        ),
        (b"<LesHouchesEvents>\n", r"a\.hepmc3 is no HepMC3 ASCII"),
        (gzip.compress(b"nothing of the kind", mtime=0), r"a\.hepmc3 is no HepMC3 ASCII"),
        (b"\x28\xb5\x2f\xfd\x00", r"a\.hepmc3 is damaged after 0 events"),
    ],
)
def test_other_formats_are_told_at_once(put, data, message):
    with pytest.raises(UserError, match=message):
        sizes(put(data))
