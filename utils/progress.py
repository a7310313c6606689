"""Progress: a bar in a terminal; elsewhere, as in a batch system's log, a line at the beginning, every half minute and
at the end."""

import sys

from tqdm import tqdm

SECONDS = 30


class Lines(tqdm):
    """tqdm's bar without a terminal: a line each time, in place of one that is drawn over itself."""

    def __init__(self, *arguments, **options):
        # As a graphical bar it leaves all that is written to `display`.
        super().__init__(*arguments, gui=True, mininterval=SECONDS, miniters=1, **options)
        if not self.disable:
            self.display()

    def display(self, msg=None, pos=None):
        print(self if msg is None else msg, file=self.fp, flush=True)

    def close(self):
        # The last that __init__ sets: a signal may have stopped it, and what is left is closed all the same.
        if not hasattr(self, "start_t"):
            return
        if not self.disable and self.n != self.last_print_n:
            self.display()
        super().close()


def bar(*arguments, silent: bool = False, **options) -> tqdm:
    """What tqdm(*arguments, **options) is here; `silent` for all processes but one."""
    if silent:
        options["disable"] = True
    return tqdm(*arguments, dynamic_ncols=True, **options) if sys.stderr.isatty() else Lines(*arguments, **options)
