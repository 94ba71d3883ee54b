import io

from firstlight.observe.console import Console, evaluation_lines, step_line

RECORD = {
    "step": 20,
    "loss": 5.1234,
    "loss/lm": 4.8,
    "loss/mtp": 5.02,
    "loss/balance": 1.02,
    "learning_rate": 9.8e-4,
    "grad_norm": 0.87,
    "tokens_per_second": 3214.4,
    "step_seconds": 0.637,
    "mfu": 0.41,
    "memory_bytes": 1.2e9,
    "eta_seconds": 92.3,
    "skipped_steps": 0,
}


def test_step_line_has_every_part_with_its_unit() -> None:
    assert step_line(RECORD, total_steps=4000) == (
        "step   20/4000  loss  5.1234  (lm 4.80 mtp 5.02 balance 1.02)  lr 9.8e-04  grad 0.87  "
        "3,214 tok/s  637 ms/step  mfu 41%  mem 1.2 GB  eta 1m32s"
    )


def test_parts_that_do_not_exist_are_left_out() -> None:
    record = {"step": 400, "loss": 5.1234, "loss/lm": 5.1234, "eta_seconds": 0.0}
    assert step_line(record, total_steps=400) == "step 400/400  loss  5.1234"


def test_skipped_steps_and_expert_load_are_said() -> None:
    line = step_line({**RECORD, "skipped_steps": 2, "expert_load/max_vio": 0.354}, total_steps=400)
    assert "  max_vio 0.35  skipped 2  " in line


def test_lines_of_one_run_have_the_same_length() -> None:
    lines = [step_line({**RECORD, "step": step}, total_steps=400) for step in (1, 20, 400)]
    assert len({len(line) for line in lines}) == 1


def test_evaluation_line() -> None:
    record = {
        "step": 400,
        "evaluate/stdlib/loss": 3.21,
        "evaluate/stdlib/perplexity": 24.779,
        "evaluate/stdlib/bits_per_byte": 1.2301,
        "evaluate/wiki/loss": 4.0,
    }
    assert evaluation_lines(record) == [
        "step 400  held-out stdlib: loss 3.2100  perplexity 24.78  1.230 bits/byte",
        "step 400  held-out wiki: loss 4.0000",
    ]


def test_a_pipe_gets_plain_lines() -> None:
    stream = io.StringIO()
    sink = Console(total_steps=400, stream=stream)
    sink.open(0)
    sink.write_step(RECORD)
    sink.write_evaluation({"step": 20, "evaluate/wiki/loss": 4.0})
    sink.close()
    first, second = stream.getvalue().splitlines()
    assert first == step_line(RECORD, total_steps=400)
    assert second == "step 20  held-out wiki: loss 4.0000"


def test_a_terminal_gets_the_line_whole_and_a_panel() -> None:
    stream = io.StringIO()
    sink = Console(total_steps=400, stream=stream, is_terminal=True)
    sink.open(10)
    sink.write_step(RECORD)
    sink.close()
    assert step_line(RECORD, total_steps=400) in stream.getvalue()
    assert "step 20 of 400" in stream.getvalue()
