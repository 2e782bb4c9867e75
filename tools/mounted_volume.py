"""A folder written as the kubelet writes a mounted ConfigMap, Secret or projected volume.

Nothing here is a kubelet; it is the same steps in the same order (Kubernetes' AtomicWriter), so that whoever watches
the folder sees the same events: a new folder named by the time, `..data_tmp` as a symlink to it, a rename of that over
`..data`, links for names that are new, and the old folder removed. A file's own path is never written.
"""

import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

DATA = "..data"


def write_volume(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Make `files` (names, without folders) the content of a mounted volume; return whether anything changed."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / DATA
    old = data.resolve() if data.is_symlink() else None
    if old is not None and {path.name: path.read_bytes() for path in old.iterdir()} == dict(files):
        return False
    target = Path(tempfile.mkdtemp(prefix=datetime.now(UTC).strftime("..%Y_%m_%d_%H_%M_%S."), dir=folder))
    target.chmod(0o755)
    for name, content in files.items():
        (target / name).write_bytes(content)
    staged = folder / "..data_tmp"
    staged.symlink_to(target.name)
    staged.replace(data)
    links = {path.name for path in folder.iterdir() if not path.name.startswith("..")}
    for name in files.keys() - links:
        (folder / name).symlink_to(Path(DATA) / name)
    for name in links - files.keys():
        (folder / name).unlink()
    if old is not None:
        shutil.rmtree(old)
    return True
