"""Training states in the folder of a run, beside files of other names."""

from __future__ import annotations

from pathlib import Path

from amd_restore.models.persistence import remove_old, saved_iterations


def test_old_states_go_and_files_of_other_names_stay(tmp_path: Path) -> None:
    for name in ("5", "10", "100", "backup"):
        (tmp_path / f"{name}.state").touch()
        (tmp_path / f"net_g_{name}.pth").touch()
    assert saved_iterations(tmp_path) == [5, 10, 100]
    remove_old(tmp_path, tmp_path, keep=2)
    assert saved_iterations(tmp_path) == [10, 100]
    assert (tmp_path / "backup.state").exists() and (tmp_path / "net_g_backup.pth").exists()
    assert not (tmp_path / "net_g_5.pth").exists()
