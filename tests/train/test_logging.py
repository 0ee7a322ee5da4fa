"""What a run writes about itself."""

import json

from mmjax.train.logging import RunLog


def test_a_line_that_a_kill_cut_short_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step, cut in ((1, ""), (2, '{"step": 2, "lo'), (3, "")):
        log = RunLog(tmp_path, steps=3, batch_size=1, tensorboard=False)
        log.write(step, {"loss": 1.0})
        log.close()
        path.write_text(path.read_text() + cut)
    lines = path.read_text().splitlines()
    assert [json.loads(lines[i])["step"] for i in (0, 1, 3)] == [1, 2, 3] and lines[2] == '{"step": 2, "lo'
