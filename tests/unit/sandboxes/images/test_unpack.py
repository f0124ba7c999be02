import gzip
import io
import os
import tarfile

import pytest

from callbox.errors import ImageError
from callbox.sandboxes.images.limits import ImageLimits
from callbox.sandboxes.images.unpack import TreeWriter


def entry(name, kind, target="", **fields):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def unpack(root, *archives, **limits):
    writer = TreeWriter(root, limits=ImageLimits(**limits))
    for archive in archives:
        writer.add(archive, whiteouts=True)
    writer.finish()
    return writer


@pytest.fixture
def outside(tmp_path):
    """What lies on the host, and must be as it was afterwards."""
    path = tmp_path / "host"
    path.mkdir()
    (path / "secret").write_text("the host's")
    yield path
    assert sorted(each.name for each in path.iterdir()) == ["secret"]
    assert (path / "secret").read_text() == "the host's"


def test_files_folders_links_modes_and_times_arrive(tmp_path, make_tar):
    tar = make_tar(
        tmp_path / "a.tar",
        [
            (entry("bin", tarfile.DIRTYPE, mode=0o555, mtime=1_000), None),
            (entry("bin/tool", tarfile.REGTYPE, mode=0o4755, mtime=2_000), b"hello"),
            (entry("bin/again", tarfile.LNKTYPE, "bin/tool"), None),
            (entry("sh", tarfile.SYMTYPE, "bin/tool"), None),
        ],
    )
    unpack(tmp_path / "root", tar)
    tool = tmp_path / "root" / "bin" / "tool"
    assert tool.read_text() == "hello"
    assert tool.stat().st_mode & 0o7777 == 0o4755
    assert tool.stat().st_mtime == 2_000
    assert (tmp_path / "root" / "bin" / "again").stat().st_ino == tool.stat().st_ino
    assert (tmp_path / "root" / "sh").readlink().as_posix() == "bin/tool"
    assert (tmp_path / "root" / "bin").stat().st_mode & 0o7777 == 0o555
    assert (tmp_path / "root" / "bin").stat().st_mtime == 1_000


@pytest.mark.parametrize("name", ["../host/evil", "a/../../host/evil", "/../host/evil", ".."])
def test_names_that_lead_up_are_refused(tmp_path, outside, make_tar, name):
    with pytest.raises(ImageError, match="leaves the image"):
        unpack(tmp_path / "root", make_tar(tmp_path / "a.tar", [(name, b"x")]))


def test_absolute_names_begin_at_the_image(tmp_path, make_tar):
    unpack(tmp_path / "root", make_tar(tmp_path / "a.tar", [("/etc/passwd", b"box")]))
    assert (tmp_path / "root" / "etc" / "passwd").read_text() == "box"


@pytest.mark.parametrize("absolute", [True, False])
def test_a_file_beneath_a_symlink_to_the_host_stays_in_the_image(tmp_path, outside, make_tar, absolute):
    target = str(outside) if absolute else "../host"
    tar = make_tar(tmp_path / "a.tar", [(entry("out", tarfile.SYMTYPE, target), None), ("out/secret", b"evil")])
    unpack(tmp_path / "root", tar)
    inside = str(outside).lstrip("/") if absolute else "host"
    assert (tmp_path / "root" / inside / "secret").read_text() == "evil"


def test_a_file_in_place_of_a_symlink_does_not_write_through_it(tmp_path, outside, make_tar):
    link = entry("it", tarfile.SYMTYPE, str(outside / "secret"))
    unpack(tmp_path / "root", make_tar(tmp_path / "a.tar", [(link, None), ("it", b"evil")]))
    assert not (tmp_path / "root" / "it").is_symlink()
    assert (tmp_path / "root" / "it").read_text() == "evil"


def test_hard_links_to_the_host_are_refused(tmp_path, outside, make_tar):
    for number, target in enumerate([str(outside / "secret"), "out/secret"]):
        tar = make_tar(
            tmp_path / f"{number}.tar",
            [(entry("out", tarfile.SYMTYPE, str(outside)), None), (entry("mine", tarfile.LNKTYPE, target), None)],
        )
        with pytest.raises(ImageError, match="no file of the image"):
            unpack(tmp_path / f"root{number}", tar)


def test_a_hard_link_to_a_symlink_links_the_symlink(tmp_path, outside, make_tar):
    symlink = entry("s", tarfile.SYMTYPE, str(outside / "secret"))
    tar = make_tar(tmp_path / "a.tar", [(symlink, None), (entry("h", tarfile.LNKTYPE, "s"), None), ("h", b"x")])
    unpack(tmp_path / "root", tar)
    assert (tmp_path / "root" / "h").read_text() == "x"


def test_the_root_itself_keeps_being_a_folder(tmp_path, outside, make_tar):
    tar = make_tar(tmp_path / "a.tar", [(entry(".", tarfile.SYMTYPE, str(outside)), None), ("secret", b"x")])
    unpack(tmp_path / "root", tar)
    assert (tmp_path / "root" / "secret").read_text() == "x"


def test_symlinks_in_a_circle_are_refused(tmp_path, make_tar):
    links = [(entry("a", tarfile.SYMTYPE, "b"), None), (entry("b", tarfile.SYMTYPE, "a"), None), ("a/x", b"")]
    with pytest.raises(ImageError, match="too many symlinks"):
        unpack(tmp_path / "root", make_tar(tmp_path / "a.tar", links))


def test_devices_and_pipes_are_left_out_and_said(tmp_path, make_tar):
    kinds = {"disk": tarfile.BLKTYPE, "mem": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE}
    tar = make_tar(tmp_path / "a.tar", [(entry(f"dev/{name}", kind), None) for name, kind in kinds.items()])
    writer = unpack(tmp_path / "root", tar)
    assert writer.skipped == ["dev/disk", "dev/mem", "dev/pipe"]
    assert list((tmp_path / "root").rglob("*")) == []


def test_whiteouts_hide_what_lower_layers_had(tmp_path, make_tar):
    lower = make_tar(tmp_path / "1.tar", [("a/x", b"1"), ("a/y", b"1"), ("b/z", b"1"), ("keep", b"1")])
    upper = make_tar(tmp_path / "2.tar", [("a/.wh.x", b""), (".wh.b", b""), (".wh..wh.plnk", b"")])
    unpack(tmp_path / "root", lower, upper)
    found = sorted(str(each.relative_to(tmp_path / "root")) for each in (tmp_path / "root").rglob("*"))
    assert found == ["a", "a/y", "keep"]


@pytest.mark.parametrize("first", [True, False])
def test_an_opaque_folder_keeps_only_what_its_layer_wrote(tmp_path, make_tar, first):
    lower = make_tar(tmp_path / "1.tar", [("d/old", b"1"), ("d/sub/old", b"1"), ("d/gone/old", b"1")])
    written = [("d/new", b"2"), ("d/sub/new", b"2")]
    mark = [("d/.wh..wh..opq", b"")]
    unpack(tmp_path / "root", lower, make_tar(tmp_path / "2.tar", mark + written if first else written + mark))
    found = sorted(str(each.relative_to(tmp_path / "root")) for each in (tmp_path / "root").rglob("*"))
    assert found == ["d", "d/new", "d/sub", "d/sub/new"]


def test_a_whiteout_through_a_symlink_hides_nothing_of_the_host(tmp_path, outside, make_tar):
    lower = make_tar(tmp_path / "1.tar", [(entry("out", tarfile.SYMTYPE, str(outside)), None)])
    upper = make_tar(tmp_path / "2.tar", [("out/.wh.secret", b""), ("out/.wh..wh..opq", b"")])
    unpack(tmp_path / "root", lower, upper)


@pytest.mark.parametrize("name", [".wh.", ".wh...", "a/.wh.."])
def test_a_whiteout_of_nothing_is_refused(tmp_path, make_tar, name):
    with pytest.raises(ImageError, match="hides nothing"):
        unpack(tmp_path / "root", make_tar(tmp_path / "a.tar", [(name, b"")]))


def test_too_many_bytes_end_it_before_they_are_written(tmp_path, make_tar):
    tar = make_tar(tmp_path / "a.tar", [("a", b"x" * 600), ("b", b"x" * 600)])
    with pytest.raises(ImageError, match="more than 1,000 bytes"):
        unpack(tmp_path / "root", tar, unpacked_bytes_max=1_000)
    assert not (tmp_path / "root" / "b").exists()


def test_too_many_entries_end_it(tmp_path, make_tar):
    tar = make_tar(tmp_path / "a.tar", [(f"f{number}", b"") for number in range(11)])
    with pytest.raises(ImageError, match="more than 10 entries"):
        unpack(tmp_path / "root", tar, entries_max=10)


def test_a_header_of_gigabytes_never_reaches_memory(tmp_path):
    info = entry("x", tarfile.XHDTYPE)
    info.size = 4 * 1024**3
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as out:
        out.write(info.tobuf())
        for _ in range(16):
            out.write(b"\0" * 1024**2)
    with pytest.raises(ImageError, match="header of more than"):
        unpack(tmp_path / "root", tmp_path / "a.tar.gz")


@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_that_was_cut_off_is_damaged(tmp_path, make_tar, packed):
    tar = make_tar(tmp_path / "a.tar", [("a", os.urandom(50_000))], "w:gz" if packed else "w")
    tar.write_bytes(tar.read_bytes()[:20_000])
    with pytest.raises(ImageError, match="damaged"):
        unpack(tmp_path / "root", tar)


def test_what_is_no_archive_is_damaged(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"not a tar at all" * 100)
    with pytest.raises(ImageError, match="damaged"):
        unpack(tmp_path / "root", tmp_path / "a.tar")


def test_zstd_layers_unpack_where_the_package_is_there(tmp_path, make_tar):
    zstandard = pytest.importorskip("zstandard")
    raw = make_tar(tmp_path / "a.tar", [("a", b"1")]).read_bytes()
    (tmp_path / "a.tar.zst").write_bytes(zstandard.ZstdCompressor().compress(raw))
    unpack(tmp_path / "root", tmp_path / "a.tar.zst")
    assert (tmp_path / "root" / "a").read_text() == "1"


def test_impossible_owners_are_refused(tmp_path):
    info = entry("a", tarfile.REGTYPE, uid=2**40)
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO())
    with pytest.raises(ImageError, match="cannot be"):
        unpack(tmp_path / "root", tmp_path / "a.tar")


def test_without_root_owners_are_remembered_instead_of_set(tmp_path, make_tar, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)
    tar = make_tar(tmp_path / "a.tar", [(entry("work", tarfile.DIRTYPE, uid=1_000, gid=1_000, mode=0o755), None)])
    writer = TreeWriter(tmp_path / "root")
    writer.add(tar)
    assert writer.finish() == {"work": (1_000, 1_000)}
    assert (tmp_path / "root" / "work").stat().st_uid == os.getuid()
