"""The stop flag: which signals wait, which raise, and whose handlers stay."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from maml_rl.system.stop_flag import StopFlag, StopSignal, signals_held


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    """As in a process that nothing has configured, such as one under nohup."""
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_raises_at_once_unless_deferred(number: int) -> None:
    with pytest.raises(KeyboardInterrupt) as stopped, StopFlag().handling():
        signal.raise_signal(number)
    assert isinstance(stopped.value, StopSignal)
    assert stopped.value.number == number


def raised(block: Callable[[], Any]) -> int | None:
    """The signal for which a block raises, if any."""
    try:
        block()
    except StopSignal as stop:
        return stop.number
    return None


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_waits_for_a_check(number: int) -> None:
    flag, reached = StopFlag(), []

    def block() -> None:
        with flag.handling(), flag.deferred():
            flag.check()
            signal.raise_signal(number)
            reached.append("after the signal")
            flag.check()
            reached.append("after the check")

    assert raised(block) == number
    assert reached == ["after the signal"]


def test_the_first_signal_waits_for_the_end_of_the_block_at_the_latest() -> None:
    flag, reached = StopFlag(), []

    def block() -> None:
        with flag.handling():
            with flag.deferred():
                signal.raise_signal(signal.SIGTERM)
                reached.append("end")
            reached.append("after it")

    assert raised(block) == signal.SIGTERM
    assert reached == ["end"]


def test_the_second_signal_raises_at_once() -> None:
    flag, reached = StopFlag(), []

    def block() -> None:
        with flag.handling(), flag.deferred():
            signal.raise_signal(signal.SIGTERM)
            reached.append("after the first")
            signal.raise_signal(signal.SIGINT)
            reached.append("after the second")

    assert raised(block) == signal.SIGINT
    assert reached == ["after the first"]
    assert flag.number == signal.SIGTERM


@pytest.mark.parametrize("is_early", [False, True])
def test_an_immediate_block_does_not_wait(is_early: bool) -> None:
    flag, reached = StopFlag(), []

    def block() -> None:
        with flag.handling(), flag.deferred():
            if is_early:
                signal.raise_signal(signal.SIGTERM)
            with flag.immediate():
                reached.append("within")
                signal.raise_signal(signal.SIGTERM)
                reached.append("after the signal")

    assert raised(block) == signal.SIGTERM
    assert reached == ([] if is_early else ["within"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_raised_in_del_is_not_lost() -> None:
    class Deleted:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    flag, reached = StopFlag(), []

    def block() -> None:
        with flag.handling():
            Deleted()
            reached.append("ignored by Python")
            flag.check()

    assert raised(block) == signal.SIGTERM
    assert reached == ["ignored by Python"]


def test_held_signals_are_delivered_after_the_block() -> None:
    flag, reached = StopFlag(), []

    def block() -> None:
        with flag.handling():
            with signals_held():
                signal.raise_signal(signal.SIGHUP)
                signal.raise_signal(signal.SIGINT)
                reached.append(flag.number)
            reached.append("after the block")

    assert raised(block) == signal.SIGHUP
    assert reached == [None]
    assert flag.number == signal.SIGHUP


def test_held_signals_do_not_replace_an_error_of_the_block() -> None:
    flag = StopFlag()

    def block() -> None:
        with signals_held():
            signal.raise_signal(signal.SIGTERM)
            raise ValueError("of the block")

    with flag.handling(), pytest.raises(ValueError, match="of the block"):
        block()
    assert flag.number is None


def test_a_handler_of_the_user_stays_and_can_be_held() -> None:
    received: list[Any] = []
    for number in NUMBERS:
        signal.signal(number, lambda number, frame: received.append(number))
    flag = StopFlag()
    with flag.handling():
        for number in NUMBERS:
            signal.raise_signal(number)
        with signals_held():
            signal.raise_signal(signal.SIGTERM)
            assert received == NUMBERS
    assert received == [*NUMBERS, signal.SIGTERM]
    assert flag.number is None


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    flag = StopFlag()
    with flag.handling(), signals_held():
        signal.raise_signal(signal.SIGHUP)
    assert flag.number is None


def test_the_handlers_from_before_come_back() -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    with pytest.raises(ZeroDivisionError), StopFlag().handling(), signals_held():
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_another_thread_handles_no_signal() -> None:
    problems: list[BaseException] = []

    def work() -> None:
        try:
            flag = StopFlag()
            with flag.handling(), flag.deferred(), signals_held():
                flag.check()
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert problems == []


def test_ctrl_c_is_answered_and_other_signals_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    for number, line in ((signal.SIGINT, "\nstopping\n"), (signal.SIGTERM, "")):
        flag = StopFlag("stopping")
        with pytest.raises(StopSignal), flag.handling(), flag.deferred():
            signal.raise_signal(number)
        assert capsys.readouterr().err == line
