"""FastStream without acknowledgements: a worker that dies loses up to the 1,000 entries that it has read.

Not for jobs that matter: it is here as the upper end of what FastStream can do.
"""

from benchmarks.peers.faststream import FastStreamSide
from benchmarks.peers.side import main

if __name__ == "__main__":
    main(FastStreamSide(acknowledged=False))
