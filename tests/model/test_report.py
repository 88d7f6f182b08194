"""What a fit says of itself, in words and as a record."""

import json
from dataclasses import replace

import numpy as np

from ntk_dist import NTKRegressor, events, stax
from ntk_dist.events import CompileEvent
from ntk_dist.model import FitReport
from ntk_dist.tasks import GramTask

NET = stax.serial(stax.Dense(1, 2**0.5, 0.1), stax.Relu(), stax.Dense(1))


def test_reports_are_read_again():
    x = np.random.default_rng(1).normal(size=(30, 3))
    report = NTKRegressor(NET).fit(x, x[:, 0]).report_
    record = json.loads(json.dumps(report.to_dict()))
    assert record["gram"]["n_repaired"] == 0
    assert FitReport.from_dict(record).to_dict() == report.to_dict()
    record["gram"]["n_repaired"] = 3
    repaired = FitReport.from_dict(record)
    assert "3 stored blocks or batches of statistics were found lost" in str(repaired)


def test_what_compiling_took_is_told_once_for_each_engine(monkeypatch):
    compute = GramTask.__call__

    def compiling(task, index):
        for seconds in (2.0, 3.0, 2.5):  # processes that do it beside each other
            events.report(CompileEvent(engine="dense engine", seconds=seconds, host="here"))
        events.report(CompileEvent(engine="other engine", seconds=0.5, host="here"))
        return compute(task, index)

    x = np.random.default_rng(1).normal(size=(30, 3))
    assert "compiled" not in str(replace(NTKRegressor(NET).fit(x, x[:, 0]).report_, compile_s=0.0))
    monkeypatch.setattr(GramTask, "__call__", compiling)
    heard = []
    report = NTKRegressor(NET).fit(x, x[:, 0], on_event=heard.append).report_
    assert report.compile_s >= 3.5  # that of this process may be one of them
    assert sum(isinstance(event, CompileEvent) for event in heard) >= 4
    assert f"{report.compile_s:.1f} s of that compiled engines" in str(report)
