"""What a fit says of itself, in words and as a record."""

import json

import numpy as np

from ntk_dist import NTKRegressor, stax
from ntk_dist.model import FitReport

NET = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))


def test_reports_of_earlier_versions_are_read():
    x = np.random.default_rng(1).normal(size=(30, 3))
    report = NTKRegressor(NET).fit(x, x[:, 0]).report_
    record = json.loads(json.dumps(report.to_dict()))
    assert record["gram"]["n_repaired"] == 0
    assert FitReport.from_dict(record).to_dict() == report.to_dict()
    del record["gram"]["n_repaired"]
    assert FitReport.from_dict(record).gram == report.gram
    record["gram"]["n_mended"] = 3
    earlier = FitReport.from_dict(record)
    assert earlier.gram.n_repaired == 3
    assert "3 stored blocks or batches of statistics were found lost" in str(earlier)
