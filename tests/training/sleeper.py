"""What each process of test_elastic.py runs: `siamscope train`, in which rank 1 falls asleep in its second measurement.

Its process lives and beats; only its main thread is late.
"""

import os
import sys
import time

from siamscope import cli
from siamscope.training.monitor import Monitor

if __name__ == "__main__":
    real = Monitor.measure

    def measure(self, model, step, *rest):
        if step and os.environ["RANK"] == "1":
            time.sleep(300)
        return real(self, model, step, *rest)

    Monitor.measure = measure
    sys.exit(cli.run(sys.argv[1:]))
