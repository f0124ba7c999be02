import lzma
import stat
import struct

import pytest

from callbox.errors import ImageError, SandboxNotFound
from callbox.sandboxes.images import cpio
from callbox.sandboxes.images.kernel import MODULES, guest_kernel, prune_kernels, setup_kernel
from callbox.sandboxes.images.modules import resolve


def fake_module(needs=""):
    """An ELF file with nothing but what a module says of itself."""
    names = b"\0.modinfo\0.shstrtab\0"
    info = b"license=GPL\0depends=" + needs.encode() + b"\0name=x\0"
    header = struct.Struct("<IIQQQQIIQQ")
    names_at = 64 + len(info)
    sections = header.pack(*[0] * 10) + header.pack(1, 1, 0, 0, 64, len(info), 0, 0, 1, 0)
    sections += header.pack(10, 3, 0, 0, names_at, len(names), 0, 0, 1, 0)
    kind = struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, names_at + len(names), 0, 64, 0, 0, 64, 3, 2)
    return b"\x7fELF\x02\x01\x01" + bytes(9) + kind + info + names + sections


@pytest.fixture
def package(tmp_path):
    """A kernel's package, unpacked: some modules packed, some with dependencies, some built in."""
    tree = tmp_path / "package"
    modules = tree / "lib" / "modules" / "6.1.0-test" / "kernel"
    modules.mkdir(parents=True)
    (tree / "boot").mkdir()
    (tree / "boot" / "vmlinuz-6.1.0-test").write_bytes(b"kernel")
    needs = {"virtio_ring": "", "virtio": "virtio_ring", "virtio_mmio": "virtio,virtio_ring", "overlay": ""}
    for name in ("virtio_blk", "virtio_console", "virtio-rng"):
        needs[name] = "virtio_ring,virtio"
    for name, wanted in needs.items():
        (modules / f"{name}.ko.xz").write_bytes(lzma.compress(fake_module(wanted)))
    (modules.parent / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\nkernel/drivers/char/rng-core.ko\n")
    return tree


@pytest.fixture
def agent(tmp_path):
    path = tmp_path / "agent"
    path.write_bytes(b"#!agent one")
    return path


def read_cpio(data):
    """What Linux would find: name -> (mode, content)."""
    found, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = data[at + 110 : at + 110 + fields[11] - 1].decode()
        at += (110 + fields[11] + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (fields[1], data[at : at + fields[6]])
        at += (fields[6] + 3) // 4 * 4


def test_without_setup_there_is_no_kernel(tmp_path):
    with pytest.raises(SandboxNotFound, match="callbox setup"):
        guest_kernel(tmp_path)


def test_the_initramfs_has_agent_and_modules_in_load_order(tmp_path, package, agent):
    assert setup_kernel(tmp_path / "images", source=package) == "6.1.0-test"
    kernel = guest_kernel(tmp_path / "images", agent=agent)
    assert kernel.vmlinuz.read_bytes() == b"kernel"
    files = read_cpio(kernel.initramfs.read_bytes())
    assert files["init"] == (stat.S_IFREG | 0o755, b"#!agent one")
    order = files["modules/order"][1].decode().split()
    assert order == sorted(order, key=order.index)
    assert order.index("virtio_ring.ko") < order.index("virtio.ko") < order.index("virtio_mmio.ko")
    assert {f"modules/{name}" for name in order} <= files.keys()
    assert {name.removesuffix(".ko") for name in order} == (set(MODULES) - {"ext4"}) | {"virtio", "virtio_ring"}
    assert files["modules/overlay.ko"][1] == fake_module()


def test_a_new_agent_gets_a_new_initramfs_and_the_old_one_stays(tmp_path, package, agent):
    setup_kernel(tmp_path / "images", source=package)
    before = guest_kernel(tmp_path / "images", agent=agent)
    assert guest_kernel(tmp_path / "images", agent=agent) == before
    agent.write_bytes(b"#!agent two")
    after = guest_kernel(tmp_path / "images", agent=agent)
    assert after.digest != before.digest
    assert read_cpio(after.initramfs.read_bytes())["init"][1] == b"#!agent two"
    assert before.initramfs.exists()
    assert not list(after.initramfs.parent.glob(".tmp-*"))


def test_setup_again_keeps_what_machines_use(tmp_path, package, agent):
    setup_kernel(tmp_path / "images", source=package)
    kernel = guest_kernel(tmp_path / "images", agent=agent)
    setup_kernel(tmp_path / "images", source=package, force=True)
    assert guest_kernel(tmp_path / "images", agent=agent) == kernel
    assert kernel.initramfs.exists()


def test_pruning_keeps_what_a_saved_machine_needs(tmp_path, package, agent, monkeypatch):
    monkeypatch.setattr("callbox.sandboxes.images.kernel.agent_binary", lambda: agent)
    monkeypatch.setattr("callbox.sandboxes.images.kernel.agent_digest", lambda: "0" * 16)
    setup_kernel(tmp_path / "images", source=package)
    needed = guest_kernel(tmp_path / "images", agent=agent)
    agent.write_bytes(b"#!agent two")
    unused = guest_kernel(tmp_path / "images", agent=agent)
    prune_kernels(tmp_path / "images", {needed.digest})
    assert needed.initramfs.exists()
    assert not unused.initramfs.exists()
    assert guest_kernel(tmp_path / "images").initramfs.exists()


def test_a_missing_module_is_named(tmp_path, package):
    (package / "lib/modules/6.1.0-test/kernel/overlay.ko.xz").unlink()
    with pytest.raises(ImageError, match="no module overlay"):
        setup_kernel(tmp_path / "images", source=package)
    with pytest.raises(SandboxNotFound):
        guest_kernel(tmp_path / "images")


@pytest.mark.parametrize("content", [b"", b"\x7fELF\x02\x01", b"\x7fELF\x02\x01" + b"\xff" * 80, b"MZ" * 100])
def test_a_damaged_module_is_an_error(tmp_path, content):
    (tmp_path / "bad.ko").write_bytes(content)
    with pytest.raises(ImageError):
        resolve(tmp_path, ("bad",))


def test_modules_in_a_circle_are_an_error(tmp_path):
    (tmp_path / "a.ko").write_bytes(fake_module("b"))
    (tmp_path / "b.ko").write_bytes(fake_module("a"))
    with pytest.raises(ImageError, match="a -> b -> a"):
        resolve(tmp_path, ("a",))


def test_a_package_without_kernel_or_modules_says_so(tmp_path, package):
    with pytest.raises(ImageError, match="vmlinuz"):
        setup_kernel(tmp_path / "images", source=tmp_path)
    (package / "lib/modules/6.1.0-test").rename(package / "lib/modules/other")
    with pytest.raises(ImageError, match="no modules"):
        setup_kernel(tmp_path / "images", source=package)


def test_equal_entries_give_equal_archives():
    entries = [cpio.folder("a"), cpio.file("a/b", b"12345"), cpio.Entry("c", stat.S_IFCHR | 0o600, device=(5, 1))]
    assert cpio.archive(entries) == cpio.archive(list(entries))
    assert read_cpio(cpio.archive(entries))["a/b"] == (stat.S_IFREG | 0o644, b"12345")
    assert len(cpio.archive(entries)) % 4 == 0
