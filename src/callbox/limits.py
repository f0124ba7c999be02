"""Every limit by name, with its default. Nothing in callbox is unbounded."""

from __future__ import annotations

from dataclasses import dataclass, fields

from callbox.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one gate allows.

    Attributes:
        arguments_bytes_max: UTF-8 size of one call's arguments.
        arguments_depth_max: Nesting of one call's arguments (an object in an object is 2); never more than 200,
            which is what the validator below can take.
        arguments_values_max: Members and items in one call's arguments, all levels together.
        number_digits_max: Digits of one number; Python's own quadratic conversion starts to hurt at 4,300.
        problems_max: Problems reported for one call; the rest are counted.
        calls_per_turn_max: Calls that one model turn may contain.
        calls_per_run_max: Calls of one run (budget).
        turns_per_run_max: Turns with calls in one run, and requests of one run.
        run_timeout_s: Seconds that one run may take, model and tools together (budget). A session's run that is
            resumed has them anew: what passes while it waits for a person, or is down, does not count.
        tool_timeout_s: Seconds of one call whose tool does not say its own.
        concurrency_max: Calls of one gate that run at the same time.
        threads_max: Sync tools of one gate that run at the same time.
        corrections_max: Turns in a row that may contain nothing but mistakes, before the run is ended.
        result_chars_max: Characters of one result; more are cut, and the cut is said.

    Raises:
        ConfigurationError: A limit is zero or negative. Nothing would ever run, or wait for ever.
    """

    arguments_bytes_max: int = 1_000_000
    arguments_depth_max: int = 64
    arguments_values_max: int = 100_000
    number_digits_max: int = 400
    problems_max: int = 20
    calls_per_turn_max: int = 128
    calls_per_run_max: int = 1_000
    turns_per_run_max: int = 1_000
    run_timeout_s: float = 3_600.0
    tool_timeout_s: float = 60.0
    concurrency_max: int = 64
    threads_max: int = 16
    corrections_max: int = 5
    result_chars_max: int = 200_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ConfigurationError(f"Limits({field.name}={value!r}) leaves nothing.", hint="Use more than 0.")


DEFAULT_LIMITS = Limits()
