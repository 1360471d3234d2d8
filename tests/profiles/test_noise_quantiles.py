"""The χ² quantiles of the noise floors: computed once by scipy, kept in the profile, read by the server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy.stats import chi2
from support.paths import DATA
from support.servers import Served

from exporter.errors import ProfileError
from exporter.monitoring.binner import Binner
from exporter.profiles.profile_file import load, save

OLD_PROFILE = DATA / "profiles" / "without_noise_quantiles.json"
"""A profile with inputs of every type, written before profiles had quantiles."""
OLD_HASH = "4acba32dbd2cae5687a82ddf2cb2f35585788f8036ca1f8bc886ce58cfe804cd"
# What the version that wrote it computed for 50 observations of each target.
OLD_FLOORS = [
    *(0.18755189000573044, 0.18755189000573044, 0.0, 0.09221816410175548, 0.18755189000573044, 0.06770302654103347),
    *(0.1544643301865681, 0.0, 0.0, 0.0, 0.0, 0.0),
    *([0.18755189000573044] * 10),
    *(0.06770302654103347, 0.18755189000573044),
]


def floors(binner: Binner) -> list[float]:
    return binner.reference.noise(np.full(len(binner.targets), 50.0)).tolist()


def test_an_older_profile_is_read_and_has_the_same_noise_floors():
    """A profile without quantiles keeps its hash, and its noise floors equal those of the version that wrote it."""
    profile = load(OLD_PROFILE)
    assert profile.noise_quantiles is msgspec.UNSET
    assert profile.hash == profile.digest() == OLD_HASH
    binner = Binner(profile)
    assert floors(binner) == pytest.approx(OLD_FLOORS, rel=1e-9)
    assert binner.copula is not None
    values = np.random.default_rng(0).normal(size=(len(profile.correlation.features), 30))
    assert binner.copula.drift(binner.copula.sums(values)) == pytest.approx((5.893235526493141, 0.45856923631971713))


def test_saving_adds_the_quantiles_and_keeps_the_hash(tmp_path):
    """Quantiles follow from the bins, so a profile that has them counts as the same profile."""
    save(load(OLD_PROFILE), tmp_path / "new.json")
    profile = load(tmp_path / "new.json")
    assert profile.hash == OLD_HASH
    assert set(profile.quantiles()) >= {1, 3, 6, 10, 12}
    assert len(profile.noise_quantiles) == len(profile.quantiles())
    for degrees, quantile in profile.quantiles().items():
        assert quantile == pytest.approx(chi2.ppf(0.99, degrees), rel=1e-12)
    assert floors(Binner(profile)) == floors(Binner(load(OLD_PROFILE)))


def test_a_removed_quantile_is_computed_again(tmp_path):
    """A profile that was edited by hand has all its noise floors."""
    save(load(OLD_PROFILE), tmp_path / "new.json")
    document = json.loads((tmp_path / "new.json").read_text())
    del document["noise_quantiles"]["12"]
    (tmp_path / "new.json").write_text(json.dumps(document))
    assert floors(Binner(load(tmp_path / "new.json"))) == pytest.approx(OLD_FLOORS, rel=1e-9)


@pytest.mark.parametrize("quantiles", [{"0": 1.0}, {"1": 0.0}, {"1": "many"}, {"one": 6.6}])
def test_impossible_quantiles_are_refused(tmp_path, quantiles):
    """Degrees of freedom are at least 1, and a quantile is a positive number."""
    document = json.loads(OLD_PROFILE.read_text()) | {"noise_quantiles": quantiles}
    (tmp_path / "p.json").write_text(json.dumps(document))
    with pytest.raises(ProfileError, match=r"p\.json: noise_quantiles"):
        load(tmp_path / "p.json")


def loads_scipy(folder: Path) -> bool:
    """Whether a server of this profile, after predictions and a scrape, has loaded scipy's libraries."""
    (folder / "exporter.yml").write_text("models: [{name: credit, profile: credit.json}]\n")
    server = Served(folder).start()
    try:
        server.post("/v1/predictions", [{"model": "credit", "inputs": {"age": age, "income": 3e3}} for age in range(9)])
        while not any(server.samples("model_feature_kl_divergence_noise").values()):
            pass
        return "/scipy/" in Path(f"/proc/{server.process.pid}/maps").read_text()
    finally:
        server.stop()


def test_serving_imports_no_scipy(tmp_path):
    """A server of a profile with quantiles never imports scipy; with an older profile it does."""
    save(load(OLD_PROFILE), tmp_path / "credit.json")
    assert not loads_scipy(tmp_path)
    shutil.copy(OLD_PROFILE, tmp_path / "credit.json")
    assert loads_scipy(tmp_path)


def test_checking_a_configuration_imports_no_scipy(tmp_path):
    """Commands that read profiles do not import scipy if the profiles have quantiles."""
    save(load(OLD_PROFILE), tmp_path / "credit.json")
    (tmp_path / "exporter.yml").write_text("models: [{name: credit, profile: credit.json}]\n")
    code = "import sys; from exporter.cli import main; main(sys.argv[1:]); assert 'scipy' not in sys.modules"
    arguments = ["check-config", f"--config.file={tmp_path / 'exporter.yml'}"]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, timeout=60)
