import re

from firstlight.observe.mindformers_lines import RunSize, graph_mode_lines, pynative_line

SIZE = RunSize(total_steps=625, global_batch_size=8, num_devices=4, flops_per_token=1e9)
RECORD = {
    "step": 25,
    "samples": 200,
    "loss": 11.812345,
    "loss/lm": 10.5,
    "loss/mtp": 11.25,
    "loss/balance": 1.5,
    "learning_rate": 2.2e-5,
    "grad_norm": 1.2345,
    "step_seconds": 0.5,
    "tokens_per_second": 8192.0,
    "eta_seconds": 3723.4,
    "skipped_steps": 0,
}


def test_lines_of_graph_mode() -> None:
    step, progress = graph_mode_lines(RECORD, SIZE)
    assert step == (
        "{ Epoch:[  1/  1], step:[   25/  625], loss: 11.812345, lm_loss: 10.500000, load_balancing_loss: 1.500000, "
        "mtp_loss: 11.250000, per_step_time: 500ms, lr: 2.2e-05, overflow cond: False, loss_scale: 1.0, "
        "global_norm: [1.2345], train_throughput_per_npu: 2.048T"
    )
    assert progress == "   4.0% |" + "██" + " " * 48 + "| 4.00000 samples/s/p  1:02:03 }"


def test_line_of_pynative_mode() -> None:
    assert pynative_line(RECORD, SIZE) == (
        "{ step:[   25/  625], consumed_samples: 200, global_batch_size: 8, loss:  11.812345, per_step_time:    500ms, "
        "load_balancing_loss:   1.500000, mtp_1_loss:  11.250000, lr: 2.200000e-05, grad_norm:   1.234500, "
        "throughput: 2.05T }"
    )


def test_a_dense_model_has_one_loss_and_a_skipped_step_is_an_overflow() -> None:
    record = {name: value for name, value in RECORD.items() if not name.startswith("loss/")} | {"skipped_steps": 1}
    step, _ = graph_mode_lines(record, SIZE)
    assert "loss: 11.812345, per_step_time" in step
    assert "overflow cond: True" in step


def test_a_parser_of_their_logs_reads_ours() -> None:
    """The expression with which log parsers find steps and losses."""
    step, _ = graph_mode_lines(RECORD, SIZE)
    found = re.search(r"step:\[\s*(\d+)/\s*(\d+)\], loss: ([\d.]+).*?global_norm: \[([\d.]+)\]", step)
    assert found is not None
    assert found.groups() == ("25", "625", "11.812345", "1.2345")
