"""Ctrl-C while a command's modules are imported: the system ends the process, without a traceback.

The imports take most of a second. So this one comes before all others, and needs next to nothing itself.
"""

import signal
import sys


def is_command() -> bool:
    """Whether the program is numbanorm itself, and not one that imports it."""
    words: list[str] = getattr(sys, "argv", None) or [""]
    if words[0] != "-m":  # which it is while a package is imported to be run
        return words[0].replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".exe") == "numbanorm"
    module = sys.orig_argv[-len(words)]
    return module == "numbanorm" or (module.startswith("-") and module.endswith("mnumbanorm"))


def replace_handler(old: object, new: object) -> bool:
    """Have another handler of Ctrl-C in place of `old`, if that is the one, and this thread may say so."""
    if signal.getsignal(signal.SIGINT) is not old:
        return False
    try:
        signal.signal(signal.SIGINT, new)  # type: ignore[arg-type]
    except ValueError:  # not the main thread
        return False
    return True


QUIET = is_command() and replace_handler(signal.default_int_handler, signal.SIG_DFL)  # until `signals.interruptible`
